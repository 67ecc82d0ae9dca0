"""The wheel and the source archive: built, installed away from this repository, and used as README says."""

import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import torch
from documents import ROOT, block

pytestmark = pytest.mark.slow
SITE = Path(torch.__file__).parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(wheel, source archive)."""
    pytest.importorskip("build", reason="python -m build is not installed: make setup")
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return next(out.glob("*.whl")), next(out.glob("*.tar.gz"))


def test_archives_hold_the_op_and_nothing_else(built):
    wheel, source = built
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"mtm_ops", wheel.name.rsplit("-", 3)[0] + ".dist-info"}
    kernels = {path.name for path in (ROOT / "mtm_ops" / "csrc").iterdir()}
    assert kernels == {Path(name).name for name in names if name.startswith("mtm_ops/csrc/")}
    with tarfile.open(source) as archive:
        folders = {name.split("/")[1] for name in archive.getnames() if "/" in name}
    assert not folders & {"vendor", "runs", "data", "experiments"}


def test_the_wheel_works_in_an_empty_environment(built, tmp_path):
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    command = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", built[0]]
    subprocess.run(command, check=True, env={"PATH": "/usr/bin:/bin"})
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(f"{SITE}\n")  # torch and numpy, but not what .pth files there add
    code = block("README.md", "Install the op", "python") + "\nimport mtm_ops; print(mtm_ops.__file__, tuple(y.shape))"
    done = subprocess.run([python, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{site / 'mtm_ops' / '__init__.py'} (4, 64, 32, 32)"
    doctor = subprocess.run([python, "-m", "mtm_ops.doctor"], cwd=tmp_path, capture_output=True, text=True)
    assert "native" in doctor.stdout
