"""Renders a run's folder: `python -m experiments.report --out runs/quickstart`.

Writes report.md, report.html (self-contained: pictures are inside, nothing is fetched) and report.png.
"""

import base64
import json
from pathlib import Path
from typing import Any

import click
import jinja2

from experiments.charts import aspect_ratio, curve_names, curve_svg, curve_title, summary_png
from experiments.files import UserError, atomic_output
from experiments.progress import duration_text
from experiments.results import MEANINGLESS, ONE_SEED, Results, RowResult, compare, load_results, number_text, verdicts
from experiments.table import Metric

TEMPLATES = Path(__file__).parent / "templates"
CAPTIONS = {
    "samples": "The generated pictures are the first that came; none was selected.",
    "fig4": "The switch of the paper's Fig. 4: the same latents with the learned offsets, and with the offsets set to "
    "zero, where the same convolutions sample their regular grid.",
    "offsets": "Where the convolution looks: learned offsets for a few latents.",
}


def render(out: Path) -> list[Path]:
    """Renders report.html, report.md and report.png in the run's folder and returns their paths."""
    results = load_results(out)
    context = report_context(results)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=lambda name: bool(name and "html" in name),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["cell"] = lambda text: str(text).replace("|", "\\|").replace("\n", " ")
    paths = [out / "report.html", out / "report.md", out / "report.png"]
    for path in paths[:2]:
        text = environment.get_template(f"{path.name}.j2").render(context)
        with atomic_output(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    with atomic_output(paths[2]) as temporary:
        summary_png(results, temporary)
    return paths


def report_context(results: Results) -> dict[str, Any]:
    """What the templates show, as text; see templates/report.html.j2."""
    table = results.table
    return {
        "title": table.title,
        "about": " ".join(table.about.split()),
        "meaningless": MEANINGLESS if table.meaningless else "",
        "preset": table.preset,
        "verdicts": verdicts(results),
        "one_seed": ONE_SEED,
        **_table(results),
        "fingerprints": _fingerprints(results),
        "cautions": _cautions(results),
        "figures": _figures(results),
        "credits": results.credits,
        "curves": [_curve(results, name) for name in curve_names(results)],
        "facts": _facts(results),
        "commands": _commands(results),
        "problems": results.problems,
    }


def _has_paper(results: Results) -> bool:
    return any(result.row.paper for result in results.rows)


def _table(results: Results) -> dict[str, Any]:
    """{"columns", "rows"} as text, without the columns that no row fills."""
    columns, rows = _columns(results), [_cells(results, result) for result in results.rows]
    kept = [i for i in range(len(columns)) if i < 4 or any(row[i] != "–" for row in rows)]
    return {"columns": [columns[i] for i in kept], "rows": [[row[i] for i in kept] for row in rows]}


def _metrics(results: Results) -> dict[str, Metric]:
    return {
        key: metric
        for key, metric in results.table.metrics.items()
        if any(key in result.row.metrics for result in results.rows)
    }


def _columns(results: Results) -> list[str]:
    per_metric = []
    for metric in _metrics(results).values():
        paper = ["paper", "difference", "verdict"] if _has_paper(results) else []
        per_metric += [metric.title, *[f"{metric.title}: {name}" for name in paper]]
    has_baseline = any(result.row.baseline for result in results.rows)
    compared = ["against the baseline"] if has_baseline else []
    return ["row", "mtm", "status", *per_metric, *compared, "kimg", "time", "s/kimg", "memory", "parameters"]


def _cells(results: Results, result: RowResult) -> list[str]:
    per_metric: list[str] = []
    for key, metric in _metrics(results).items():
        ours, paper = result.metrics.get(key), result.row.paper.get(key)
        mark = " (meaningless)" if results.table.meaningless and ours is not None else ""
        per_metric.append(number_text(ours) + mark)
        if _has_paper(results):
            known = ours is not None and paper is not None
            difference = f"{ours - paper:+.3g}" if ours is not None and paper is not None else "–"
            verdict = compare(ours, paper, metric) if ours is not None and paper is not None else "–"
            if known and results.table.meaningless:
                difference, verdict = "–", "meaningless"
            per_metric += [number_text(paper), difference, verdict]
    compared = [_against_baseline(results, result)] if any(r.row.baseline for r in results.rows) else []
    memory = f"{result.peak_rss_bytes / 1e9:.2f} GB" if result.peak_rss_bytes else "–"
    cost = [f"{result.kimg:g}", duration_text(result.wall_s) if result.wall_s else "–", number_text(result.s_per_kimg)]
    parameters = f"{result.parameters:,}" if result.parameters else "–"
    row = result.row
    return [row.title, row.mtm, result.status, *per_metric, *compared, *cost, memory, parameters]


def _against_baseline(results: Results, result: RowResult) -> str:
    if result.row.baseline is None:
        return "the baseline" if any(r.row.baseline == result.row.id for r in results.rows) else "–"
    baseline = results.by_id(result.row.baseline)
    shared = [key for key in result.row.metrics if key in result.metrics and key in baseline.metrics]
    if not shared or results.table.meaningless:
        return "meaningless" if shared else "–"
    return "; ".join(compare(result.metrics[key], baseline.metrics[key], results.table.metrics[key]) for key in shared)


def _fingerprints(results: Results) -> list[str]:
    """Each distinct fingerprint as one line; rows with different ones cannot be compared, and the report says so."""
    lines: dict[str, list[str]] = {}
    for result in results.rows:
        if result.fingerprint:
            text = " · ".join(f"{key}: {_plain(value)}" for key, value in result.fingerprint.items())
            lines.setdefault(text, []).append(result.row.title)
    if len(lines) > 1:
        return [f"{', '.join(titles)}: {text}" for text, titles in lines.items()]
    return list(lines)


def _cautions(results: Results) -> list[str]:
    """Where a set has fewer pictures than the features have dimensions, so that the distance is biased upwards."""
    lines = []
    for result in results.rows:
        dimensions = result.fingerprint.get("dimensions")
        for name in ("real_nimg", "generated_nimg"):
            nimg = result.fingerprint.get(name)
            if isinstance(dimensions, int) and isinstance(nimg, int) and nimg < dimensions:
                lines.append(
                    f"{result.row.title}: {name} is {nimg}, fewer than the {dimensions} dimensions of the features: "
                    "the distance is biased upwards, compare it with equal numbers of pictures only."
                )
    return lines


def _plain(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text[:16] + "…" if len(text) == 64 and all(c in "0123456789abcdef" for c in text) else text


def _figures(results: Results) -> list[dict[str, Any]]:
    """Groups of pictures: {"title", "caption", "wide", "pictures": [{"title", "file", "uri"}]}."""
    groups = []
    generated = [(f"{result.row.title}", result.picture("samples")) for result in results.rows]
    reals = next((result.picture("reals") for result in results.rows if result.picture("reals")), None)
    groups.append(("Real and generated pictures", CAPTIONS["samples"], [("Real", reals), *generated]))
    for name, title in (("fig4", "Offsets on and off"), ("offsets", "Learned offsets")):
        groups.append((title, CAPTIONS[name], [(result.row.title, result.picture(name)) for result in results.rows]))
    figures = []
    for title, caption, pictures in groups:
        shown = [
            {"title": name, "file": file.relative_to(results.out).as_posix(), "uri": _uri(file.read_bytes(), "png")}
            for name, file in pictures
            if file is not None
        ]
        if shown:
            files = [file for _, file in pictures if file is not None]
            wide = len(shown) == 1 or sum(map(aspect_ratio, files)) > 1.6 * len(files)
            figures.append({"title": title, "caption": caption, "pictures": shown, "wide": wide})
    return figures


def _curve(results: Results, name: str) -> dict[str, str]:
    uris = {theme: _uri(curve_svg(results, name, theme), "svg+xml") for theme in ("light", "dark")}
    return {"title": curve_title(name), **uris}


def _uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _facts(results: Results) -> list[tuple[str, str]]:
    """What was run, where, and on what, as (name, text)."""
    facts = []
    for name in dict.fromkeys(result.row.dataset for result in results.rows):
        info = results.datasets.get(name)
        if info:
            skipped = f", {info['skipped']} broken ones left out" if info["skipped"] else ""
            size = f"{info['nimg']} pictures of {info['resolution_px']} px{skipped}"
            title, content = results.table.datasets[name].title, info["content_sha256"][:16]
            facts.append(("data", f"{title}: {size}, content {content}…"))
    entry = results.first_entry
    if entry:
        git, machine = entry["git"], entry["machine"]
        commit = git["commit"][:12] if git["commit"] else "not a git checkout"
        facts.append(("code", commit + (" with local changes" if git["dirty"] else "")))
        facts.append(("versions", ", ".join(f"{name} {version}" for name, version in entry["versions"].items())))
        impl = next((r.entry["trainer"]["mtm_impl"] for r in results.rows if _has_impl(r)), None)
        facts += [("mtm_ops kernels", impl)] if impl else []
        facts.append(("machine", f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']:g} GB"))
        facts.append(("seed", ", ".join(sorted({str(r.entry["seed"]) for r in results.rows if r.entry}))))
        facts.append(("finished", entry["time_utc"]))
    if results.calls:
        peak_gb = max(call["peak_rss_bytes"] for call in results.calls) / 1e9
        elapsed = duration_text(sum(call["wall_s"] for call in results.calls))
        times = f" in {len(results.calls)} calls" if len(results.calls) > 1 else ""
        facts.append(("everything", f"{elapsed}{times}, at most {peak_gb:.2f} GB of memory for all processes together"))
    return facts


def _has_impl(result: RowResult) -> bool:
    return "mtm_impl" in result.entry.get("trainer", {})


def _commands(results: Results) -> list[str]:
    commands = [" ".join(command) for result in results.rows for command in result.entry.get("commands", [])]
    return list(dict.fromkeys(commands))  # rows share the command that makes their data


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The run's folder.")
def main(out: Path) -> None:
    """Render report.md, report.html and report.png of a run."""
    try:
        paths = render(out)
    except UserError as error:
        raise click.ClickException(str(error)) from None
    click.echo("report: " + "\n        ".join(str(path) for path in paths))


if __name__ == "__main__":
    main()
