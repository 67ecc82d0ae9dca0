"""The compact generator, experiments/mini. It resumes by itself, bit for bit, if the same command is run again."""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.checked import Value, check, read_object
from experiments.mini import KEPT, VERSION
from experiments.trainers.contract import (
    METRICS,
    Progress,
    Run,
    Step,
    Tick,
    Trainer,
    in_order,
    last_line,
    measuring,
    read_lines,
)

SNAPSHOT = "final.pt"  # the averaged generator, written at the end; until then snapshot.pt holds the whole state
STATS = "stats.jsonl"
NOT_CURVES = ("kimg", "elapsed_s", "cpu_s", "s_per_kimg", "peak_memory_mb")


class Mini(Trainer):
    name = "mini"
    version = VERSION
    command = ("python", "-m", "experiments.mini.train")

    def train_step(self, run: Run) -> Step:
        options = run.options | {"seed": run.seed}
        words = [f"--{key}={spell(value)}" for key, value in options.items()]
        argv = [*self.command, f"--outdir={run.train}", f"--data={run.data}", *words]
        return Step(name="train", argv=argv, env=run.environment)

    def progress(self, run: Run) -> Progress:
        values = {
            "kimg": last_line(run.train / STATS).get("kimg", 0.0),
            "total_kimg": run.options.get("kimg", 0.0),
            "finished": (run.train / SNAPSHOT).exists(),
        }
        return check(Progress, values, f"{run.label}: {STATS}")

    def ticks(self, run: Run, problems: list[str]) -> list[Tick]:
        return in_order(_ticks(run.train / STATS, problems))

    def snapshot(self, run: Run) -> Path | None:
        path = run.train / SNAPSHOT
        return path if path.exists() and zipfile.is_zipfile(path) else None

    def planned_snapshot(self, run: Run) -> str:
        return str(run.train / SNAPSHOT)

    def metric_steps(self, run: Run, snapshot: str, missing: list[str]) -> Iterator[Step]:
        """Also the commands for the generators that the option keep-kimg kept during training."""
        yield from super().metric_steps(run, snapshot, missing)
        for kimg in kept_kimg(run):
            outdir = run.folder / METRICS / kept_name(kimg)
            absent = [name for name in run.metrics if not (outdir / f"{name}.json").exists()]
            if absent:
                kept = str(run.train / KEPT.format(kimg=kimg))
                yield measuring(run, f"metrics at {kimg:g} kimg", kept, absent, outdir)

    def facts(self, run: Run) -> dict[str, Any]:
        return read_object(run.train / "training_options.json")


TRAINER = Mini()


def kept_kimg(run: Run) -> list[float]:
    """The kimg at which the run keeps a generator during training."""
    return [float(word) for word in str(run.options.get("keep-kimg", "")).split(",") if word]


def kept_name(kimg: float) -> str:
    """The folder of the metrics of the generator kept at `kimg`, in the run's METRICS."""
    return f"kept-{kimg:g}"


def spell(value: Value) -> str:
    """An option's value, as spelt on the command line."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _ticks(path: Path, problems: list[str]) -> Iterator[Tick]:
    for line in read_lines(path, problems):
        if not isinstance(line.get("kimg"), int | float):
            problems.append(f"{path.parent.name}/{path.name}: a tick without kimg was left out")
            continue
        curves = {k: float(v) for k, v in line.items() if k not in NOT_CURVES and isinstance(v, float | int)}
        numbers = {k: line[k] for k in ("kimg", "elapsed_s", "s_per_kimg") if isinstance(line.get(k), float | int)}
        yield Tick(**numbers, curves=curves)
