"""The GPU that measurements and GPU tests run on; python -m tools.gpu NAME fails with one line if there is none."""

import sys

import torch

from mtm_ops import _build


def why_no_gpu() -> str | None:
    """None if torch can use an NVIDIA GPU, else the reason."""
    if torch.version.cuda is None:
        return f"this torch ({torch.__version__}) is built without CUDA"
    if not torch.cuda.is_available():
        return f"torch has CUDA {torch.version.cuda}, but found no GPU or driver"
    return None


def require(name: str) -> str:
    """The GPU and versions in one line; SystemExit with one line if `name` cannot run without a GPU."""
    reason = why_no_gpu()
    if reason is not None:
        raise SystemExit(f"{name}: needs an NVIDIA GPU; {reason}. Nothing was run.")
    if _build.find_nvcc() is None:
        raise SystemExit(
            f"{name}: needs nvcc to build the CUDA kernel, and found none; set CUDA_HOME. Nothing was run."
        )
    device = torch.cuda.get_device_properties(0)
    return (
        f"{device.name}, {device.total_memory >> 30} GiB, sm_{device.major}{device.minor}, torch {torch.__version__}, "
        f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    )


if __name__ == "__main__":
    print(require(" ".join(sys.argv[1:]) or "tools.gpu"))
