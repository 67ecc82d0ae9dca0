"""Renders the report of a table's folder: `python -m experiments.report --out runs/quickstart`.

Writes report.md, report.html and report.png. report.html is self-contained: small images are embedded, each links to
its full-size file in the folder, and nothing is fetched.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import jinja2
from PIL import Image

from experiments.charts import summary_png
from experiments.contact import write_contact_sheet
from experiments.curves import HEIGHT, LEFT, RIGHT, WIDTH, panels
from experiments.files import UserError, atomic_output
from experiments.motion import animations
from experiments.report_markdown import aligned, cell
from experiments.report_table import counts_text, tables_text
from experiments.report_text import cautions, commands, facts, fingerprints
from experiments.results import Results, RowResult, load_results, verdicts
from experiments.sheets import STRENGTHS
from experiments.summary import paper_png
from experiments.thumbnails import Thumbnail, thumbnails

TEMPLATES = Path(__file__).parent / "templates"
MOST_VERDICTS = 8  # if there are more, the report shows counts; the table has each
OPEN_GROUPS = 2  # further groups are collapsed
FIGURES = {
    "samples": (
        "Real and generated images",
        "The generated images are the first ones; none was selected.",
    ),
    "fig4": (
        "Offsets on and off",
        "The switch of the paper's Fig. 4: the same latents with the learned offsets, and with the offsets set to "
        "zero, where the same convolutions sample their regular grid.",
    ),
    "films": (
        "Generated videos",
        "Each row shows every second frame of a video. These are the first videos; none was selected.",
    ),
    "offsets": ("Learned offsets", "Where the convolution samples: learned offsets for a few latents."),
}
SWEEP = [f"strength-{strength:.1f}" for strength in STRENGTHS]
SWEEP_IN_MARKDOWN = [SWEEP[0], SWEEP[5], SWEEP[10], SWEEP[15]]


def render(out: Path) -> list[Path]:
    """Renders report.html, report.md and report.png in the table's folder, and contact.png if several trainers are
    compared with and without MTM. Returns their paths."""
    results = load_results(out)
    sheet = write_contact_sheet(out, row_groups(results))
    context = report_context(results, sheet)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=lambda name: bool(name and "html" in name),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"cell": cell, "aligned": aligned}
    paths = [out / "report.html", out / "report.md", out / "report.png"]
    for path in paths[:2]:
        text = environment.get_template(f"{path.name}.j2").render(context)
        with atomic_output(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    with atomic_output(paths[2]) as temporary:
        (paper_png if results.table.sections else summary_png)(results, temporary)
    return [*paths, sheet] if sheet else paths


def report_context(results: Results, sheet: Path | None) -> dict[str, Any]:
    """The variables of the templates, as text; see templates/report.html.j2. `sheet` is the contact sheet."""
    table = results.table
    groups = row_groups(results)
    small, unreadable = thumbnails((files for group in groups for files in _image_files(group)), first=sheet)
    moving = animations(file for group in groups for _, file in _titled(group, "films"))
    return {
        "title": table.title,
        "about": " ".join(table.about.split()),
        "smoke": table.meaningless,
        "preset": table.preset,
        "setting": "" if table.preset == "full" else " ".join(table.applied.about.split()),
        "verdicts": _verdicts(results),
        "one_seed": "" if table.meaningless else results.one_seed,
        "tables": tables_text(results),
        "counts": counts_text(result.status for result in results.rows),
        "fingerprints": fingerprints(results),
        "cautions": [] if table.meaningless else cautions(results),
        "contact": small.get((sheet,)) if sheet else None,
        "contact_file": sheet.name if sheet else "",
        "groups": [_group(results, group, small, moving) for group in groups],
        "open_groups": OPEN_GROUPS,
        "chart": {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": WIDTH - RIGHT},
        "credits": results.credits,
        "facts": facts(results),
        "commands": commands(results),
        "problems": [*results.problems, *unreadable],
    }


def row_groups(results: Results) -> list[list[RowResult]]:
    """Groups of rows: a baseline with the rows that are compared with it; the other rows by data set and trainer."""
    baselines = {result.row.baseline for result in results.rows}
    groups: dict[tuple[str, ...], list[RowResult]] = {}
    for result in results.rows:
        row = result.row
        anchor = row.baseline or (row.id if row.id in baselines else None)
        groups.setdefault((anchor,) if anchor else (row.dataset, row.trainer), []).append(result)
    return list(groups.values())


def _verdicts(results: Results) -> list[str]:
    if results.table.meaningless:
        return []
    sentences = verdicts(results)
    if len(sentences) <= MOST_VERDICTS:
        return sentences
    kinds = ("not compared", ": better", ": worse", "a tie")
    counts = Counter(next(kind for kind in kinds if kind in sentence) for sentence in sentences)
    parts = [f"{counts[kind]} {kind.removeprefix(': ')}" for kind in (": better", ": worse", "not compared")]
    return [f"{len(sentences)} comparisons: {', '.join(parts)}, {counts['a tie']} ties. The table has each."]


def _image_files(group: list[RowResult]) -> Iterator[list[Path]]:
    """The files of each thumbnail of the group."""
    yield from ([file] for name in FIGURES for _, file in _titled(group, name))
    yield from (files for _, files in _sweeps(group))


def _titled(group: list[RowResult], name: str) -> list[tuple[str, Path]]:
    found = [(result.row.title, result.image(name)) for result in group]
    if name == "samples":
        found.insert(0, ("Real", next((file for r in group if (file := r.image("reals"))), None)))
    return [(title, file) for title, file in found if file is not None]


def _sweeps(group: list[RowResult]) -> list[tuple[str, list[Path]]]:
    """(title, one image per strength) for each row that has all of these images."""
    found = [(result.row.title, [result.image(name) for name in SWEEP]) for result in group]
    return [(title, [f for f in files if f]) for title, files in found if all(files)]


def _group(
    results: Results,
    group: list[RowResult],
    small: dict[tuple[Path, ...], Thumbnail],
    moving: dict[Path, Thumbnail],
) -> dict[str, Any]:
    """The templates' variables of a group. An image is {"title", "file", "uri", "width", "height", "note", "moving"};
    `moving` is the animation of a strip of frames."""

    def images(titled: list[tuple[str, list[Path]]]) -> list[dict[str, Any]]:
        return [
            {
                "title": title,
                "file": files[0].relative_to(results.out).as_posix(),
                "moving": moving.get(files[0]),
                **vars(thumbnail),
            }
            for title, files in titled
            if (thumbnail := small.get(tuple(files)))
        ]

    figures = []
    for name, (title, caption) in FIGURES.items():
        if shown := images([(row, [file]) for row, file in _titled(group, name)]):
            figures.append({"title": title, "caption": caption, "images": shown, "wide": _is_wide(shown)})
    sweeps = images(_sweeps(group))
    strengths = {
        result.row.title: [
            (name.removeprefix("strength-"), file.relative_to(results.out).as_posix())
            for name in SWEEP_IN_MARKDOWN
            if (file := result.image(name))
        ]
        for result in group
    }
    titles = [result.row.title for result in group]
    data = results.table.datasets[group[0].row.dataset].title.rstrip(".")
    return {
        "title": f"{data}: {'; '.join(titles[:3])}" + (f"; and {len(titles) - 3} more" if len(titles) > 3 else ""),
        "rows": titles,
        "figures": figures,
        "sweeps": sweeps,
        "sweeps_wide": _is_wide(sweeps),
        "strengths": {title: files for title, files in strengths.items() if files},
        "panels": panels(group),
    }


def _is_wide(shown: list[dict[str, Any]]) -> bool:
    """Whether these images are placed below each other instead of side by side."""
    return len(shown) == 1 or sum(image["width"] / image["height"] for image in shown) > 1.6 * len(shown)


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The table's folder.")
@click.option(
    "--image",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write report.png with 256 colours to this file.",
)
def main(out: Path, image: Path | None) -> None:
    """Render report.md, report.html and report.png of a table. --image is for a README, which should load quickly."""
    try:
        paths = render(out)
        if image:
            with Image.open(out / "report.png") as whole, atomic_output(image) as temporary:
                whole.convert("RGB").quantize(256, kmeans=2).save(temporary, format="png", optimize=True)
            paths.append(image)
    except UserError as error:
        raise click.ClickException(str(error)) from None
    click.echo("report: " + "\n        ".join(str(path) for path in paths))


if __name__ == "__main__":
    main()
