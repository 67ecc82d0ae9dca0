"""The environment with another torch: stand-ins for GPU libraries, and the message if the release is unavailable."""

import ctypes
import shutil
import subprocess
import sys

import pytest

from tools import torch_env


def compile_library(folder, name: str, text: str, *flags: str) -> None:
    source = folder / "source.c"
    source.write_text(text)
    command = ["cc", "-shared", "-fPIC", f"-Wl,-soname,{name}", str(source), "-o", str(folder / name), *flags]
    subprocess.run(command, check=True)


@pytest.mark.skipif(not all(map(shutil.which, ("cc", "nm", "ldd"))), reason="needs cc, nm and ldd")
def test_a_library_that_lacks_a_gpu_library_loads_with_its_stand_in(tmp_path):
    compile_library(tmp_path, "libcudart.so.99", "void cudaThing(void) {}")
    user = "void cudaThing(void); void* p = cudaThing; int answer(void) { return 42; }"
    compile_library(tmp_path, "libuser.so", user, f"-L{tmp_path}", "-l:libcudart.so.99", "-Wl,-rpath,$ORIGIN")
    (tmp_path / "libcudart.so.99").unlink()
    code = f"import ctypes; print(ctypes.CDLL({str(tmp_path / 'libuser.so')!r}).answer())"
    before = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "libcudart.so.99" in before.stderr
    torch_env._stand_in(tmp_path)
    assert ctypes.CDLL(str(tmp_path / "libuser.so")).answer() == 42


def test_a_release_that_cannot_be_had_is_told_by_the_exit_code(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MTM_TORCH_ENVS", str(tmp_path))
    monkeypatch.setattr(torch_env.venv, "create", lambda folder, with_pip: None)  # so there is no pip to run
    assert torch_env.main(["9.9.9"]) == torch_env.UNAVAILABLE
    said = capsys.readouterr().err
    assert "torch 9.9.9 is not available here" in said
    assert str(tmp_path / "9.9.9" / "bin" / "python") in said


def test_an_environment_that_is_ready_is_taken_as_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MTM_TORCH_ENVS", str(tmp_path))
    (tmp_path / "2.11.0").mkdir()
    (tmp_path / "2.11.0" / ".ready").touch()
    assert torch_env.main(["2.11.0"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / '2.11.0' / 'bin' / 'python'}\n"
