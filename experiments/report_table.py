"""The report's tables as text: a section of the paper each, with its number, ours, and what ours cost."""

from dataclasses import replace
from typing import Any

from experiments.metrics import METRICS
from experiments.metrics.base import STAND_IN
from experiments.progress import duration_text
from experiments.results import Results, RowResult, compare, compare_rows, number_text
from experiments.table_model import MEASURES, Entry, Section

NONE = "–"
CITED = "cited"
_FIRST, _COMPARED = ["row", "mtm", "status"], ["difference", "verdict"]
_COST = ["kimg", "time", "s/kimg", "memory", "parameters"]


def tables_text(results: Results) -> list[dict[str, Any]]:
    """A {"title", "columns", "rows", "note"} for each section, without columns that no row fills, except for ours."""
    return [_table(results, section) for section in results.table.shown_sections]


def _table(results: Results, section: Section) -> dict[str, Any]:
    columns = _columns(results, section)
    rows = [_cells(results, section, entry) for entry in section.entries]
    ours = {*_FIRST, *[METRICS[name].title for name in section.metrics], *[MEASURES[name] for name in section.measures]}
    kept = [i for i, name in enumerate(columns) if name in ours or any(row[i] != NONE for row in rows)]
    pick = [[row[i] for i in kept] for row in rows]
    return {
        "title": section.title,
        "columns": [columns[i] for i in kept],
        "rows": pick,
        "note": _note(results, section),
    }


def _note(results: Results, section: Section) -> str:
    notes = []
    if not results.table.applied.comparable:
        names = dict.fromkeys(results.by_id(row_id).row.dataset for row_id in section.row_ids)
        titles = " ".join(dict.fromkeys(results.table.datasets[name].title for name in names))
        notes.append(f"Trained and measured here on other data than the paper's: {titles}")
    if section.figure:
        notes.append("Its images are below, by row; none was selected.")
    return " ".join(notes)


def _paper_text(value: float | None) -> str:
    """As the paper has it, but for zeros at the end."""
    return NONE if value is None else str(value)


def _has_paper(section: Section) -> bool:
    return any(name in METRICS for entry in section.entries for name in entry.paper)


def _has_baseline(results: Results, section: Section) -> bool:
    return any(results.by_id(row_id).row.baseline for row_id in section.row_ids)


def _columns(results: Results, section: Section) -> list[str]:
    paper = ["paper", *_COMPARED] if _has_paper(section) else []
    columns = [*_FIRST]
    for name in section.metrics:
        title = METRICS[name].title
        columns += [title, *[f"{title}: {word}" for word in paper]]
    for name in section.measures:
        columns += [MEASURES[name], f"{MEASURES[name]}: paper"]
    compared = ["against the baseline"] if _has_baseline(results, section) else []
    return [*columns, *compared, *_COST]


def _cells(results: Results, section: Section, entry: Entry) -> list[str]:
    if not entry.row:
        return _cited(results, section, entry)
    whole = results.by_id(entry.row)
    metrics = [name for name in section.metrics if name in whole.row.metrics]
    result = replace(whole, row=whole.row.model_copy(update={"metrics": metrics, "paper": entry.paper}))
    numbers = [cell for name in section.metrics for cell in _metric_cells(results, section, result, name)]
    for name in section.measures:
        numbers += [_measure_text(results, result, name), _paper_text(entry.paper.get(name))]
    compared = [_against_baseline(results, section, result)] if _has_baseline(results, section) else []
    memory = f"{result.peak_rss_bytes / 1e9:.2f} GB" if result.peak_rss_bytes else NONE
    cost = [_kimg_text(result), duration_text(result.wall_s) if result.wall_s else NONE, number_text(result.s_per_kimg)]
    parameters = f"{result.parameters:,}" if result.parameters else NONE
    return [entry.title, result.row.mtm, result.status, *numbers, *compared, *cost, memory, parameters]


def _kimg_text(result: RowResult) -> str:
    """How far the first run is, and of how much where it has not ended."""
    total = result.row.options.get("kimg")
    whole = result.first.status == "done" or not result.kimg or total is None
    return f"{result.kimg:g}" if whole else f"{result.kimg:g} of {total:g}"


def _cited(results: Results, section: Section, entry: Entry) -> list[str]:
    """A row that the paper cites from others: its numbers, and nothing of ours."""
    cells = [entry.title, NONE, CITED]
    for name in section.metrics:
        cells += [NONE, *([_paper_text(entry.paper.get(name)), NONE, NONE] if _has_paper(section) else [])]
    for name in section.measures:
        cells += [NONE, _paper_text(entry.paper.get(name))]
    return [*cells, *[NONE] * (len(_columns(results, section)) - len(cells))]


def _metric_cells(results: Results, section: Section, result: RowResult, name: str) -> list[str]:
    """Ours; beside a paper's number also that, the difference and what it means."""
    text = _metric_text(results, result, name)
    if not _has_paper(section):
        return [text]
    ours, paper = result.metrics.get(name), result.row.paper.get(name)
    if ours is None or paper is None:
        return [text, _paper_text(paper), NONE, NONE]
    if results.table.meaningless:
        return [text, _paper_text(paper), NONE, "meaningless"]
    if result.mark(name):
        return [text, _paper_text(paper), NONE, STAND_IN]
    if not results.table.applied.comparable:
        return [text, _paper_text(paper), NONE, f"not compared: preset {results.table.preset}"]
    return [text, _paper_text(paper), f"{ours - paper:+.3g}", compare(ours, paper, METRICS[name])]


def _metric_text(results: Results, result: RowResult, name: str) -> str:
    """The mean over the seeds and its spread, then every run; no mean where the runs took it in different ways."""
    mean = result.metrics.get(name)
    text = number_text(mean, result.spread(name) if mean is not None else None)
    if len(result.runs) > 1:
        values = [(run, run.value(name)) for run in result.runs]
        runs = [f"seed {run.seed}: {run.status if value is None else number_text(value)}" for run, value in values]
        text += f"\n({', '.join(runs)})" if result.values(name) else ""
    text += result.mark(name)
    return f"{text} (meaningless)" if results.table.meaningless and result.values(name) else text


def _measure_text(results: Results, result: RowResult, name: str) -> str:
    """A cost that the bench of Table 4 measured, or the size of the network that was trained."""
    measured = results.bench.get("settings", {}).get(result.row.mtm, {})
    if name == "parameters_m":
        count = result.parameters or measured.get("parameters")
        return number_text(count / 1e6) if count else NONE
    if name not in measured:
        return NONE
    where = " (meaningless)" if results.table.meaningless else " (on a CPU)" * (results.bench.get("device") == "cpu")
    return number_text(measured[name]) + where


def _against_baseline(results: Results, section: Section, result: RowResult) -> str:
    if result.row.baseline is None:
        shown = [results.by_id(row_id).row.baseline for row_id in section.row_ids]
        return "the baseline" if result.row.id in shown else NONE
    if results.table.meaningless:
        return "meaningless"
    baseline = results.by_id(result.row.baseline)
    titled = len(section.metrics) > 1
    return "; ".join(
        (f"{METRICS[name].title}: " if titled else "") + compare_rows(result, baseline, name)
        for name in result.row.metrics
    )
