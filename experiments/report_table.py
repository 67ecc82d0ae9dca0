"""The report's tables as text, one per section of the paper: for each row the paper's numbers, ours, and our cost."""

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

from experiments.metrics import METRICS
from experiments.metrics.base import STAND_IN
from experiments.progress import duration_text
from experiments.results import Results, RowResult, compare, compare_rows, difference_text, number_text
from experiments.table_model import MEASURES, Entry, Section

NONE = "–"
CITED = "cited"
SMOKE = "smoke test"  # the verdict on every number of a smoke test
COLUMNS = {  # of a line; a column that is empty in all lines of a section is left out
    "metric": "metric",
    "paper": "paper",
    "ours": "ours",
    "difference": "difference",
    "verdict": "verdict",
    "baseline": "against the baseline",
}
ALWAYS = ("ours",)


@dataclass(frozen=True)
class Line:
    """One metric or measure of a row, as text. `grey`: the numbers of this line must not be compared with others."""

    metric: str
    ours: str = NONE
    paper: str = NONE
    difference: str = NONE
    verdict: str = NONE
    baseline: str = NONE
    marks: str = ""  # caveats shown beside our value, such as "(stand-in weights)"
    runs: str = ""  # our value for each seed, if there are several
    grey: bool = False

    @property
    def whole(self) -> str:
        """Our value with the values of the seeds and the caveats."""
        return " ".join(part for part in (self.ours, self.runs, self.marks) if part)


@dataclass(frozen=True)
class TableRow:
    """A row of a section. `status` is that of the RowResult, or CITED; `cost` lists what the training took."""

    title: str
    mtm: str
    status: str
    lines: list[Line]
    cost: list[str] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """The status as one word, without counts: done, not-run, partial, failed, interrupted or cited."""
        return self.status.split(" (")[0].replace(" ", "-")


@dataclass(frozen=True)
class TableText:
    id: str
    title: str
    columns: dict[str, str]  # attribute of a Line -> heading
    rows: list[TableRow]
    note: str

    @property
    def counts(self) -> str:
        """The number of rows by status, such as '3 of 4 done, 1 not run'."""
        return counts_text(row.status for row in self.rows)


def tables_text(results: Results) -> list[TableText]:
    """A table for each section."""
    return [_table(results, section) for section in results.table.shown_sections]


def counts_text(statuses: Any) -> str:
    """Counts by status, such as '3 of 4 done, 1 not run, 2 cited'. Cited rows do not count in the total."""
    counts = Counter(status.split(" (")[0] for status in statuses)
    cited, done = counts.pop(CITED, 0), counts.pop("done", 0)
    parts = [f"{done} of {done + counts.total()} done"] if done or counts else []
    parts += [f"{count} {status}" for status, count in counts.items()]
    return ", ".join(parts + [f"{cited} {CITED}"] * bool(cited))


def _table(results: Results, section: Section) -> TableText:
    rows = [_row(results, section, entry) for entry in section.entries]
    lines = [line for row in rows for line in row.lines]
    columns = {
        name: title
        for name, title in COLUMNS.items()
        if name in ALWAYS or any(getattr(line, name) != NONE for line in lines)
    }
    return TableText(section.id, section.title, columns, rows, _note(results, section))


def _note(results: Results, section: Section) -> str:
    notes = []
    if not results.table.applied.comparable:
        names = dict.fromkeys(results.by_id(row_id).row.dataset for row_id in section.row_ids)
        titles = "; ".join(dict.fromkeys(results.table.datasets[name].title.rstrip(".") for name in names))
        notes.append(f"Trained and measured here on other data than the paper's: {titles}.")
    if section.figure:
        notes.append("Its images are below, by row; none was selected.")
    return " ".join(notes)


def _paper_text(value: float | None) -> str:
    """The number as in the paper, without trailing zeros."""
    return NONE if value is None else str(value)


def _difference(ours: float | None, paper: float | None) -> str:
    if ours is None or paper is None:
        return NONE
    return difference_text(ours - paper, sign="+")


def _row(results: Results, section: Section, entry: Entry) -> TableRow:
    if not entry.row:  # cited by the paper from other work: only the paper's numbers
        titles = {**{name: METRICS[name].title for name in section.metrics}, **MEASURES}
        lines = [Line(titles[name], paper=_paper_text(entry.paper[name])) for name in titles if name in entry.paper]
        return TableRow(entry.title, NONE, CITED, lines)
    whole = results.by_id(entry.row)
    metrics = [name for name in section.metrics if name in whole.row.metrics]
    result = replace(whole, row=whole.row.model_copy(update={"metrics": metrics, "paper": entry.paper}))
    shown = [name for name in section.metrics if name in metrics or name in entry.paper]
    lines = [_metric_line(results, result, name) for name in shown]
    lines += [_measure_line(results, result, name) for name in section.measures]
    return TableRow(entry.title, result.row.mtm, result.status, lines or [Line(NONE)], _cost(result))


def _metric_line(results: Results, result: RowResult, name: str) -> Line:
    ours, paper = result.metrics.get(name), result.row.paper.get(name)
    mark = result.mark(name).strip(" ()")
    line = Line(
        METRICS[name].title,
        ours=number_text(ours, result.spread(name) if ours is not None else None),
        paper=_paper_text(paper),
        runs=_runs_text(result, name),
        marks=f"({mark})" if mark else "",
        baseline=NONE if results.table.meaningless else _against_baseline(results, result, name),
    )
    if name not in result.row.metrics:
        return replace(line, verdict=f"not measured by preset {results.table.preset}")
    if not result.values(name):
        done = any(run.status == "done" for run in result.runs)
        return replace(line, verdict="not measured") if done else line
    difference = _difference(ours, paper)
    if results.table.meaningless:
        return replace(line, difference=difference, verdict=SMOKE, grey=True)
    if paper is None or ours is None:
        return line
    if mark:
        return replace(line, difference=difference, verdict=f"not compared: {STAND_IN} weights", grey=True)
    if not results.table.applied.comparable:
        verdict = f"not compared: preset {results.table.preset}"
        return replace(line, difference=difference, verdict=verdict, grey=True)
    return replace(line, difference=difference, verdict=compare(ours, paper, METRICS[name]))


def _runs_text(result: RowResult, name: str) -> str:
    """The value of each run, if the row has several."""
    if len(result.runs) < 2 or not result.values(name):
        return ""
    values = [(run, run.value(name)) for run in result.runs]
    texts = [f"seed {run.seed}: {run.status if value is None else number_text(value)}" for run, value in values]
    return f"({', '.join(texts)})"


def _measure_line(results: Results, result: RowResult, name: str) -> Line:
    """A cost from the bench of Table 4, or the number of parameters of the trained network."""
    paper = result.row.paper.get(name)
    line = Line(MEASURES[name], paper=_paper_text(paper))
    measured = results.bench.get("settings", {}).get(result.row.mtm, {})
    if name == "parameters_m":
        count = result.parameters or measured.get("parameters")
        value = count / 1e6 if count else None
    else:
        value = measured.get(name)
    if value is None:
        return line
    line = replace(line, ours=number_text(value), difference=_difference(value, paper))
    if results.table.meaningless:
        return replace(line, verdict=SMOKE, grey=True)
    on_cpu = name != "parameters_m" and results.bench.get("device") == "cpu"
    if on_cpu:
        return replace(line, marks="(on a CPU)", verdict="not compared: on a CPU", grey=True)
    if not results.table.applied.comparable:
        return replace(line, verdict=f"not compared: preset {results.table.preset}", grey=True)
    return line


def _against_baseline(results: Results, result: RowResult, name: str) -> str:
    if result.row.baseline is None:
        is_one = any(other.row.baseline == result.row.id for other in results.rows)
        return "the baseline" if is_one else NONE
    return compare_rows(result, results.by_id(result.row.baseline), name)


def _cost(result: RowResult) -> list[str]:
    """kimg of the first run, time of all runs, speed, memory and parameters; empty for a row that has not begun."""
    parts = [_kimg_text(result)] if result.kimg else []
    parts += [duration_text(result.wall_s)] if result.wall_s else []
    parts += [f"{number_text(result.s_per_kimg)} s/kimg"] if result.s_per_kimg else []
    parts += [f"{result.peak_rss_bytes / 1e9:.2f} GB of memory"] if result.peak_rss_bytes else []
    return parts + ([f"{result.parameters:,} parameters"] if result.parameters else [])


def _kimg_text(result: RowResult) -> str:
    """kimg of the first run; if it has not finished, also of how many."""
    total = result.row.options.get("kimg")
    whole = result.first.status == "done" or total is None
    return f"{result.kimg:g} kimg" if whole else f"{result.kimg:g} of {total:g} kimg"
