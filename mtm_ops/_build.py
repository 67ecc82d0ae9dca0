"""Builds the native kernels at first use, and loads them. Importing this builds nothing.

A build is one compiler call of a second or two. Its result is cached under a key made of everything that it depends
on, so a stale binary is never loaded. The cache is safe among processes: one builds under a lock that the operating
system drops when its holder dies (a lock file left by a killed build means nothing), the others wait; binaries appear
by atomic rename, so a half-written one is never seen.

Environment: CXX (the compiler), MTM_CACHE_DIR (where binaries and build logs go).
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

CSRC = Path(__file__).parent / "csrc"
COMPILE_TIMEOUT_S = 600
_BASE_FLAGS = tuple(
    "-O3 -std=c++17 -fPIC -shared -fopenmp-simd -fno-math-errno -fno-trapping-math -ffp-contract=fast".split()
)
# First what is fastest, then with less: not every compiler knows its own CPU, or has OpenMP.
_FLAG_CHOICES = (("-march=native", "-fopenmp"), ("-fopenmp",), ("-march=native",), ())


class BuildError(RuntimeError):
    """The native kernel could not be had. The message says why, what to do, and names the log where there is one."""


def find_compiler() -> str | None:
    """Path of the C++ compiler: $CXX if set, else the first of c++, g++, clang++ on PATH; None if there is none."""
    named = os.environ.get("CXX")
    names = [named.split()[0]] if named else ["c++", "g++", "clang++"]
    return next((path for name in names if (path := shutil.which(name))), None)


def cache_dir() -> Path:
    """Where binaries are kept: $MTM_CACHE_DIR, else mtm_ops in the user's cache folder."""
    if named := os.environ.get("MTM_CACHE_DIR"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mtm_ops"


@functools.cache
def load_cpu() -> ctypes.CDLL:
    """The CPU kernels, built if the cache does not hold them. Raises BuildError; a failure is remembered."""
    result = _load_or_error()
    if isinstance(result, BuildError):
        raise result
    return result


@functools.cache
def _load_or_error() -> ctypes.CDLL | BuildError:
    try:
        return _load(_usable_cache_dir())
    except BuildError as error:
        return error


def library_path(library: ctypes.CDLL) -> str:
    """The file that a loaded library came from."""
    return library._name


def _load(folder: Path) -> ctypes.CDLL:
    compiler = find_compiler()
    if compiler is None:
        wanted = os.environ.get("CXX") or "c++, g++ or clang++"
        raise BuildError(f"no C++ compiler found: looked for {wanted}. Install one (Debian: apt install g++).")
    library = folder / f"cpu-{_cache_key(compiler)}.so"
    for attempt in ("cached or built", "rebuilt"):
        if not library.exists():
            with _lock(library.with_suffix(".lock")):
                if not library.exists():  # else another process built it while this one waited
                    _compile(compiler, library)
        try:
            return _open(library)
        except OSError as error:
            # A truncated file from a full disk or a broken copy of the cache: build it once more.
            library.unlink(missing_ok=True)
            if attempt == "rebuilt":
                raise BuildError(
                    f"{library} was built but cannot be loaded: {error}. If its folder forbids execution, set "
                    "MTM_CACHE_DIR to one that does not."
                ) from error
    raise AssertionError("unreachable")


def _open(library: Path) -> ctypes.CDLL:
    cdll = ctypes.CDLL(str(library))
    if not hasattr(cdll, "sample_params_size"):
        raise OSError("it is not an mtm_ops kernel library")
    return cdll


def _cache_key(compiler: str) -> str:
    """Hash of all that the binary depends on. The CPU is part of it: homes are shared among unlike machines."""
    parts = [source.name + "\n" + source.read_text() for source in sorted(CSRC.glob("*.[ch]*"))]
    parts += [repr(_BASE_FLAGS), repr(_FLAG_CHOICES), torch.__version__, str(torch.version.cuda)]
    parts += [platform.machine(), _cpu_features(), compiler, _compiler_version(compiler)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _cpu_features() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.lower().startswith(("flags", "features"))), platform.processor())


def _compiler_version(compiler: str) -> str:
    try:
        return subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"the C++ compiler {compiler} does not run: {error}. Set CXX to one that does.") from error


def _usable_cache_dir() -> Path:
    """The cache folder, or one of this user's in the temporary folder where the first cannot be written."""
    fallback = Path(tempfile.gettempdir()) / f"mtm_ops-{os.getuid() if hasattr(os, 'getuid') else 'cache'}"
    errors = []
    for folder in (cache_dir(), fallback):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Code is loaded from here: nobody else may be able to put it there.
            if folder == fallback and hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
                raise PermissionError(f"{folder} belongs to another user")
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError as error:
            errors.append(str(error))
    raise BuildError(f"no folder for the built kernel can be written ({'; '.join(errors)}). Set MTM_CACHE_DIR to one.")


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on `path`, saying so when another process holds it."""
    try:
        import fcntl
    except ImportError:  # no such locks on this system; the atomic rename still keeps the cache whole
        yield
        return
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("mtm_ops: waiting for another process that builds the kernel", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            pass  # a file system without locks
        yield


def _compile(compiler: str, library: Path) -> None:
    log_path = library.with_suffix(".log")
    print(f"mtm_ops: building the CPU kernel with {compiler}", end=" ", file=sys.stderr, flush=True)
    start_s, log = time.monotonic(), ""
    try:
        for flags in _FLAG_CHOICES:
            with tempfile.TemporaryDirectory(dir=library.parent, prefix=".build-") as scratch:
                built = Path(scratch) / library.name
                command = [compiler, *_BASE_FLAGS, *flags, str(CSRC / "cpu.cpp"), "-o", str(built)]
                ok, output = _run(command)
                log += f"$ {' '.join(command)}\n{output}\n"
                if ok and built.exists():
                    log_path.write_text(log)
                    os.replace(built, library)
                    print(f"({time.monotonic() - start_s:.1f} s, once)", file=sys.stderr, flush=True)
                    return
        log_path.write_text(log)
    except OSError as error:
        raise BuildError(f"the kernel could not be built in {library.parent}: {error}.") from error
    print("failed", file=sys.stderr, flush=True)
    said = [line for line in log.splitlines() if "error" in line.lower() and not line.startswith("$")]
    why = said[0] if said else "it gave no error message"
    raise BuildError(f"the C++ compiler {compiler} failed: {why}. The whole log is {log_path}.")


def _run(command: Sequence[str]) -> tuple[bool, str]:
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=COMPILE_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return False, f"error: no result after {COMPILE_TIMEOUT_S} s"
    return done.returncode == 0, done.stdout
