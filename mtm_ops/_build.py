"""Builds the native kernels at first use, and loads them. Importing this module builds nothing.

A build is one compiler call: one or two seconds for the CPU, under a minute for CUDA. Its result is cached under a
key computed from everything it depends on, so a stale binary is never loaded. The cache is safe for concurrent
processes: one builds under a lock that the operating system releases when its holder dies (a lock file left by a killed
build has no effect), and the others wait. Binaries appear by atomic rename, so a partial one is never seen.

Environment: CXX (the C++ compiler), CUDA_HOME (the CUDA toolkit), TORCH_CUDA_ARCH_LIST (architectures to build for,
instead of this machine's GPU), MTM_CACHE_DIR (where binaries and build logs go).
"""

import ctypes
import functools
import hashlib
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

CSRC = Path(__file__).parent / "csrc"
COMPILE_TIMEOUT_S = 600


class BuildError(RuntimeError):
    """The native kernel is not available. The message says why and what to do, and names the log if there is one."""


@dataclass(frozen=True)
class Recipe:
    """How one kernel library is built."""

    name: str  # begins the file's name, and appears in messages
    compiler: tuple[str, ...]  # a command, possibly with a launcher such as ccache
    source: str
    flags: tuple[str, ...]
    choices: tuple[tuple[str, ...], ...]  # sets of additional flags; the first one that compiles is used
    target: str  # the processor the code is for, if the flags do not say


_CPU_FLAGS = tuple(
    "-O3 -std=c++17 -fPIC -shared -fopenmp-simd -fno-math-errno -fno-trapping-math -ffp-contract=fast".split()
)
# The fastest flags first: not every compiler supports -march=native or OpenMP.
_CPU_CHOICES = (("-march=native", "-fopenmp"), ("-fopenmp",), ("-march=native",), ())
# No fast-math: it would change coordinates. The CUDA runtime is linked statically, and shares torch's context.
_CUDA_FLAGS = tuple("-O3 -std=c++17 -shared -Xcompiler -fPIC --threads 4 -cudart static".split())


def cpu_recipe() -> Recipe:
    """Raises BuildError if there is no C++ compiler."""
    compiler = find_compiler()
    if compiler is None:
        wanted = os.environ.get("CXX") or "c++, g++ or clang++"
        raise BuildError(f"no C++ compiler found: looked for {wanted}. Install one (Debian: apt install g++).")
    # The CPU is part of the key, because machines with different CPUs may share a home folder.
    return Recipe("cpu", compiler, "cpu.cpp", _CPU_FLAGS, _CPU_CHOICES, platform.machine() + _cpu_features())


def cuda_recipe(capability: tuple[int, int]) -> Recipe:
    """For a device of this compute capability, or for TORCH_CUDA_ARCH_LIST if set. Raises BuildError without nvcc."""
    nvcc = find_nvcc()
    if nvcc is None:
        raise BuildError(
            "no nvcc found: looked in $CUDA_HOME/bin, on PATH and in /usr/local/cuda/bin. "
            f"Install the CUDA toolkit, version {torch.version.cuda or '12 or newer'}, or set CUDA_HOME."
        )
    arch_list = os.environ.get("TORCH_CUDA_ARCH_LIST", "")
    flags = (*_CUDA_FLAGS, *(arch_flags(arch_list) or arch_flags("{}.{}".format(*capability))))
    return Recipe(f"cuda-sm{capability[0]}{capability[1]}", (nvcc,), "cuda.cu", flags, ((),), "")


def arch_flags(arch_list: str) -> list[str]:
    """nvcc's flags for a list such as "8.0 9.0+PTX", separated by spaces or semicolons like TORCH_CUDA_ARCH_LIST."""
    flags = []
    for arch in arch_list.replace(";", " ").split():
        number = arch.removesuffix("+PTX").replace(".", "")
        if not re.fullmatch(r"\d+\.\d[af]?(\+PTX)?", arch):
            raise BuildError(
                f"TORCH_CUDA_ARCH_LIST must list compute capabilities such as '8.0 9.0+PTX'; got {arch!r} in "
                f"{arch_list!r}. Correct it, or unset it to build for this machine's GPU."
            )
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if arch.endswith("+PTX"):
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


def find_compiler() -> tuple[str, ...] | None:
    """The C++ compiler as a command: $CXX if set (it may begin with a launcher, "ccache g++"), else the first of c++,
    g++ and clang++ on PATH; None if there is none. Raises BuildError for a $CXX that is not a command."""
    try:
        named = shlex.split(os.environ.get("CXX", ""))
    except ValueError as error:
        raise BuildError(f"CXX must be a command such as 'ccache g++'; got {os.environ['CXX']!r} ({error}).") from None
    choices = [named] if named else [["c++"], ["g++"], ["clang++"]]
    return next(((path, *words[1:]) for words in choices if (path := shutil.which(words[0]))), None)


def find_nvcc() -> str | None:
    """Path of nvcc: in $CUDA_HOME (or $CUDA_PATH), on PATH, or in the toolkit's default folder; None if not found."""
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    places = [*(os.path.join(home, "bin", "nvcc") for home in homes), "nvcc", "/usr/local/cuda/bin/nvcc"]
    return next((path for place in places if (path := shutil.which(place))), None)


def cache_dir() -> Path | None:
    """Folder for the binaries: $MTM_CACHE_DIR, else mtm_ops in the user's cache folder; None without a home folder."""
    if named := os.environ.get("MTM_CACHE_DIR"):
        return Path(named)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mtm_ops"
    except RuntimeError:  # for example a container's user without a passwd entry
        return None


@functools.cache
def load_cpu() -> ctypes.CDLL:
    """The CPU kernels, built if they are not in the cache. Raises BuildError, which later calls raise again."""
    return _remembered(None)


def load_cuda(capability: tuple[int, int]) -> ctypes.CDLL:
    """The CUDA kernels for a device of this compute capability; otherwise like load_cpu."""
    return _remembered(capability)


def _remembered(capability: tuple[int, int] | None) -> ctypes.CDLL:
    result = _load_or_error(capability)
    if isinstance(result, BuildError):
        raise result
    return result


@functools.cache
def _load_or_error(capability: tuple[int, int] | None) -> ctypes.CDLL | BuildError:
    try:
        recipe = cpu_recipe() if capability is None else cuda_recipe(capability)
        folder = cache_dir()
        # A read-only folder, for example in a container, may still hold the library.
        if folder is None or not _is_whole(_library_file(recipe, folder)):
            folder = _usable_cache_dir()
        return _load(recipe, folder)
    except BuildError as error:
        return error
    except (OSError, UnicodeError) as error:  # UnicodeError: a path that is not UTF-8
        return BuildError(f"the kernel could not be built or loaded: {error}. Set MTM_CACHE_DIR to a folder of yours.")


def library_path(library: ctypes.CDLL) -> str:
    """The file that a loaded library came from."""
    return library._name


def _load(recipe: Recipe, folder: Path) -> ctypes.CDLL:
    library = _library_file(recipe, folder)
    for attempt in ("cached or built", "rebuilt"):
        if not _is_whole(library):
            with _lock(library.with_suffix(".lock")):
                if not _is_whole(library):  # else another process built it while this one waited
                    _compile(recipe, library)
        try:
            return ctypes.CDLL(str(library))
        except OSError as error:
            with suppress(OSError):  # a read-only folder
                library.unlink(missing_ok=True)
            if attempt == "rebuilt" or library.exists():
                raise BuildError(
                    f"{library} was built but cannot be loaded: {error}. If its folder forbids execution, set "
                    "MTM_CACHE_DIR to one that does not."
                ) from error
    raise AssertionError("unreachable")


def _library_file(recipe: Recipe, folder: Path) -> Path:
    return folder / f"{recipe.name}-{_cache_key(recipe)}.so"


def _is_whole(library: Path) -> bool:
    """Whether the file is complete, by its hash. Loading a partial library can kill the process."""
    try:
        return library.with_suffix(".sha256").read_text() == _file_hash(library)
    except OSError:
        return False


def _file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _cache_key(recipe: Recipe) -> str:
    """Hash of everything the binary depends on."""
    parts = [source.name + "\n" + source.read_text() for source in sorted(CSRC.iterdir())]
    parts += [repr(recipe), torch.__version__, str(torch.version.cuda), _compiler_version(recipe.compiler)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _cpu_features() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.lower().startswith(("flags", "features"))), platform.processor())


def _compiler_version(compiler: Sequence[str]) -> str:
    try:
        return subprocess.run([*compiler, "--version"], capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(
            f"the compiler {shlex.join(compiler)} does not run: {error}. Set CXX, or CUDA_HOME."
        ) from error


def _usable_cache_dir() -> Path:
    """The cache folder, or, if it cannot be written, a folder of this user's in the temporary folder."""
    try:
        fallback = Path(tempfile.gettempdir()) / f"mtm_ops-{os.getuid() if hasattr(os, 'getuid') else 'cache'}"
    except OSError:  # no temporary folder at all
        fallback = None
    errors = []
    for folder in filter(None, (cache_dir(), fallback)):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Code is loaded from here, so no other user may be able to write to it.
            if folder == fallback and hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
                raise PermissionError(f"{folder} belongs to another user")
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError as error:
            errors.append(str(error))
    raise BuildError(f"no folder for the built kernel can be written ({'; '.join(errors)}). Set MTM_CACHE_DIR to one.")


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on `path`; prints a line while another process holds it."""
    try:
        import fcntl
    except ImportError:  # this system has no such locks; the atomic rename still keeps the cache consistent
        yield
        return
    try:
        opened = path.open("w")
    except OSError as error:  # for example, it belongs to another user
        raise BuildError(
            f"the lock {path} cannot be opened: {error}. Remove it, or set MTM_CACHE_DIR to a folder of yours."
        ) from error
    with opened as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("mtm_ops: waiting for another process that builds the kernel", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            pass  # a file system without locks
        yield


def _compile(recipe: Recipe, library: Path) -> None:
    log_path = library.with_suffix(".log")
    compiler = shlex.join(recipe.compiler)
    print(f"mtm_ops: building the {recipe.name.upper()} kernel with {compiler}", end=" ", file=sys.stderr, flush=True)
    start_s, log = time.monotonic(), ""
    try:
        for choice in recipe.choices:
            with tempfile.TemporaryDirectory(dir=library.parent, prefix=".build-") as scratch:
                built = Path(scratch) / library.name
                source = str(CSRC / recipe.source)
                command = [*recipe.compiler, *recipe.flags, *choice, source, "-o", str(built)]
                ok, output = _run(command)
                log += f"$ {' '.join(command)}\n{output}\n"
                if ok and built.exists():
                    log_path.write_text(log)
                    _publish(built, library)
                    print(f"({time.monotonic() - start_s:.1f} s, once)", file=sys.stderr, flush=True)
                    return
        log_path.write_text(log)
    except OSError as error:
        raise BuildError(f"the kernel could not be built in {library.parent}: {error}.") from error
    print("failed", file=sys.stderr, flush=True)
    said = [line for line in log.splitlines() if "error" in line.lower() and not line.startswith("$")]
    why = said[0] if said else "it gave no error message"
    raise BuildError(f"the compiler {compiler} failed: {why}. The whole log is {log_path}.")


def _publish(built: Path, library: Path) -> None:
    """Moves a finished library into place: first its hash, then the library. A hash without a library does no harm."""
    with open(built, "rb+") as file:
        os.fsync(file.fileno())
    hash_file = built.with_suffix(".sha256")
    hash_file.write_text(_file_hash(built))
    os.replace(hash_file, library.with_suffix(".sha256"))
    os.replace(built, library)


def _run(command: Sequence[str]) -> tuple[bool, str]:
    """Whether the command succeeded within the time limit, and what it printed."""
    pipe, same = subprocess.PIPE, subprocess.STDOUT
    with subprocess.Popen(command, stdout=pipe, stderr=same, text=True, start_new_session=True) as process:
        try:
            output, _ = process.communicate(timeout=COMPILE_TIMEOUT_S)
            return process.returncode == 0, output
        except subprocess.TimeoutExpired:
            return False, f"error: no result after {COMPILE_TIMEOUT_S} s"
        finally:
            if process.poll() is None:  # timed out or interrupted: also end the compiler's child processes
                with suppress(OSError):
                    os.killpg(process.pid, signal.SIGKILL)
