"""Reading a host's network pickle, with one line where it cannot be read."""

from typing import Any

from mtm_hosts.hosts import fail, module


def read(path: str) -> dict[str, Any]:
    """What the host's legacy.py makes of the pickle at `path` (a file or an address): G, D, G_ema and more.

    Raises:
        SystemExit: naming the file and why, e.g. where it is truncated.
    """
    try:
        with module("dnnlib.util").open_url(path, verbose=False) as file:
            return module("legacy").load_network_pkl(file)
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to say
        fail(
            f"--resume: cannot read {path} as a network pickle: {type(error).__name__}: {error}. It is truncated, or "
            "not one. Pass an earlier snapshot."
        )
