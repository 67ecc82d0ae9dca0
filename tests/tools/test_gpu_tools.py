"""The GPU's measuring tools on a machine without one: their arithmetic, their errors, and the commands they run."""

import json
import subprocess
import sys
from pathlib import Path

import forked
import pytest
import torch
from click.testing import CliRunner

from tools import bench, bench_table4, gpu

ROOT = Path(__file__).resolve().parents[2]
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@no_gpu
@pytest.mark.parametrize(
    ("name", "command", "options"),
    [("bench-gpu", bench.main, ["--device", "cuda"]), ("bench-table4", bench_table4.main, [])],
)
def test_without_a_gpu_one_line_says_so_and_the_exit_code_is_not_zero(name, command, options):
    result = CliRunner().invoke(command, options)
    assert result.exit_code == 1
    (line,) = result.output.splitlines()
    assert line.startswith(f"{name}: needs an NVIDIA GPU")
    assert line.endswith("Nothing was run.")


@no_gpu
def test_make_test_gpu_fails_without_a_gpu():
    done = subprocess.run(
        [sys.executable, "-m", "tools.gpu", "make test-gpu"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith("make test-gpu: needs an NVIDIA GPU")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("cuda", "available", "nvcc", "why"),
    [
        (None, False, "nvcc", "is built without CUDA"),
        ("13.0", False, "nvcc", "found no GPU or driver"),
        ("13.0", True, None, "needs nvcc to build the CUDA kernel"),
    ],
)
def test_what_is_missing_is_told(cuda, available, nvcc, why, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(gpu._build, "find_nvcc", lambda: nvcc)
    with pytest.raises(SystemExit, match=why):
        gpu.require("a tool")


@pytest.mark.parametrize("target", ["test-gpu", "bench-gpu", "bench-table4"])
def test_make_takes_another_interpreter_than_the_virtual_environments(target):
    done = subprocess.run(
        ["make", "-n", "--no-print-directory", target, "PYTHON=/other/python"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    commands = [line.split()[0] for line in done.stdout.splitlines()]
    assert set(commands) == {"/other/python"}  # nothing is installed


def test_table4_has_the_settings_that_the_resolution_has_layers_for():
    assert bench_table4.settings_of(128) == ["none", "low", "low,mid", "low,mid,high"]
    assert bench_table4.settings_of(32) == ["none", "low", "low,mid"]
    assert bench_table4.settings_of(8) == ["none"]


@pytest.mark.slow
def test_table4_trains_the_official_networks_on_the_cpu(tmp_path):
    """A 16 px network with the overlay's lines runs its whole iteration, including lazy regularisation."""
    if not (ROOT / "vendor" / "stylegan3" / "train.py").exists():
        pytest.skip("vendor/stylegan3 is not fetched: git submodule update --init vendor/stylegan3")
    command = ["-m", "tools.bench_table4", "--device", "cpu"]
    command += [*"--resolution 16 --batch 4 --width 8 --rounds 1 --json".split(), str(tmp_path / "out/bench.json")]
    done = forked.run(*command, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    (none,) = (line for line in lines if line[0] == "none")
    (low,) = (line for line in lines if line[0] == "low")
    assert none[2] == "1.00x"
    assert float(low[1]) > 0
    assert int(low[-1].replace(",", "")) > 0
    written = json.loads((tmp_path / "out/bench.json").read_text())
    assert (written["device"], written["resolution_px"], written["width"]) == ("cpu", 16, 8)
    assert list(written["settings"]) == ["none", "low"]
    assert f"{written['settings']['low']['training_ratio']:.2f}x" == low[2]
    assert written["settings"]["none"]["parameters"] == int(none[-2].replace(",", ""))
