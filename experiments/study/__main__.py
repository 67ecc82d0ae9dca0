"""The study's commands: run, merge, report, limbs (experiments.study)."""

from __future__ import annotations

import os
from pathlib import Path

import click

from experiments.commands import CACHE, check_paths, told
from experiments.files import UserError
from experiments.study import DOCS, PAGE, RESULTS, TABLES

TO_COLLECT = "Collect the runs first: make study-results."
OUT = click.option("--out", type=click.Path(path_type=Path), required=True, help="The study's folder.")


@click.group()
def main() -> None:
    """Does the MTM do here what the paper says it does? The rules: docs/study.md."""


@main.command()
@OUT
@click.option("--preset", default="full", show_default=True, help="full, or smoke: a smoke test, in minutes.")
@click.option("--table", "only", multiple=True, help=f"Only this table; one of {', '.join(TABLES)}. May be repeated.")
@click.option("--data", "given", multiple=True, help="DATASET=PATH: an existing zip of that data set.")
@click.option("--parallel", type=click.IntRange(min=1), help="Runs at a time, with one thread each.  [default: 2]")
@CACHE
@click.option("--dry-run", is_flag=True, help="Print the remaining runs and their cost; write nothing.")
@click.option("--commands", is_flag=True, help="With --dry-run, also print every command.")
def run(
    out: Path,
    preset: str,
    only: tuple[str, ...],
    given: tuple[str, ...],
    parallel: int | None,
    cache: Path,
    dry_run: bool,
    commands: bool,
) -> None:
    """Train and measure the remaining runs of the study, table by table. Run the same command again to resume."""
    from experiments.study.run import check_data, chosen, execute, make_call, plan

    with told():
        check_paths(str(out), *given)
        check_data(given, preset)
        calls = [make_call(name, preset, out, cache, given, parallel) for name in chosen(only)]
        if dry_run:
            click.echo("\n".join(plan(calls, brief=not commands)))
            return
        raise SystemExit(execute(calls))


@main.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--into",
    type=click.Path(path_type=Path),
    default=RESULTS,
    show_default=True,
    help="The file that collects all runs.",
)
def merge(folders: tuple[Path, ...], into: Path) -> None:
    """Add the runs of FOLDERS, from this or other machines, to the file of all runs. Each run is added once."""
    from experiments.study.gather import check_folders, read_results, write_results
    from experiments.study.gather import merge as merged

    try:
        check_folders(folders)
        content, said = merged(read_results(into), folders)
        write_results(into, content)
    except UserError as error:
        raise click.ClickException(str(error)) from None
    for line in said:
        click.echo(f"note: {line}", err=True)
    done = sum(one["status"] == "done" for one in content["runs"])
    click.echo(f"{into}: {len(content['runs'])} runs, {done} done")


@main.command()
@OUT
@click.option("--again", is_flag=True, help="Repeat the analysis for runs that have it.")
@CACHE
@click.option("--images", type=click.Path(path_type=Path), help="Also write images of the first seed to this folder.")
def limbs(out: Path, again: bool, cache: Path, images: Path | None) -> None:
    """Analyse the offsets of the finished runs of people-low in OUT, in about 2 minutes per run. The merge command then
    collects the results."""
    from experiments.study.finished import data_of, look_at_all
    from experiments.study.show import write_all

    try:
        pairs = look_at_all(out, again, say=click.echo)
        if images is not None and pairs:
            for path in write_all(images, *pairs[0], data_of(out, cache)):
                click.echo(path)
    except UserError as error:
        raise click.ClickException(str(error)) from None


@main.command()
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
@click.option(
    "--page",
    type=click.Path(path_type=Path),
    default=PAGE,
    show_default=True,
    help="The page to write the tables into.",
)
def report(results: Path, page: Path) -> None:
    """Write tables and figures from the file of all runs into docs/study.md and docs/study/."""
    from experiments.study import figures
    from experiments.study.compare import Study
    from experiments.study.gather import read_results
    from experiments.study.page import check_page, write_page

    try:
        if not results.is_file():
            raise UserError(f"study: --results must be a file; got {str(results)!r}, which is none. {TO_COLLECT}")
        check_page(page)
        study = Study(read_results(results))
        folder = page.parent / DOCS.joinpath("study").name
        folder.mkdir(parents=True, exist_ok=True)
        names = []
        if study.rows:
            for name in ("paired", "curves", "controls"):
                getattr(figures, name)(study, folder / f"{name}.png")
                names.append(f"{name}.png")
            if figures.offsets(study, folder / "offsets.png"):
                names.append("offsets.png")
            names += [name for name in ("people.png", "sweep.png", "film.webp") if (folder / name).exists()]
        write_page(page, study, names)
    except UserError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{page}: {sum(map(len, study.rows.values()))} runs, figures {', '.join(names) or 'none'}")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(prog_name="python -m experiments.study")
