"""What the runner does besides runs: stand-in weights for a smoke test, and the bench of Table 4's costs."""

import subprocess
import sys
from pathlib import Path

from experiments.costs import BENCH
from experiments.files import UserError
from experiments.provenance import visible_gpus
from experiments.table_model import Table
from experiments.trainers.contract import ROOT, Step
from experiments.weights import WEIGHTS, examine


def stand_ins_step(folder: Path, names: list[str]) -> Step:
    """The command that makes stand-ins for the named weights."""
    only = [word for name in names for word in ("--only", name)]
    return Step(name="weights", argv=["python", "-m", "experiments.stand_ins", str(folder), "--small", *only])


def make_stand_ins(folder: Path, names: list[str]) -> None:
    """Makes the stand-ins that do not exist. Raises UserError if that fails; the command has printed its own message
    before."""
    absent = any(examine(WEIGHTS[name], folder).kind != "stand-in" for name in names)
    if absent and _do(stand_ins_step(folder, names)):
        raise UserError(f"Failed to make stand-in weights in {folder}; see above.")


def benches(table: Table) -> bool:
    """Whether a section of the table shows costs of training and inference, which tools.bench_table4 measures."""
    return any(section.measures for section in table.sections)


def bench_step(table: Table, out: Path) -> Step:
    """The command that measures these costs."""
    options = {"json": str(out / BENCH), **table.applied.bench}
    words = [f"--{key}={value}" for key, value in options.items()]
    return Step(name="bench", argv=["python", "-m", "tools.bench_table4", *words])


def bench(table: Table, out: Path) -> bool:
    """Measures costs if a section shows them, they are missing, and this machine can; returns False if that fails."""
    can = table.on_cpu or bool(visible_gpus())
    if not benches(table) or not can or (out / BENCH).exists():
        return True
    return _do(bench_step(table, out)) == 0


def _do(step: Step) -> int:
    """Runs the step, with its stdout going to stderr; returns its exit code."""
    return subprocess.run([sys.executable, *step.argv[1:]], cwd=ROOT, stdout=2).returncode
