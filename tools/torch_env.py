"""A virtual environment with another torch release, to test the range that pyproject.toml allows on a CPU.

    python -m tools.torch_env 2.11.0      makes .torch/2.11.0 if necessary, and prints its Python

On Linux, PyPI's wheel is built for CUDA and depends on 2 to 3 GB of GPU libraries, which a CPU never calls but the
loader requires. So only the wheel is downloaded (0.5 GB, 1.4 GB installed), and every missing library is replaced by a
stub with functions of the required names that abort. It is for tests only: CUDA does not work in it.

Environment: MTM_TORCH_ENVS, the folder for these environments, instead of .torch in the repository.
Exit code 3 if the release is not available.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
REQUIRED = "filelock typing-extensions sympy networkx jinja2 fsspec setuptools numpy pytest hypothesis".split()
UNAVAILABLE = 3
# Names of the GPU libraries' functions.
_GPU_SYMBOL = re.compile(r"(cu|nccl|nvrtc|nvshmem|nvtx|nvJit)\w+", re.IGNORECASE)


class UnavailableError(RuntimeError):
    """The environment could not be made. The message says what failed."""


def environment(version: str) -> Path:
    """The Python of the environment with torch `version`, made if it is not there. Raises UnavailableError."""
    folder = Path(os.environ.get("MTM_TORCH_ENVS") or ROOT / ".torch") / version
    python = folder / "bin" / "python"
    if (folder / ".ready").exists():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    print(f"torch_env: making {folder}: 0.5 GB to download", file=sys.stderr, flush=True)
    venv.create(folder, with_pip=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-cache-dir"]
    _run([*pip, "--no-deps", f"torch=={version}"])
    _run([*pip, "-c", str(ROOT / "requirements.txt"), *REQUIRED])
    (libraries,) = folder.glob("lib/python*/site-packages/torch/lib")
    _stand_in(libraries)
    _run([str(python), "-c", "import torch; torch.ones(2, 2) @ torch.ones(2, 2)"])
    (folder / ".ready").touch()
    return python


def _run(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise UnavailableError(f"{command[0]} cannot be run: {error}") from error
    if done.returncode:
        raise UnavailableError(
            f"{' '.join(command[:6])} ... failed (exit {done.returncode}):\n{done.stderr.strip()[-2000:]}"
        )
    return done.stdout


def _stand_in(libraries: Path) -> None:
    """Writes a stub for every missing library that those in the folder need."""
    own = sorted(libraries.glob("*.so*"))
    missing = {
        line.split()[0] for library in own for line in _run(["ldd", str(library)]).splitlines() if "not found" in line
    }
    if not missing:
        return
    wanted = {
        name
        for library in own
        for line in _run(["nm", "-D", "--undefined-only", str(library)]).splitlines()
        if _GPU_SYMBOL.fullmatch(name := line.split()[-1].partition("@")[0])
    }
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "stand_in.c"
        source.write_text("void abort(void);\n" + "".join(f"void {name}(void) {{ abort(); }}\n" for name in wanted))
        for name in sorted(missing):
            # Every stub gets all functions: finding out which library needs which of them is not worth it.
            _run(["cc", "-shared", "-fPIC", f"-Wl,-soname,{name}", str(source), "-o", str(libraries / name)])


def main(arguments: Sequence[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m tools.torch_env VERSION", file=sys.stderr)
        return 2
    try:
        print(environment(arguments[0]))
    except UnavailableError as error:
        print(f"torch_env: torch {arguments[0]} is not available here: {error}", file=sys.stderr)
        return UNAVAILABLE
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
