"""The GPU's measuring tools where there is no GPU: their arithmetic, their errors, and what they run, on the CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from tools import bench_gpu, bench_table4, gpu

ROOT = Path(__file__).resolve().parents[2]
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@no_gpu
@pytest.mark.parametrize(("name", "command"), [("bench-gpu", bench_gpu.main), ("bench-table4", bench_table4.main)])
def test_without_a_gpu_one_line_says_so_and_the_exit_code_is_not_zero(name, command):
    result = CliRunner().invoke(command, [])
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


@pytest.mark.parametrize("layout", list(bench_gpu.LAYOUTS.values()), ids=str)
@pytest.mark.parametrize("name", ["plain", "ours"])
def test_every_pass_runs(name, layout):
    problem = bench_gpu.Problem((2, 4, 5), torch.float32, layout, "cpu", 0)
    assert problem.x.is_contiguous(memory_format=layout)
    for run in bench_gpu.PASSES.values():
        run(problem, name)


def test_floor_is_the_slower_of_bytes_and_products():
    shape, x, w, o = (2, 8, 4), 2 * 8 * 16 * 4, 9 * 64 * 4, 2 * 18 * 16 * 4
    slow_memory = bench_gpu.Rates(1e3, {torch.float32: 1e30})
    slow_matrix = bench_gpu.Rates(1e30, {torch.float32: 1e3})
    assert bench_gpu.floor_ms(shape, torch.float32, "forward", slow_memory) == pytest.approx(2 * x + w + o)
    assert bench_gpu.floor_ms(shape, torch.float32, "forward+backward", slow_memory) == pytest.approx(
        3 * (2 * x + w + o)
    )
    assert bench_gpu.floor_ms(shape, torch.float32, "forward", slow_matrix) == pytest.approx(2 * 9 * 64 * 32)
    assert bench_gpu.floor_ms(shape, torch.float32, "double backward", slow_matrix) == pytest.approx(6 * 9 * 64 * 32)


def test_targets_are_judged():
    met = bench_gpu.verdicts("layer", {"plain": 1.0, "ours": 1.4, "torchvision": 6.0}, {"plain": 100, "ours": 114})
    assert [ok for ok, _ in met] == [True, True, True]
    missed = bench_gpu.verdicts("layer", {"plain": 1.0, "ours": 1.6, "torchvision": 6.0}, {"plain": 100, "ours": 116})
    assert [ok for ok, _ in missed] == [False, False, False]
    assert len(bench_gpu.verdicts("layer", {"plain": 1.0, "ours": 1.0}, {"plain": 1, "ours": 1})) == 2
    assert "not run" in bench_gpu.row("layer", "forward", {"plain": 1.0, "ours": 1.0}, 0.5)


def test_inputs_rotate():
    calls = []
    runs = bench_gpu.rotate(["a", "b"], lambda problem, name: calls.append((problem, name)), "ours")  # type: ignore
    for _ in range(3):
        next(runs)()
    assert calls == [("a", "ours"), ("b", "ours"), ("a", "ours")]


def test_table4_has_the_settings_that_the_resolution_has_layers_for():
    assert bench_table4.settings_of(128) == ["none", "low", "low,mid", "low,mid,high"]
    assert bench_table4.settings_of(32) == ["none", "low", "low,mid"]
    assert bench_table4.settings_of(8) == ["none"]


@pytest.mark.slow
def test_table4_trains_the_official_networks_on_the_cpu():
    """A network of 16 px with the overlay's lines: its whole iteration, lazy regularisation among it."""
    if not (ROOT / "vendor" / "stylegan3" / "train.py").exists():
        pytest.skip("vendor/stylegan3 is not fetched: git submodule update --init vendor/stylegan3")
    command = [sys.executable, "-m", "tools.bench_table4", "--device", "cpu"]
    command += "--resolution 16 --batch 4 --width 8 --rounds 1".split()
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    (none,) = (line for line in lines if line[0] == "none")
    (low,) = (line for line in lines if line[0] == "low")
    assert none[2] == "1.00x"
    assert float(low[1]) > 0
    assert int(low[-1].replace(",", "")) > 0
