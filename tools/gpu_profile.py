"""Steps profile and counters of a GPU session: the time of each kernel of a layer, and its use of the GPU.

Times come from torch's profiler. Counters (memory and arithmetic in per cent of what the chip can do, bytes moved) need
Nsight Compute's ncu and permission to use it.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch

from tools import gpu
from tools.gpu_steps import NOT_HERE, read_counters
from tools.layer import PASSES, Problem

LAYERS = ((32, 512, 32), (32, 512, 8))  # batch, channels in and out, height and width
KINDS = {"fp16": torch.float16, "fp32": torch.float32}
KERNELS = "regex:(gather|tap_gradient|grad_x|index|demodulate|transpose)"
METRICS = (
    "gpu__time_duration.sum",
    "dram__bytes_read.sum",
    "dram__bytes_write.sum",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed",
    "lts__throughput.avg.pct_of_peak_sustained_elapsed",
    "l1tex__throughput.avg.pct_of_peak_sustained_elapsed",
    "sm__throughput.avg.pct_of_peak_sustained_elapsed",
    "sm__warps_active.avg.pct_of_peak_sustained_active",
)
REPEATS = 10


def once(device: str, layer: tuple[int, int, int], dtype: torch.dtype) -> None:
    """Runs each of our passes once."""
    problem = Problem(layer, dtype, device=device)
    for run in PASSES.values():
        run(problem, "ours")


def kernels_of(device: str, layer: tuple[int, int, int], dtype: torch.dtype, what: str) -> list[dict[str, Any]]:
    """The kernels of one of our passes, the longest first: name, launches and microseconds per call of the pass."""
    from torch.profiler import ProfilerActivity, profile

    run = partial(PASSES[what], Problem(layer, dtype, device=device), "ours")
    for _ in range(3):
        run()
    kind = ProfilerActivity.CUDA if device == "cuda" else ProfilerActivity.CPU
    with profile(activities=[kind]) as profiler:
        for _ in range(REPEATS):
            run()
        if device == "cuda":
            torch.cuda.synchronize()
    found = []
    for event in profiler.key_averages():
        us = event.self_device_time_total if device == "cuda" else event.self_cpu_time_total
        if us:
            found.append({"name": event.key[:100], "launches": event.count / REPEATS, "us": us / REPEATS})
    return sorted(found, key=lambda k: -k["us"])


def times(device: str, layers: tuple[tuple[int, int, int], ...]) -> dict[str, list[dict[str, Any]]]:
    """Kernel times by layer, dtype and pass."""
    found = {}
    for layer in layers:
        for kind, dtype in KINDS.items():
            for what in PASSES:
                found[f"{[*layer, layer[2]]} {kind} {what}"] = kernels_of(device, layer, dtype, what)
    return found


def counters(ncu: str) -> dict[str, list[dict[str, Any]]]:
    """ncu's counters for our kernels, by layer, in float16. Raises SystemExit with ncu's message if it fails."""
    found = {}
    for layer in LAYERS:
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "ncu.csv"
            command = [ncu, "--clock-control", "none", "--csv", "--page", "raw", "--log-file", str(log), "-k", KERNELS]
            command += ["--metrics", ",".join(METRICS), sys.executable, "-m", "tools.gpu_profile", "--once"]
            command += [str(n) for n in layer]
            done = subprocess.run(command, stdout=2)
            text = log.read_text(encoding="utf-8") if log.exists() else ""
        found[f"{[*layer, layer[2]]} fp16"] = read_counters(text)
        if done.returncode or not found[f"{[*layer, layer[2]]} fp16"]:
            said = [line for line in text.splitlines() if line.startswith("==")] or ["it gave no counters"]
            click.echo(text)
            raise SystemExit(f"gpu-profile: ncu failed (exit {done.returncode}): {said[-1]}")
    return found


def find_ncu() -> str | None:
    """Nsight Compute's command line: on PATH, or beside nvcc."""
    return shutil.which("ncu") or shutil.which("/usr/local/cuda/bin/ncu")


@click.command()
@click.option("--device", default="cuda", show_default=True, help="cpu only tests the code.")
@click.option("--layer", "layers", type=(int, int, int), multiple=True, help="B C H.  [default: 32 512 32, 32 512 8]")
@click.option(
    "--once", "single", type=(int, int, int), help="Call each pass of a layer once, in float16; ncu runs this."
)
@click.option("--counters", "counting", is_flag=True, help="Report ncu's counters instead of times.")
@click.option("--json", "dest", type=click.Path(path_type=Path), help="Also write the numbers to this file.")
def main(device: str, layers, single: tuple[int, int, int] | None, counting: bool, dest: Path | None) -> None:
    """Time the kernels of a layer's passes, or count what they do."""
    if device != "cpu":
        gpu.require("gpu-profile")
    if single is not None:
        once(device, single, torch.float16)
        return
    ncu = find_ncu() if counting else None
    if counting and ncu is None:
        click.echo("ncu is not installed")
        raise SystemExit(NOT_HERE)
    found = counters(ncu) if ncu else times(device, layers or LAYERS)
    for what, kernels in found.items():
        click.echo(what)
        for kernel in kernels:
            others = ", ".join(f"{k} {v:.4g}" for k, v in kernel.items() if k not in ("name", "us") and v is not None)
            click.echo(f"  {kernel['us']:10.1f} us  {kernel['name'][:60]:60}  {others}")
    if dest is not None:
        dest.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
