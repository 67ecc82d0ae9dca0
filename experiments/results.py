"""Reads the contents of OUT (table, ledger, ticks and images) and summarises them in words."""

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments import ledger
from experiments.costs import bench_of
from experiments.files import UserError
from experiments.folder import STATE_NAME, differences, read_state
from experiments.metrics import METRICS, Metric
from experiments.metrics.base import STAND_IN_MARK, is_stand_in
from experiments.progress import duration_text
from experiments.table import Row, Table, table_from_dict
from experiments.trainers import TRAINERS
from experiments.trainers.contract import IMAGES, Tick, load_run, mean_s_per_kimg

ONE_SEED = "One seed per row: a difference between two runs is an observation, not evidence that one method is better."
SMOKE = "a smoke test: its numbers say nothing about any method"
SMALL_SHARE = 0.02  # smaller differences are called a tie, because two seeds of the same row differ by more


@dataclass(frozen=True)
class RunResult:
    """A row with one seed, and its outcome. status: done, failed, interrupted, partial (begun but not ended: it is
    running, or was killed) or not run."""

    seed: int
    folder: Path | None = None  # None if it was never begun
    status: str = "not run"
    entry: ledger.Attempt | None = None  # the latest attempt
    ticks: list[Tick] = field(default_factory=list)
    wall_s: float = 0.0  # over all attempts
    peak_rss_bytes: int = 0

    def value(self, metric: str) -> float | None:
        """The value of a metric; None if the run is not finished or does not have it."""
        measured = self.entry.metrics.get(metric) if self.entry and self.status == "done" else None
        return measured.value if measured else None

    def fingerprint(self, metric: str) -> dict[str, Any]:
        """The fingerprint of a metric: how it was computed. Empty if the run does not have it."""
        measured = self.entry.metrics.get(metric) if self.entry and self.status == "done" else None
        return measured.fingerprint if measured else {}

    @property
    def kimg(self) -> float:
        return self.ticks[-1].kimg if self.ticks else 0.0

    @property
    def s_per_kimg(self) -> float | None:
        """Training time per thousand images, seconds, over the whole run."""
        return mean_s_per_kimg(self.ticks)

    def image(self, name: str) -> Path | None:
        """The path of one of the run's images, such as 'samples', if it exists."""
        path = self.folder / IMAGES / f"{name}.png" if self.folder else None
        return path if path is not None and path.is_file() else None


@dataclass(frozen=True)
class RowResult:
    """A row: the runs of all its seeds, in order. Values that only one run can give come from the first."""

    row: Row
    runs: list[RunResult]

    @property
    def status(self) -> str:
        """The status done if all runs are done; else the first other status, with the number of runs that are done."""
        other = next((run.status for run in self.runs if run.status != "done"), None)
        done = sum(run.status == "done" for run in self.runs)
        return "done" if other is None else f"{other} ({done} of {len(self.runs)} done)" if done else other

    @property
    def first(self) -> RunResult:
        return self.runs[0]

    @property
    def entry(self) -> ledger.Attempt | None:
        return self.first.entry

    def values(self, metric: str) -> list[float]:
        """The metric's values of the runs that have it."""
        return [value for run in self.runs if (value := run.value(metric)) is not None]

    def fingerprint(self, metric: str) -> dict[str, Any]:
        """The metric's fingerprint from the first run that has it; empty if none has. `metrics` checks that the runs'
        fingerprints agree."""
        return next((run.fingerprint(metric) for run in self.runs if run.fingerprint(metric)), {})

    @property
    def metrics(self) -> dict[str, float]:
        """The mean of each metric over the runs that have it, if all of them computed it in the same way."""
        found = {}
        for name in self.row.metrics:
            prints = [run.fingerprint(name) for run in self.runs if run.value(name) is not None]
            if prints and all(one == prints[0] for one in prints):
                found[name] = statistics.fmean(self.values(name))
        return found

    def spread(self, metric: str) -> float | None:
        """Standard deviation over the seeds (divided by n - 1); None for fewer than two."""
        values = self.values(metric)
        return statistics.stdev(values) if len(values) > 1 else None

    def mark(self, metric: str) -> str:
        """The mark that follows every value of that metric that was computed with stand-in weights; else empty."""
        return STAND_IN_MARK if any(is_stand_in(run.fingerprint(metric)) for run in self.runs) else ""

    @property
    def wall_s(self) -> float:
        return sum(run.wall_s for run in self.runs)

    @property
    def peak_rss_bytes(self) -> int:
        return max(run.peak_rss_bytes for run in self.runs)

    @property
    def kimg(self) -> float:
        return self.first.kimg

    @property
    def s_per_kimg(self) -> float | None:
        return self.first.s_per_kimg

    @property
    def parameters(self) -> int | None:
        """Number of parameters of the generator, if the trainer recorded it."""
        found = self.entry.trainer.get("generator_parameters") if self.entry else None
        return found if isinstance(found, int) else None

    def image(self, name: str) -> Path | None:
        """The path of one of the first run's images."""
        return self.first.image(name)


@dataclass(frozen=True)
class Results:
    """A table with its preset applied, its data, its rows."""

    table: Table
    out: Path
    rows: list[RowResult]
    datasets: dict[str, dict[str, Any]]
    calls: list[ledger.Call]  # one for each call of the runner that had something to run
    problems: list[str]
    bench: dict[str, Any] = field(default_factory=dict)  # results of the bench of Table 4, if it ran

    @property
    def credits(self) -> list[str]:
        """The credits that must accompany the images."""
        credits = (self.table.datasets[result.row.dataset].credit for result in self.rows)
        return [credit for credit in dict.fromkeys(credits) if credit]

    @property
    def first_entry(self) -> ledger.Attempt | None:
        """The newest entry of any row, which says what ran and where."""
        entries = [run.entry for result in self.rows for run in result.runs if run.entry]
        return max(entries, key=lambda entry: entry.time_utc, default=None)

    @property
    def one_seed(self) -> str:
        """The caution for a table in which a row has only one seed; else empty."""
        return ONE_SEED if any(len(result.runs) == 1 for result in self.rows) else ""

    def by_id(self, row_id: str) -> RowResult:
        return next(result for result in self.rows if result.row.id == row_id)


def load_results(out: Path) -> Results:
    """Reads OUT. Raises UserError if it holds no table."""
    state = read_state(out)
    if state is None:
        raise UserError(
            f"report: OUT must be the folder of a table that was run, with {STATE_NAME} in it; got {str(out)!r}. "
            "Give the folder of your run: make report OUT=FOLDER. Or run a table first, such as make quickstart."
        )
    table = table_from_dict(state.table, STATE_NAME)
    entries, problems = ledger.read_entries(out / ledger.NAME)
    attempts = [entry for entry in entries if isinstance(entry, ledger.Attempt)]
    rows = []
    for row in table.rows:
        folders = state.runs.get(row.id, {})
        runs = [_run_result(row, seed, out, folders.get(str(seed)), attempts, problems) for seed in row.seeds]
        rows.append(RowResult(row, runs))
    calls = [entry for entry in entries if isinstance(entry, ledger.Call)]
    try:
        bench = bench_of(out)
    except UserError as error:
        bench, problems = {}, [*problems, str(error)]
    return Results(table, out, rows, state.datasets, calls, list(dict.fromkeys(problems)), bench)


def _run_result(
    row: Row, seed: int, out: Path, folder: str | None, attempts: list[ledger.Attempt], problems: list[str]
) -> RunResult:
    if folder is None:
        return RunResult(seed)
    try:
        run = load_run(out / folder)
        if changed := differences(run.options, row.options, "options"):
            problems.append(f"{folder} has other options and is not shown: {'; '.join(changed[:4])}")
            return RunResult(seed)
        ticks = TRAINERS[run.trainer].ticks(run, problems)
    except UserError as error:
        problems.append(str(error))
        ticks = []
    mine = [entry for entry in attempts if entry.run == folder]
    if not mine:
        return RunResult(seed, out / folder, "partial" if ticks else "not run", ticks=ticks)
    problems += [f"{folder}: {mine[-1].message}"] if mine[-1].message else []
    return RunResult(
        seed,
        out / folder,
        mine[-1].status,
        mine[-1],
        ticks,
        sum(entry.wall_s for entry in mine),
        max(entry.peak_rss_bytes for entry in mine),
    )


def number_text(value: float | None, spread: float | None = None) -> str:
    """A number for a table: four significant digits, or a dash for None. With a spread, 'mean ± spread'."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:.0f}" if abs(value) >= 1e4 else f"{value:#.4g}".rstrip(".")
    return text if spread is None else f"{text} ± {spread:.2g}"


def difference_text(value: float, sign: str = "") -> str:
    """A difference with three significant digits and no exponent for large values; `sign="+"` always shows the sign."""
    return f"{value:{sign}.0f}" if abs(value) >= 1000 else f"{value:{sign}.3g}"


def compare(value: float, reference: float, metric: Metric) -> str:
    """'lower by 1.20 (8 %): better' and so on; a tie if the share is below SMALL_SHARE."""
    difference = value - reference
    share = abs(difference) / abs(reference) if reference else float("inf")
    if difference == 0 or share < SMALL_SHARE:
        return f"a tie (they differ by {share:.1%})" if difference else "a tie (equal)"
    better = (difference < 0) == metric.lower_is_better
    direction = "lower" if difference < 0 else "higher"
    return f"{direction} by {difference_text(abs(difference))} ({share:.0%}): {'better' if better else 'worse'}"


def compare_rows(result: RowResult, baseline: RowResult, name: str) -> str:
    """`compare` for a metric of two rows, or 'not compared' with the reason."""
    for one in (result, baseline):
        if name not in one.row.metrics:
            return f"not compared, because {one.row.title} does not ask for this metric"
        if name not in one.metrics:
            why = "its runs computed it in different ways" if one.values(name) else f"{one.row.title} is {one.status}"
            return f"not compared, because {why}"
    if baseline.mark(name) or result.mark(name):
        return "not compared, because the extractor's weights are stand-ins"
    if lines := differences(baseline.fingerprint(name), result.fingerprint(name)):
        return f"not compared, because their fingerprints differ in {'; '.join(lines[:3])}"
    text = compare(result.metrics[name], baseline.metrics[name], METRICS[name])
    seeds = min(len(result.values(name)), len(baseline.values(name)))
    return f"{text} (mean of {seeds} seeds)" if seeds > 1 else text


def verdicts(results: Results) -> list[str]:
    """One sentence per metric for each row that has a baseline. It says so if the values cannot be compared, or if MTM
    does not win."""
    sentences = []
    for result in results.rows:
        if result.row.baseline is None:
            continue
        baseline = results.by_id(result.row.baseline)
        for name in result.row.metrics:
            names = f"{result.row.title} against {baseline.row.title}, {METRICS[name].title}"
            text = compare_rows(result, baseline, name)
            if results.table.meaningless and not text.startswith("not compared"):
                text = f"not compared ({SMOKE})"
            win = ": better" in text or text.startswith("not compared") or result.row.mtm == "none"
            sentences.append(f"{names}: {text}." + ("" if win else " MTM does not win at this scale."))
    return sentences


def result_lines(results: Results) -> Iterable[str]:
    """A short table for the terminal."""
    width = max(len(result.row.title) for result in results.rows)
    for result in results.rows:
        numbers = ", ".join(
            f"{METRICS[name].title} {number_text(value, result.spread(name))}{result.mark(name)}"
            for name, value in result.metrics.items()
        )
        cost = f"{duration_text(result.wall_s)}" if result.wall_s else ""
        speed = f"{result.s_per_kimg:.1f} s/kimg" if result.s_per_kimg else ""
        parts = [part for part in (numbers, f"{result.kimg:g} kimg", cost, speed) if part]
        yield f"  {result.row.title.ljust(width)}  {result.status:<11}  {', '.join(parts)}"
    yield from (f"  {sentence}" for sentence in verdicts(results))
    yield f"  {SMOKE}" if results.table.meaningless else f"  {results.one_seed}".rstrip()
