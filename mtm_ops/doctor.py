"""python -m mtm_ops.doctor: which implementation runs here, and why not a faster one.

Exit code 0 when the CPU kernel works, 1 when the reference would be used instead.
"""

import os
import platform
import sys

import torch

from . import __version__, _build, _library

# The environment variables that _build reads.
_VARIABLES = ("CXX", "CUDA_HOME", "CUDA_PATH", "TORCH_CUDA_ARCH_LIST", "MTM_CACHE_DIR")
_NO_COMPILER = ("none found. Install one (Debian: apt install g++).",)


def _line(ok: bool, what: str, text: str) -> str:
    return f"  {'ok' if ok else '--':4}{what:12}{text}"


def _cpu_lines() -> tuple[bool, list[str]]:
    try:
        compiler = _build.find_compiler()
        lines = [_line(compiler is not None, "compiler", " ".join(compiler or _NO_COMPILER))]
    except _build.BuildError as error:
        lines = [_line(False, "compiler", str(error))]
    reason = _library.why_not_native("cpu")
    if reason is not None:
        return False, [*lines, _line(False, "CPU kernel", reason)]
    library = _build.load_cpu()
    threads = f"OpenMP, {torch.get_num_threads()} threads" if library.threads_built_in() else "one thread, no OpenMP"
    lines.append(_line(True, "CPU kernel", f"{_build.library_path(library)} ({threads})"))
    if not library.threads_built_in():
        lines.append(_line(False, "OpenMP", "the compiler has none; with g++, the kernel uses all of torch's threads."))
    return True, lines


def _cuda_line() -> str:
    if torch.version.cuda is None:
        return _line(False, "CUDA", "this torch is built without it.")
    if not torch.cuda.is_available():
        return _line(False, "CUDA", f"torch has CUDA {torch.version.cuda}, but no GPU or driver was found.")
    reason = _library.why_not_native("cuda")
    if reason is not None:
        return _line(False, "CUDA", reason)
    path = _build.library_path(_build.load_cuda(torch.cuda.get_device_capability()))
    return _line(True, "CUDA", f"{path} for {torch.cuda.get_device_name()}")


def impl_used(device: str) -> str:
    """The implementation that impl="auto" selects on a device type: "native" or "reference"."""
    usable = device != "cuda" or torch.cuda.is_available()
    return "native" if usable and _library.why_not_native(device) is None else "reference"


def report() -> tuple[bool, str]:
    """(whether the CPU kernel works, the report as text)."""
    cpu_ok, cpu = _cpu_lines()
    head = f"mtm_ops {__version__}, torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}"
    lines = [head, *cpu, _cuda_line(), "", 'What impl="auto" uses:']
    lines += [f"  {device:6}{impl_used(device)}" for device in ("cpu", "cuda")]
    set_ = {name: os.environ[name] for name in _VARIABLES if os.environ.get(name)}
    shown = ", ".join(f"{name}={value}" for name, value in set_.items())
    lines += ["", f"Environment: {shown or 'none of ' + ', '.join(_VARIABLES) + ' is set'}"]
    return cpu_ok, "\n".join(lines)


if __name__ == "__main__":
    works, text = report()
    print(text)
    sys.exit(0 if works else 1)
