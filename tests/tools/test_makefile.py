"""make's own messages for common mistakes: a wrong target, a wrong interpreter."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def make(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *words], cwd=ROOT, capture_output=True, text=True)


def test_a_target_that_does_not_exist_is_named_with_the_next_step():
    done = make("qickstart")
    assert done.returncode == 2
    assert "there is no target 'qickstart'. Print the targets: make help" in done.stderr


def test_an_environment_without_its_interpreter_is_made_again(tmp_path: Path):
    (tmp_path / "venv").mkdir()
    ready = tmp_path / "venv" / ".ready"
    ready.touch()
    assert "-m venv" in make("-n", "doctor", f"VENV={ready.parent}").stdout
    (tmp_path / "venv" / "bin").mkdir()
    (tmp_path / "venv" / "bin" / "python").touch()
    assert "-m venv" not in make("-n", "doctor", f"VENV={ready.parent}").stdout


@pytest.mark.parametrize(
    ("says", "got"),
    [("echo Python 3.9.18", "Python 3.9.18."), ("echo no such version >&2; exit 127", "which does not run.")],
)
def test_an_interpreter_that_is_too_old_or_absent_is_named_in_one_line(tmp_path: Path, says: str, got: str):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exit 1\n{says}\n')
    python.chmod(0o755)
    done = make("setup", f"PYTHON={python}", f"VENV={tmp_path / 'venv'}")
    assert done.returncode == 2
    first = done.stderr.splitlines()[0]
    assert first.startswith("make setup: PYTHON must be Python 3.11 or newer; got ")
    assert got in first
    assert first.endswith("Try: make setup PYTHON=python3.12")
    assert not (tmp_path / "venv").exists()
