"""A table of the report as Markdown that is easy to read in a terminal too."""

from experiments.report_table import NONE, TableText


def cell(text: object) -> str:
    """Text for a cell, or a paragraph, of one line."""
    return str(text).replace("|", "\\|").replace("\n", " ")


def aligned(table: TableText) -> str:
    """The table with columns of equal width. What belongs to a row as a whole stands in its first line."""
    costs = any(row.cost for row in table.rows)
    header = ["row", "MTM", "status", *table.columns.values(), *["cost"] * costs]
    lines = [header]
    for row in table.rows:
        for i, line in enumerate(row.lines):
            numbers = [line.whole if name == "ours" else getattr(line, name) for name in table.columns]
            whole = [row.title, row.mtm, row.status] if i == 0 else [""] * 3
            cost = (", ".join(row.cost) or NONE) if i == 0 else ""
            lines.append([cell(text) for text in [*whole, *numbers, *[cost] * costs]])
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    texts = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    return "\n".join([texts[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *texts[1:]])
