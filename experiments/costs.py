"""Expected costs of runs: device time from published seconds per kimg, and disk space from the snapshots.

The hosts publish the speed of plain training only. For a row with MTM, that time is multiplied by the ratio that the
bench of Table 4 in OUT measured (BENCH). Without a ratio it is counted as plain, and the plan says so.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.checked import read_object
from experiments.table_model import Row, Table

BENCH = "bench-table4.json"  # what tools/bench_table4.py writes: {"settings": {mtm: {"training_ratio", ...}}, ...}
NOT_MEASURED = "MTM counted as plain: its ratio has not been measured (make bench-table4)"


@dataclass(frozen=True)
class RunCost:
    """The cost of one run. `device_s`: device-seconds in total, however many devices share the work."""

    device: str
    device_s: float
    disk_gb: float
    text: str  # how it was computed


def bench_of(out: Path) -> dict[str, Any]:
    """The measurements of the bench of Table 4 in OUT; empty if it did not run. Raises UserError for a bad file."""
    return read_object(out / BENCH)


def training_ratios(bench: Mapping[str, Any]) -> dict[str, float]:
    """Training time with each MTM setting relative to plain, if it was measured on a GPU; else empty."""
    if bench.get("device") == "cpu":
        return {}
    settings = bench.get("settings", {})
    return {mtm: float(values["training_ratio"]) for mtm, values in settings.items() if values.get("training_ratio")}


def run_cost(row: Row, ratios: Mapping[str, float]) -> RunCost | None:
    """The cost of one run of the row; None if its setting has no estimate."""
    estimate = row.estimate
    if estimate is None:
        return None
    kimg = float(row.options.get("kimg", 0))
    ratio = 1.0 if row.mtm == "none" else ratios.get(row.mtm, 1.0)
    device_s = kimg * estimate.s_per_kimg * ratio + estimate.rest_s
    count = 1 + (math.ceil(kimg / estimate.snapshot_kimg) if estimate.snapshot_kimg else 0)
    parts = []
    if estimate.s_per_kimg:
        parts.append(f"{kimg:,g} kimg × {estimate.s_per_kimg:g} s of one {estimate.device}")
        if row.mtm != "none":
            parts.append(f"× {ratio:.2f}, as measured for StyleGAN2" if row.mtm in ratios else NOT_MEASURED)
    return RunCost(estimate.device, device_s, count * estimate.snapshot_gb, "; ".join([*parts, estimate.source]))


def cost_text(cost: RunCost) -> str:
    return f"{device_hours(cost.device, cost.device_s)}, {cost.disk_gb:.3g} GB of disk ({cost.text})"


def device_hours(device: str, seconds: float) -> str:
    """'1,234 A100-hours'; for a CPU core, minutes."""
    if device == "CPU core":
        return f"{seconds / 60:.1f} min of one CPU core"
    return f"{seconds / 3600:,.0f} {device}-hours"


def totals(costs: Iterable[RunCost]) -> tuple[dict[str, float], float]:
    """Seconds by device, and disk in GB."""
    seconds, disk_gb = Counter[str](), 0.0
    for cost in costs:
        seconds[cost.device] += cost.device_s  # type: ignore[assignment]
        disk_gb += cost.disk_gb
    return dict(seconds), disk_gb


def disk_needed_gb(table: Table, costs: Mapping[Path, RunCost], data_gb: float) -> float:
    """Disk space still needed, in GB: the preset's own number if it has one; otherwise the data sets plus each run's
    estimate minus what its folder already holds."""
    if table.applied.cost is not None:
        return table.applied.cost.disk_gb
    return data_gb + sum(max(0.0, cost.disk_gb - held_gb(folder)) for folder, cost in costs.items())


def held_gb(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e9 if folder.is_dir() else 0.0
