"""Runs the tables of the study one after the other, in one folder. Run it again to resume."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from experiments.data import Data
from experiments.files import UserError
from experiments.needs import fetch
from experiments.plan import describe
from experiments.progress import duration_text
from experiments.run import Call, choose_rows, own_data
from experiments.study import TABLES
from experiments.table import load_table

BRIEFLY = (
    "  ",
    "# row",
    "# cost",
    "cost of",
    "# cannot",
    "#   ",
)  # beginnings of the lines that a plan without commands keeps


def chosen(only: Iterable[str]) -> list[str]:
    """The tables named in `only` ("people" or "study-people"), or all, in the study's order. Raises UserError."""
    names = {name if name.startswith("study-") else f"study-{name}" for name in only}
    if unknown := names - set(TABLES):
        raise UserError(f"study: --table must be one of {', '.join(TABLES)}; got {', '.join(sorted(unknown))}.")
    return [name for name in TABLES if not names or name in names]


def check_data(given: tuple[str, ...], preset: str) -> None:
    """Raises UserError if a DATASET=PATH names a data set that no table of the study has."""
    known = {dataset for name in TABLES for dataset in load_table(name, preset).datasets}
    for word in given:
        before, equals, _ = word.partition("=")
        if equals and "/" not in before and before not in known:
            raise UserError(
                f"study: --data must be DATASET=PATH with one of {', '.join(sorted(known))}; got {word!r}. Correct it."
            )


def make_call(name: str, preset: str, out: Path, cache: Path, given: tuple[str, ...], parallel: int | None) -> Call:
    """The runner's call for a table of the study. Raises UserError as the runner does."""
    table = load_table(name, preset)
    used = {row.dataset for row in table.rows}
    own = own_data(table, tuple(word for word in given if word.partition("=")[0] in used or "=" not in word))
    table = table.with_data(own)
    if parallel is not None:
        table = table.model_copy(update={"parallel": parallel})
    return Call(table, choose_rows(table, ()), out, Data(table, own, cache))


def execute(calls: Iterable[Call]) -> int:
    """Runs the tables in order and returns the exit code. A failed run does not stop the next table; an interruption
    does."""
    code = 0
    for call in calls:
        fetch(call)  # official code and weights; if that fails, the call says what is missing
        call.data.check_sources(call.dataset_names)
        ended = call.execute()
        if ended >= 128:
            return ended
        code = code or ended
    return code


def plan(calls: Iterable[Call], brief: bool) -> Iterator[str]:
    """The dry run, line by line, with the total cost; with `brief`, without the commands."""
    left: dict[Path, float] = {}  # seconds of each remaining run
    parallel = 1
    for call in calls:
        title, *lines = [line for text in describe(call) for line in text.split("\n")]
        yield title
        yield from [line for line in lines if line.startswith(BRIEFLY)] if brief else lines
        yield ""
        runs = call.make_runs({name: info for name in call.dataset_names if (info := call.data.known(name))})
        finished = call.finished(runs)
        costs = call.costs(runs)
        folders = {run.folder for run in runs} - finished
        left |= {folder: costs[folder].device_s if folder in costs else 0.0 for folder in folders}
        parallel = call.table.parallel
    hours_s = sum(left.values()) / parallel
    about = f", about {duration_text(hours_s)}" if hours_s else ""
    yield f"the study: {len(left)} runs are left{about} with {parallel} at a time"
