def why_not_native(device):
    return "the native kernel is being written."
