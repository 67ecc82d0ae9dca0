"""What a run's folder holds, read back: state, ledger, statistics, pictures, and what they say in words."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments import ledger
from experiments.files import UserError
from experiments.progress import duration_text
from experiments.table import Metric, Row, Table, table_from_dict

STATE_NAME = "run.json"
ONE_SEED = "One seed per row: a difference between two runs is an observation, not evidence that one method is better."
MEANINGLESS = "preset smoke: this number is meaningless"
SMALL_SHARE = 0.02  # differences below this are called a tie: two seeds of the same row differ by more


@dataclass(frozen=True)
class RowResult:
    """A row and what came of it. status: done, failed, interrupted or not run."""

    row: Row
    folder: Path
    status: str = "not run"
    entry: ledger.Entry = field(default_factory=dict)  # the ledger's latest of this row
    metrics: dict[str, float] = field(default_factory=dict)
    fingerprint: dict[str, Any] = field(default_factory=dict)
    stats: list[dict[str, float]] = field(default_factory=list)
    wall_s: float = 0.0  # over all attempts
    peak_rss_bytes: int = 0

    @property
    def kimg(self) -> float:
        return self.stats[-1]["kimg"] if self.stats else 0.0

    @property
    def s_per_kimg(self) -> float | None:
        """Training time per thousand pictures, seconds, over the whole row."""
        if not self.stats or not self.kimg or "elapsed_s" not in self.stats[-1]:
            return None
        return self.stats[-1]["elapsed_s"] / self.kimg

    @property
    def parameters(self) -> int | None:
        """Parameters of the generator, where the trainer or the evaluation says so."""
        for source in (self.fingerprint, self.entry.get("trainer", {}), self.entry.get("metrics", {})):
            for key in ("parameters", "g_parameters", "generator_parameters"):
                if isinstance(source.get(key), int):
                    return source[key]
        return None

    def picture(self, name: str) -> Path | None:
        """The path of one of the row's pictures, such as 'samples', if it is there."""
        path = self.folder / f"{name}.png"
        return path if path.is_file() else None


@dataclass(frozen=True)
class Results:
    """A run: its table with the preset applied, its data, its rows."""

    table: Table
    out: Path
    rows: list[RowResult]
    datasets: dict[str, dict[str, Any]]
    calls: list[ledger.Entry]  # one for each call of the runner that had something to run
    problems: list[str]

    @property
    def credits(self) -> list[str]:
        """Credit due wherever a picture is shown."""
        used = {result.row.dataset: None for result in self.rows}
        return [self.table.datasets[name].credit for name in used if self.table.datasets[name].credit]

    @property
    def first_entry(self) -> ledger.Entry:
        """An entry that says what ran and where: the newest of any row."""
        entries = [result.entry for result in self.rows if result.entry]
        return max(entries, key=lambda entry: entry["time_utc"], default={})

    def by_id(self, row_id: str) -> RowResult:
        return next(result for result in self.rows if result.row.id == row_id)


def row_folder(out: Path, row: Row) -> Path:
    """Where a row's trainer works."""
    return out / "rows" / row.id


def finished_rows(out: Path) -> set[str]:
    """Ids of the rows that the ledger calls done and whose metrics are there."""
    entries, _ = ledger.read_entries(out / ledger.NAME)
    done = {entry["row"] for entry in entries if entry["event"] == "row" and entry["status"] == "done"}
    return {row_id for row_id in done if (out / "rows" / row_id / "metrics.json").is_file()}


def read_state(out: Path) -> dict[str, Any] | None:
    """The folder's run.json: {"schema", "identity", "table", "datasets", "own_data"}, or None if there is none."""
    path = out / STATE_NAME
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(
            f"read_state: {path} must be JSON; {error}. It was changed from outside: restore it, or choose another "
            "folder: OUT=..."
        ) from error


def load_results(out: Path) -> Results:
    """Reads a run's folder. Raises UserError if it is none."""
    state = read_state(out)
    if state is None:
        raise UserError(
            f"report: out must be the folder of a run; expected {STATE_NAME} in it, got {str(out)!r} without. "
            "Run something first: python -m experiments.run quickstart --out FOLDER (or make quickstart)."
        )
    table = table_from_dict(state["table"])
    entries, problems = ledger.read_entries(out / ledger.NAME)
    attempts = [entry for entry in entries if entry["event"] == "row"]
    rows = [_row_result(row, out, [e for e in attempts if e["row"] == row.id], problems) for row in table.rows]
    calls = [entry for entry in entries if entry["event"] == "call"]
    return Results(table, out, rows, state["datasets"], calls, problems)


def _row_result(row: Row, out: Path, entries: list[ledger.Entry], problems: list[str]) -> RowResult:
    folder = row_folder(out, row)
    if not entries:
        return RowResult(row, folder, stats=read_stats(folder / "stats.jsonl", problems))
    latest = entries[-1]
    found = latest.get("metrics", {}) if latest["status"] == "done" else {}
    return RowResult(
        row,
        folder,
        latest["status"],
        latest,
        {name: float(found[name]) for name in row.metrics if name in found},
        found.get("fingerprint", {}),
        read_stats(folder / "stats.jsonl", problems),
        sum(entry["wall_s"] for entry in entries),
        max(entry["peak_rss_bytes"] for entry in entries),
    )


def read_stats(path: Path, problems: list[str]) -> list[dict[str, float]]:
    """The ticks in a stats.jsonl by growing kimg; where a resumed run repeats a kimg, the later line counts."""
    if not path.is_file():
        return []
    ticks: dict[float, dict[str, float]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        try:
            tick = {key: float(value) for key, value in json.loads(line).items() if isinstance(value, int | float)}
            ticks = {kimg: old for kimg, old in ticks.items() if kimg < tick["kimg"]} | {tick["kimg"]: tick}
        except (ValueError, KeyError, AttributeError):
            problems.append(f"{path.parent.name}/{path.name}: line {number} is damaged and was left out")
    return list(ticks.values())


def number_text(value: float | None) -> str:
    """A number for a table: four significant digits; a dash for none."""
    if value is None:
        return "–"
    return f"{value:.0f}" if abs(value) >= 1e4 else f"{value:#.4g}".rstrip(".")


def compare(value: float, reference: float, metric: Metric) -> str:
    """'lower by 1.20 (8 %): better', and so on; a tie below SMALL_SHARE."""
    difference = value - reference
    share = abs(difference) / abs(reference) if reference else float("inf")
    if difference == 0 or share < SMALL_SHARE:
        return f"a tie (they differ by {share:.1%})" if difference else "a tie (equal)"
    better = (difference < 0) == metric.lower_is_better
    direction = "lower" if difference < 0 else "higher"
    return f"{direction} by {abs(difference):.3g} ({share:.0%}): {'better' if better else 'worse'}"


def verdicts(results: Results) -> list[str]:
    """One sentence for each row that has a baseline, per metric; honest about what is missing and what it proves."""
    sentences = []
    for result in results.rows:
        if result.row.baseline is None:
            continue
        baseline = results.by_id(result.row.baseline)
        names = f"{result.row.title} against {baseline.row.title}"
        for name in result.row.metrics:
            metric = results.table.metrics[name]
            if name not in result.metrics or name not in baseline.metrics:
                sentences.append(f"{names}: not compared, because not both rows have finished.")
            elif results.table.meaningless:
                sentences.append(f"{names}: not compared ({MEANINGLESS}).")
            else:
                text = compare(result.metrics[name], baseline.metrics[name], metric)
                plainly = (
                    "" if text.endswith("better") or result.row.mtm == "none" else " MTM does not win at this scale."
                )
                sentences.append(f"{names}, {metric.title}: {text}.{plainly}")
    return sentences


def result_lines(results: Results) -> Iterable[str]:
    """A short table for the terminal."""
    width = max(len(result.row.title) for result in results.rows)
    for result in results.rows:
        numbers = ", ".join(
            f"{results.table.metrics[name].title} {number_text(value)}" for name, value in result.metrics.items()
        )
        cost = f"{duration_text(result.wall_s)}" if result.wall_s else ""
        speed = f"{result.s_per_kimg:.1f} s/kimg" if result.s_per_kimg else ""
        parts = [part for part in (numbers, f"{result.kimg:g} kimg", cost, speed) if part]
        yield f"  {result.row.title.ljust(width)}  {result.status:<11}  {', '.join(parts)}"
    yield from (f"  {sentence}" for sentence in verdicts(results))
    yield f"  {MEANINGLESS}" if results.table.meaningless else f"  {ONE_SEED}"
