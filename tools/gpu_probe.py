"""Step probe of a GPU session: the machine, and whether all imports of later steps work."""

import importlib
import json
import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import click

from experiments.provenance import machine
from tools.gpu import why_no_gpu

# The modules that the steps of tools/gpu_steps.py import, ours first; the rest is vendor/stylegan3's.
IMPORTS = (
    *("experiments.run", "experiments.row", "experiments.report", "experiments.metrics.__main__", "tools.images"),
    *("tools.bench", "tools.bench_table4", "tools.gpu_plugins", "tools.gpu_profile", "pytest", "hypothesis", "ninja"),
    *("numpy", "PIL", "scipy.signal", "scipy.optimize", "requests", "psutil", "matplotlib", "setuptools"),
)
TOOLS = ("nvcc", "g++", "ninja", "git", "make", "ncu", "compute-sanitizer", "nvidia-smi")
PACKAGES = ("torch", "torchvision", "numpy", "scipy", "pillow", "pytest", "matplotlib", "pydantic", "triton")


def missing() -> dict[str, str]:
    """The modules that cannot be imported, and why."""
    found = {}
    for name in IMPORTS:
        try:
            importlib.import_module(name)
        except Exception as error:
            found[name] = f"{type(error).__name__}: {(str(error) or 'no reason given').splitlines()[0]}"
    return found


def versions() -> dict[str, str]:
    """Versions of packages; absent ones are left out."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def nvcc_version() -> str | None:
    """The second-to-last line that the compiler prints: its release."""
    try:
        done = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = [line for line in done.stdout.splitlines() if "release" in line]
    return lines[0].strip() if lines else None


def probe() -> dict[str, Any]:
    """The complete report."""
    import torch

    facts: dict[str, Any] = {"python": platform.python_version(), "torch": torch.__version__, "no_gpu": why_no_gpu()}
    facts |= {"cuda": torch.version.cuda, "nvcc": nvcc_version()}
    if facts["no_gpu"] is None:
        card = torch.cuda.get_device_properties(0)
        facts |= {"gpu": card.name, "cudnn": torch.backends.cudnn.version()}
        facts |= {"capability": f"{card.major}.{card.minor}", "memory_gib": round(card.total_memory / 2**30, 1)}
        facts |= {"multiprocessors": card.multi_processor_count, "l2_mib": card.L2_cache_size / 2**20}
    facts |= {"machine": machine(), "versions": versions(), "missing": missing()}
    return facts | {"tools": {name: shutil.which(name) is not None for name in TOOLS}, "cores": os.cpu_count()}


@click.command()
@click.option("--json", "dest", type=click.Path(path_type=Path), help="Also write the report to this file.")
def main(dest: Path | None) -> None:
    """Print what this machine has; exit code 1 if a package is missing."""
    facts = probe()
    text = json.dumps(facts, indent=1)
    click.echo(text)
    if dest is not None:
        dest.write_text(text + "\n", encoding="utf-8")
    if facts["missing"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
