"""The JIT build: faulty compilers, full or read-only caches, locks and killed processes must not leave it broken.

Most tests use a stand-in compiler: a script that copies the library this machine has already built. It takes almost no
time, and the tests can count its calls.
"""

import concurrent.futures
import contextlib
import ctypes
import dataclasses
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import forked
import pytest
import torch
from torch._subclasses import FakeTensorMode

from mtm_ops import _build, _launch, _library, doctor, functional, modulated_deform_conv2d

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the stand-in compilers are shell scripts")

RUN_ONCE = """
import torch
from mtm_ops import modulated_deform_conv2d
y = modulated_deform_conv2d(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 1, 1), torch.zeros(1, 2, 2, 2), impl="native")
print("sum", y.sum().item())
"""


class StandIn:
    """A compiler script that logs its calls and rejects the flags named in `refuse`."""

    def __init__(self, folder: Path, refuse: str = "", body: str = "", version: str = "stand-in 1.0") -> None:
        folder.mkdir(exist_ok=True)
        self.path, self.log = folder / "stand-in-c++", folder / "calls.txt"
        self.slow, self.pids = folder / "slow", folder / "pids.txt"
        library = _build.load_cpu()._name
        body = body or f'cp "{library}" "$out"'
        self.path.write_text(
            f"""#!/bin/sh
if [ "$1" = --version ]; then echo "{version}"; exit 0; fi
echo "$*" >> "{self.log}"
echo $$ >> "{self.pids}"
if [ -e "{self.slow}" ]; then exec sleep 60; fi
for word in "$@"; do
    case " {refuse} " in *" $word "*) echo "error: unrecognized option $word" >&2; exit 1;; esac
    if [ "$last" = -o ]; then out="$word"; fi
    last="$word"
done
{body}
"""
        )
        self.path.chmod(0o755)

    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir()
    return folder


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    compiler = StandIn(tmp_path / "bin")
    monkeypatch.setenv("CXX", str(compiler.path))
    return compiler


def use(monkeypatch: pytest.MonkeyPatch, folder: Path, **given: str) -> StandIn:
    compiler = StandIn(folder, **given)
    monkeypatch.setenv("CXX", str(compiler.path))
    return compiler


def start(code: str, cache: Path, **environment: str) -> forked.Forked:
    env = {**os.environ, "MTM_CACHE_DIR": str(cache), **environment}
    return forked.start("-W", "always", "-c", code, env=env)


def finish(process: forked.Forked) -> tuple[str, str]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, f"exit code {process.returncode}\n{out}\n{err}"
    return out, err


def wait_for(what, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.02)


def works(library: ctypes.CDLL) -> bool:
    return library.sample_params_size() > 0


@pytest.fixture
def no_orphans() -> Iterator[list[int]]:
    """A list for the ids of processes that the test starts; they are killed after the test."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_real_build_into_an_empty_cache_then_from_the_cache(cache):
    out, err = finish(start(RUN_ONCE, cache))
    assert out == "sum 4.0\n"
    assert "building the CPU kernel" in err
    assert re.search(r"\(\d+\.\d s, once\)", err)
    (library,) = cache.glob("cpu-*.so")
    assert library.with_suffix(".log").read_text().startswith("$ ")
    assert not list(cache.glob(".build-*"))
    built = library.stat().st_mtime_ns
    out, err = finish(start(RUN_ONCE, cache))
    assert out == "sum 4.0\n"
    assert err == ""
    assert library.stat().st_mtime_ns == built


@pytest.mark.parametrize("refuse", ["-fopenmp -march=native", "-fopenmp", "-march=native"])
def test_compiler_without_openmp_or_march_native_still_builds(refuse, cache, tmp_path, monkeypatch):
    compiler = use(monkeypatch, tmp_path / "bin", refuse=refuse)
    assert works(_build._load(_build.cpu_recipe(), cache))
    accepted = compiler.calls()[-1].split()
    assert not set(refuse.split()) & set(accepted)
    assert set(accepted) >= {"-fopenmp", "-march=native"} - set(refuse.split())


def test_kernels_without_openmp_and_march_native_compile_for_real_and_agree(cache, tmp_path, monkeypatch):
    real = _build.find_compiler()
    assert real is not None
    use(monkeypatch, tmp_path / "bin", refuse="-fopenmp -march=native", body=f'exec {shlex.join(real)} "$@"')
    library = _build._load(_build.cpu_recipe(), cache)
    assert library.threads_built_in() == 0
    t = torch.randn(2, 19, 33)
    out = t.new_empty(2, 33, 19)
    library.launch_transpose_f32(
        ctypes.c_void_p(t.data_ptr()), ctypes.c_void_p(out.data_ptr()), *map(ctypes.c_int64, t.shape)
    )
    assert torch.equal(out, t.transpose(1, 2))


def test_lock_left_by_a_killed_build_means_nothing(cache, stand_in):
    key = _build._cache_key(_build.cpu_recipe())
    (cache / f"cpu-{key}.lock").write_text("4194303\n")
    start_s = time.monotonic()
    assert works(_build._load(_build.cpu_recipe(), cache))
    assert time.monotonic() - start_s < 5
    assert len(stand_in.calls()) == 1


def test_two_processes_at_once_compile_once_and_both_succeed(cache, tmp_path, monkeypatch):
    compiler = use(monkeypatch, tmp_path / "bin", body=f'sleep 2; cp "{_build.load_cpu()._name}" "$out"')
    both = [start(RUN_ONCE, cache) for _ in range(2)]
    results = [finish(process) for process in both]
    assert [out for out, _ in results] == ["sum 4.0\n"] * 2
    assert len(compiler.calls()) == 1


def test_a_process_that_waits_for_another_build_says_so(cache, stand_in, capfd):
    fcntl = pytest.importorskip("fcntl")
    lock = cache / f"cpu-{_build._cache_key(_build.cpu_recipe())}.lock"
    with open(lock, "w") as file, concurrent.futures.ThreadPoolExecutor(1) as pool:
        fcntl.flock(file, fcntl.LOCK_EX)
        waiting = pool.submit(_build._load, _build.cpu_recipe(), cache)
        said = ""

        def heard() -> bool:
            nonlocal said
            said += capfd.readouterr().err
            return "waiting for another process that builds the kernel" in said

        wait_for(heard)
        assert not waiting.done()
        assert stand_in.calls() == []
        fcntl.flock(file, fcntl.LOCK_UN)
        assert works(waiting.result(timeout=30))
    assert len(stand_in.calls()) == 1


def test_threads_of_one_process_compile_once(cache, tmp_path, monkeypatch):
    compiler = use(monkeypatch, tmp_path / "bin", body=f'sleep 0.5; cp "{_build.load_cpu()._name}" "$out"')
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert all(map(works, pool.map(_build._load, [_build.cpu_recipe()] * 4, [cache] * 4)))
    assert len(compiler.calls()) == 1


def test_killed_build_leaves_nothing_that_breaks_the_next(cache, stand_in, no_orphans):
    stand_in.slow.touch()
    builder = start(RUN_ONCE, cache)
    no_orphans.append(builder.pid)
    wait_for(lambda: stand_in.calls())
    no_orphans.append(int(stand_in.pids.read_text().split()[0]))
    builder.kill()
    builder.communicate()
    assert not list(cache.glob("*.so"))
    stand_in.slow.unlink()
    assert works(_build._load(_build.cpu_recipe(), cache))
    assert len(stand_in.calls()) == 2


FALL_BACK = """
import warnings, torch
from mtm_ops import modulated_deform_conv2d
args = torch.randn(1, 2, 4, 4), torch.randn(3, 2, 3, 3), torch.randn(1, 18, 2, 2)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    results = [modulated_deform_conv2d(*args) for _ in range(3)]
print(len(caught), caught[0].category.__name__)
print(caught[0].message)
assert all(torch.equal(y, modulated_deform_conv2d(*args, impl="reference")) for y in results)
for _ in range(2):
    try:
        modulated_deform_conv2d(*args, impl="native")
    except RuntimeError as error:
        print(type(error).__name__, error)
"""


def test_failing_compiler_falls_back_with_one_warning_and_is_not_called_again(cache, tmp_path, monkeypatch):
    compiler = use(monkeypatch, tmp_path / "bin", body='echo "x.cpp:1: error: out of coffee" >&2; exit 1')
    out, _ = finish(start(FALL_BACK, cache))
    count, warning, *errors = out.splitlines()
    (log,) = cache.glob("*.log")
    assert count == "1 RuntimeWarning"
    assert len(errors) == 2
    for text in (warning, *errors):
        assert "out of coffee" in text
        assert str(compiler.path) in text
        assert str(log) in text
    assert all(e.startswith("RuntimeError modulated_deform_conv2d: impl='native' cannot run on cpu") for e in errors)
    assert "reference" in warning
    assert log.read_text().count("out of coffee") == len(_build._CPU_CHOICES)
    assert len(compiler.calls()) == len(_build._CPU_CHOICES)  # one attempt for each choice, not for each call of the op


def test_missing_compiler_is_named_and_the_reference_used(cache):
    out, _ = finish(start(FALL_BACK, cache, CXX="/nonexistent/c++", PATH=""))
    count, warning, *_ = out.splitlines()
    assert count == "1 RuntimeWarning"
    assert "no C++ compiler found: looked for /nonexistent/c++" in warning


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("CXX", "'g++", r"CXX must be a command.*No closing quotation"),
        ("MTM_CACHE_DIR", "/\udcff", r"Set MTM_CACHE_DIR"),
    ],
)
def test_a_variable_that_cannot_be_read_falls_back_and_is_named(tmp_path, variable, value, words):
    value = str(tmp_path) + value if variable == "MTM_CACHE_DIR" else value
    out, _ = finish(start(FALL_BACK, tmp_path / "cache", **{variable: value}))
    count, warning, *_ = out.splitlines()
    assert count == "1 RuntimeWarning"
    assert re.search(words, warning)


def test_no_compiler_on_path_says_what_was_looked_for(cache, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    assert _build.find_compiler() is None
    with pytest.raises(_build.BuildError, match=r"no C\+\+ compiler found: looked for c\+\+, g\+\+ or clang\+\+"):
        _build._load(_build.cpu_recipe(), cache)


def test_compiler_that_cannot_be_run_is_named(cache, tmp_path, monkeypatch):
    broken = tmp_path / "broken-c++"
    broken.write_bytes(b"\x7fELF rubbish")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    with pytest.raises(_build.BuildError, match=r"broken-c\+\+ does not run.*Set CXX"):
        _build._load(_build.cpu_recipe(), cache)


def test_compiler_that_succeeds_and_writes_nothing_is_a_failure(cache, tmp_path, monkeypatch):
    use(monkeypatch, tmp_path / "bin", body="true")
    with pytest.raises(_build.BuildError, match=r"stand-in-c\+\+ failed: .*The whole log is .*\.log"):
        _build._load(_build.cpu_recipe(), cache)
    assert not list(cache.glob("*.so"))


def test_compiler_that_hangs_is_given_up(cache, stand_in, monkeypatch):
    monkeypatch.setattr(_build, "COMPILE_TIMEOUT_S", 0.1)
    stand_in.slow.touch()
    with pytest.raises(_build.BuildError, match=r"no result after 0\.1 s"):
        _build._load(_build.cpu_recipe(), cache)


def test_cxx_may_name_a_launcher_before_the_compiler(cache, tmp_path, stand_in, monkeypatch):
    """CXX="ccache g++" is a common setting."""
    launcher = tmp_path / "launcher"
    launcher.write_text('#!/bin/sh\nexec "$@"\n')
    launcher.chmod(0o755)
    monkeypatch.setenv("CXX", f"{launcher} {stand_in.path}")
    assert works(_build._load(_build.cpu_recipe(), cache))
    assert len(stand_in.calls()) == 1


IMPORT_ONLY = """
import sys, mtm_ops, mtm_hosts.layers, mtm_ops.reference
assert "torch._dynamo" not in sys.modules, "it takes longer to import than torch"
head = mtm_ops.ModulatedTransformation(4, 2)
print("fine")
"""


def test_importing_runs_no_compiler_needs_none_and_writes_nothing(cache, stand_in):
    env = {**os.environ, "MTM_CACHE_DIR": str(cache), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", IMPORT_ONLY], env=env, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("fine\n", "")
    assert stand_in.calls() == []
    assert list(cache.iterdir()) == []


# The loader may accept a truncated file as a library, which then crashes the process that maps it.
@pytest.mark.parametrize("kept", [0, 0.02, 0.5])
def test_truncated_library_in_the_cache_is_rebuilt(kept, cache, stand_in):
    library = Path(_build._load(_build.cpu_recipe(), cache)._name)
    whole = library.read_bytes()
    library.unlink()  # this process has the library mapped, so the file must be replaced, not overwritten
    library.write_bytes(whole[: int(kept * len(whole))])
    out, _ = finish(start(RUN_ONCE, cache))
    assert out == "sum 4.0\n"
    assert library.read_bytes() == whole
    assert len(stand_in.calls()) == 2


@pytest.mark.parametrize("content", ["text", "another library"])
def test_foreign_file_in_the_librarys_place_is_rebuilt(content, cache, stand_in):
    library = cache / f"cpu-{_build._cache_key(_build.cpu_recipe())}.so"
    if content == "text":
        library.write_text("not a library\n" * 1000)
    else:
        shutil.copy(Path(torch.__file__).parent / "lib" / "libtorch_global_deps.so", library)
    assert works(_build._load(_build.cpu_recipe(), cache))
    assert len(stand_in.calls()) == 1


def test_library_that_never_loads_ends_in_an_error_not_a_loop(cache, tmp_path, monkeypatch):
    compiler = use(monkeypatch, tmp_path / "bin", body='echo rubbish > "$out"')
    with pytest.raises(_build.BuildError, match=r"was built but cannot be loaded.*MTM_CACHE_DIR"):
        _build._load(_build.cpu_recipe(), cache)
    assert len(compiler.calls()) == 2


def key(compiler: StandIn) -> str:
    return _build._cache_key(dataclasses.replace(_build.cpu_recipe(), compiler=(str(compiler.path),)))


def test_key_changes_with_all_that_the_binary_depends_on(tmp_path, stand_in, monkeypatch):
    keys = {"as it is": key(stand_in)}
    assert key(stand_in) == keys["as it is"]
    for name, target, attribute, value in (
        ("torch", torch, "__version__", "9.9.9"),
        ("CUDA", torch.version, "cuda", "99.9"),
        ("CPU", _build, "_cpu_features", lambda: "flags: abacus"),
        ("machine", _build.platform, "machine", lambda: "pdp11"),
        ("flags", _build, "_CPU_FLAGS", ("-O0",)),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(target, attribute, value)
            keys[name] = key(stand_in)
    keys["compiler version"] = key(StandIn(tmp_path / "bin", version="stand-in 2.0"))
    keys["compiler"] = key(StandIn(tmp_path / "other"))
    for source in ("cpu.cpp", "sampling.h"):
        copy = tmp_path / source.replace(".", "_")
        shutil.copytree(_build.CSRC, copy)
        with open(copy / source, "a") as file:
            file.write("// changed\n")
        with monkeypatch.context() as patch:
            patch.setattr(_build, "CSRC", copy)
            keys[source] = _build._cache_key(_build.cpu_recipe())
    assert len(set(keys.values())) == len(keys), keys


def test_cache_of_another_torch_is_neither_used_nor_removed(cache, stand_in, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "1.0.0")
        old = Path(_build._load(_build.cpu_recipe(), cache)._name)
    new = Path(_build._load(_build.cpu_recipe(), cache)._name)
    assert new != old
    assert old.exists()
    assert len(stand_in.calls()) == 2


def test_cache_dir_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("MTM_CACHE_DIR", str(tmp_path / "named"))
    assert _build.cache_dir() == tmp_path / "named"
    monkeypatch.delenv("MTM_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert _build.cache_dir() == tmp_path / "xdg" / "mtm_ops"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert _build.cache_dir() == tmp_path / ".cache" / "mtm_ops"


@pytest.fixture
def unwritable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder that not even root can create, because it lies below a regular file. Temporary files: tmp_path."""
    (tmp_path / "file").touch()
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("MTM_CACHE_DIR", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(_build.tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path


def test_cache_folder_that_cannot_be_made_is_replaced_by_a_private_one(unwritable, stand_in):
    folder = _build._usable_cache_dir()
    assert folder.parent == unwritable / "tmp"
    assert folder.stat().st_mode & 0o077 == 0
    assert works(_build._load(_build.cpu_recipe(), folder))


def test_cache_folder_that_cannot_be_written_is_replaced_too(tmp_path, unwritable, monkeypatch):
    readonly = tmp_path / "readonly"
    monkeypatch.setenv("MTM_CACHE_DIR", str(readonly))
    inner = _build.tempfile.TemporaryFile

    def refuse(*args, dir=None, **kwargs):
        if Path(dir) == readonly:
            raise PermissionError(f"[Errno 30] Read-only file system: {dir}")
        return inner(*args, dir=dir, **kwargs)

    monkeypatch.setattr(_build.tempfile, "TemporaryFile", refuse)
    assert _build._usable_cache_dir().parent == tmp_path / "tmp"


def test_fallback_folder_of_another_user_is_not_trusted(unwritable, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 123456)
    with pytest.raises(_build.BuildError, match=r"no folder.*belongs to another user.*Set MTM_CACHE_DIR"):
        _build._usable_cache_dir()


def test_no_writable_folder_at_all_names_both(unwritable, monkeypatch):
    monkeypatch.setattr(_build.tempfile, "tempdir", str(unwritable / "file"))
    with pytest.raises(_build.BuildError, match=r"no folder for the built kernel can be written \(.*cache.*;.*mtm_ops"):
        _build._usable_cache_dir()


def test_disk_that_fills_during_the_build_is_told(cache, stand_in, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_build.os, "replace", full)
    with pytest.raises(_build.BuildError, match=r"could not be built in .*No space left on device"):
        _build._load(_build.cpu_recipe(), cache)
    assert not list(cache.glob("*.so"))
    assert not list(cache.glob(".build-*"))


def reason_of(impl_auto: forked.Forked) -> str:
    """The only warning of the FALL_BACK process, which must return the reference's results."""
    count, warning, *errors = finish(impl_auto)[0].splitlines()
    assert count == "1 RuntimeWarning"
    assert len(errors) == 2
    assert "reference" in warning
    return warning


def test_a_lock_that_cannot_be_opened_falls_back_with_its_name(cache):
    """In a shared cache the lock may be another user's. Root could open that, so a folder takes the lock's place."""
    lock = cache / f"cpu-{_build._cache_key(_build.cpu_recipe())}.lock"
    lock.mkdir()
    warning = reason_of(start(FALL_BACK, cache))
    assert f"the lock {lock} cannot be opened" in warning
    assert "MTM_CACHE_DIR" in warning


def test_another_users_lock_falls_back_with_its_name(cache, stand_in, monkeypatch):
    inner = Path.open

    def refuse(self, *args, **kwargs):
        if self.suffix == ".lock":
            raise PermissionError(13, "Permission denied", str(self))
        return inner(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(
        _build.BuildError, match=r"the lock .*\.lock cannot be opened: .*Permission denied.*MTM_CACHE_DIR"
    ):
        _build._load(_build.cpu_recipe(), cache)


NO_EXECUTION = """
import ctypes, pathlib
def refuse_load(name, *args, **kwargs):
    raise OSError(f"{name}: failed to map segment from shared object: Operation not permitted")
def refuse_unlink(self, **kwargs):
    raise OSError(30, "Read-only file system", str(self))
import torch, mtm_ops
ctypes.CDLL, pathlib.Path.unlink = refuse_load, refuse_unlink
"""


def test_a_whole_library_in_a_read_only_folder_without_execution_falls_back(cache, stand_in):
    library = Path(_build._load(_build.cpu_recipe(), cache)._name)
    warning = reason_of(start(NO_EXECUTION + FALL_BACK, cache))
    assert f"{library} was built but cannot be loaded" in warning
    assert "failed to map segment" in warning
    assert library.exists()
    assert len(stand_in.calls()) == 1


NO_HOME = """
import pathlib
def refuse(*args):
    raise RuntimeError("Could not determine home directory.")
pathlib.Path.home = refuse
"""


def test_a_user_without_a_home_builds_in_the_temporary_folder(tmp_path, stand_in):
    environment = {"MTM_CACHE_DIR": "", "XDG_CACHE_HOME": "", "TMPDIR": str(tmp_path)}
    out, _ = finish(start(NO_HOME + RUN_ONCE, tmp_path, **environment))
    assert out == "sum 4.0\n"
    (library,) = tmp_path.glob("mtm_ops-*/cpu-*.so")
    assert library.parent.stat().st_mode & 0o777 == 0o700


def test_a_user_without_home_and_temporary_folder_falls_back(tmp_path, stand_in):
    broken = NO_HOME + "import tempfile\ndef none(): raise FileNotFoundError('No usable temporary directory')\n"
    environment = {"MTM_CACHE_DIR": "", "XDG_CACHE_HOME": ""}
    warning = reason_of(start(broken + "tempfile.gettempdir = none\n" + FALL_BACK, tmp_path, **environment))
    assert "no folder for the built kernel can be written" in warning


def test_a_source_that_cannot_be_read_falls_back(cache, monkeypatch):
    monkeypatch.setattr(_build, "CSRC", cache / "gone")
    result = _build._load_or_error.__wrapped__(None)
    assert isinstance(result, _build.BuildError)
    assert "gone" in str(result)


@pytest.mark.skipif(
    torch.version.cuda is None or torch.cuda.is_available(),
    reason="needs a torch with CUDA, and no GPU (make test-torch)",
)
@pytest.mark.parametrize("style", [False, True])
def test_fake_cuda_tensors_without_a_gpu_give_shapes(style):
    with FakeTensorMode():
        shapes = (1, 2, 4, 4), (3, 2, 3, 3), (1, 18, 2, 2), (1, 2)
        y = modulated_deform_conv2d(*(torch.empty(shape, device="cuda") for shape in shapes[: 3 + style]))
    assert (y.device.type, y.shape) == ("cuda", (1, 3, 2, 2))


@pytest.fixture
def two_gpus(monkeypatch) -> Iterator[list[torch.device]]:
    """Pretend that there are two GPUs, the first of them current; yields the devices whose capability is queried."""
    asked: list[torch.device] = []

    def capability(device: torch.device) -> tuple[int, int]:
        asked.append(device)
        return 8, device.index

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", capability)
    monkeypatch.setattr(_build, "load_cuda", lambda capability: capability)
    _library._try_cuda.cache_clear()
    yield asked
    _library._try_cuda.cache_clear()


def test_a_driver_too_old_for_the_linked_runtime_is_found_by_a_launch_and_falls_back(two_gpus, monkeypatch):
    def refuse(name, storage, device, params) -> None:
        raise RuntimeError(f"mtm_ops: {name} did not start on {device}: CUDA driver version is insufficient.")

    monkeypatch.setattr(_launch, "launch", refuse)
    monkeypatch.setattr(functional, "_warned", set())
    reason = _library.why_not_native("cuda", 1)
    assert reason == "mtm_ops: gather did not start on cuda:1: CUDA driver version is insufficient."
    with pytest.warns(RuntimeWarning, match=r"reference .* on cuda.*driver version is insufficient"):
        assert not functional._use_native("auto", torch.device("cuda", 1))
    assert not functional._use_native("auto", torch.device("cuda", 1))  # a second warning would fail the test
    with pytest.raises(RuntimeError, match=r"impl='native' cannot run on cuda:1: .*driver version is insufficient"):
        functional._use_native("native", torch.device("cuda", 1))


def test_the_kernel_is_built_for_the_tensors_device_and_probed_once(two_gpus, monkeypatch):
    launched = []
    monkeypatch.setattr(_launch, "launch", lambda name, storage, device, params: launched.append(device))
    for _ in range(3):
        assert _library.why_not_native("cuda", 1) is None
    assert two_gpus == launched == [torch.device("cuda", 1)]
    assert _library.why_not_native("cuda") is None  # the current device
    assert launched[1:] == [torch.device("cuda", 0)]


def test_doctor_tells_what_is_used_and_by_its_exit_code(cache, tmp_path):
    works, text = doctor.report()
    assert works
    assert re.search(r"cpu +native", text)
    bad = StandIn(tmp_path / "bad", body="echo 'error: out of coffee'; exit 1")
    env = {**os.environ, "MTM_CACHE_DIR": str(cache), "CXX": str(bad.path), "MTM_OUT": "of the Makefile"}
    done = forked.run("-m", "mtm_ops.doctor", env=env)
    assert done.returncode == 1
    assert "out of coffee" in done.stdout
    assert re.search(r"cpu +reference", done.stdout)
    assert f"CXX={bad.path}" in done.stdout
    assert "MTM_OUT" not in done.stdout
