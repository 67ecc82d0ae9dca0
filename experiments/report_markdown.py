"""A table of the report as Markdown that is also readable in a terminal."""

from experiments.report_table import NONE, TableText


def cell(text: object) -> str:
    """Text escaped for a table cell or a paragraph, on one line."""
    return str(text).replace("|", "\\|").replace("\n", " ")


def aligned(table: TableText) -> str:
    """The table with padded columns. Title, MTM setting, status and cost of a row are in its first line only."""
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
