"""The tables of the paper by name: a file (table1), a part of one (table1b), or all of them as one table (all).

Merged tables form one Table with the sections of all, so a run that appears in more than one of them is done once.
"""

from collections.abc import Iterable
from functools import reduce

from experiments.files import UserError
from experiments.table import load_table
from experiments.table_model import Table

FILES = ("table1", "table2", "table3", "table4", "tableA1", "tableA2", "fig4", "figures")
ALL = "all"
# Title and description of merged tables, by their base.
WORDS = {
    "paper": (
        "Learning Modulated Transformation in GANs: the paper's tables",
        "The tables and figures of the paper that are in this folder. A run that appears in several was done once.",
    ),
    "study": ("The study", "Its tables that are in this folder. docs/study.md has its rules and results."),
}


def names() -> list[str]:
    """Every name that `load_paper` knows."""
    parts = [section.id for name in FILES for section in load_table(name).sections]
    return list(dict.fromkeys([ALL, *FILES, *parts]))


def load_paper(name: str, preset: str = "full") -> Table:
    """The table of this name with the preset applied. Raises UserError for an unknown name, listing the known ones, and
    whenever load_table does."""
    if name == ALL:
        return reduce(merged, (load_table(file, preset) for file in FILES))
    if name in FILES:
        return load_table(name, preset)
    for table in (load_table(file, preset) for file in FILES):
        if name in [section.id for section in table.sections]:
            return part_of(table, name)
    raise UserError(f"reproduce: table must be one of {', '.join(names())}; got {name!r}. Correct it.")


def part_of(table: Table, section_id: str) -> Table:
    """The table reduced to this section, its rows and its metrics."""
    section = next(section for section in table.sections if section.id == section_id)
    rows = [
        row.model_copy(
            update={
                "metrics": [name for name in row.metrics if name in section.metrics],
                "baseline": row.baseline if row.baseline in section.row_ids else None,
            }
        )
        for row in table.rows
        if row.id in section.row_ids
    ]
    return table.model_copy(update={"name": section_id, "title": section.title, "sections": [section], "rows": rows})


def merged(first: Table, second: Table) -> Table:
    """Merges two tables, which must have the same base and preset. A row that is in both gets the metrics of both;
    otherwise the second table's rows and sections take precedence."""
    assert first.family == second.family, "they share no base"
    assert first.preset == second.preset, "they have different presets"
    if {section.id for section in first.sections} <= {section.id for section in second.sections}:
        return second
    before = {row.id: row for row in first.rows}
    rows = before | {
        row.id: row.model_copy(
            update={
                "metrics": union(before[row.id].metrics, row.metrics) if row.id in before else row.metrics,
                "baseline": row.baseline or (before[row.id].baseline if row.id in before else None),
            }
        )
        for row in second.rows
    }
    title, about = WORDS[first.family]
    sections = {section.id: section for section in first.sections} | {s.id: s for s in second.sections}
    return second.model_copy(
        update={
            "name": ALL,
            "title": title,
            "about": about,
            "datasets": first.datasets | second.datasets,
            "rows": list(rows.values()),
            "sections": list(sections.values()),
        }
    )


def union(first: Iterable[str], second: Iterable[str]) -> list[str]:
    return list(dict.fromkeys([*first, *second]))
