"""Reproduces a table of the paper: `python -m experiments.reproduce table1b --out runs/paper` (make reproduce-table1b).

Fetches and patches the codebases, renders data and fetches weights. Lists everything that only you can obtain. Then it
does what experiments.run does. Tables share an output folder, so a run that appears in several tables is done once.
"""

import os
from pathlib import Path
from typing import Any

import click

from experiments.checked import Value
from experiments.commands import CACHE, check_paths, told
from experiments.data import Data
from experiments.files import UserError
from experiments.needs import fetch, find_sources, listed, needs, ready_rows
from experiments.paper_tables import load_paper
from experiments.plan import describe
from experiments.run import Call, choose_rows
from experiments.slurm import chosen_slurm, slurm_options
from experiments.table_model import Row, Table
from experiments.trainers.nodes import NNODES, RDZV, check_nodes

CLICK_HOSTS = ("stylegan3", "eg3d")  # hosts whose train.py can split a batch: --batch-gpu
LEAST_PER_GPU = 4  # their default of --mbstd-group, the smallest batch per GPU


def on_gpus(table: Table, gpus: int, rows: list[Row]) -> Table:
    """The table with these rows on `gpus` GPUs. The batch size stays the same; if a GPU's share is larger than in the
    setting, it is processed in several passes. Raises UserError if a row's batch cannot be divided like that."""
    return table.model_copy(update={"rows": [_row_on(row, gpus) if row in rows else row for row in table.rows]})


def _row_on(row: Row, gpus: int) -> Row:
    batch = int(row.options["batch"])
    least = int(row.options.get("mbstd-group", LEAST_PER_GPU)) if row.trainer in CLICK_HOSTS else 1
    if batch % gpus or batch // gpus < least:
        raise UserError(
            f"reproduce: GPUS must divide the batch of {batch} of row {row.id} into at least {least} images a GPU; got "
            f"{gpus}. Choose another number, or other rows: ROW=..."
        )
    options: dict[str, Value] = {**row.options, "gpus": gpus}
    share = int(row.options.get("batch-gpu", batch // int(row.options["gpus"])))
    if row.trainer in CLICK_HOSTS and batch // gpus > share:
        options["batch-gpu"] = share
    return row.model_copy(update={"options": options})


def make_call(
    name: str, preset: str, out: Path, given: tuple[str, ...], cache: Path, only: tuple[str, ...], **more: Any
) -> Call:
    """The runner's call for a table by name. `more`: gpus, seeds, parallel, skip_broken, slurm. Raises UserError."""
    table = load_paper(name, preset)
    rows = choose_rows(table, only)
    if more["gpus"]:
        table = on_gpus(table, more["gpus"], rows)
    table = table.with_options({}, list(more["seeds"]))
    sources = find_sources(table, [row.dataset for row in rows], given, cache)
    table = table.with_data(sources)
    if more["parallel"]:
        table = table.model_copy(update={"parallel": more["parallel"]})
    return Call(
        table, choose_rows(table, only), out, Data(table, sources, cache, bool(more["skip_broken"])), more["slurm"]
    )


@click.command()
@click.argument("name")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Output folder; the same one resumes.")
@click.option("--preset", default="full", show_default=True, help="full, small or smoke: docs/running.md.")
@click.option("--gpus", type=click.IntRange(min=1), help="GPUs per run, over all machines [default: the row's].")
@click.option("--nnodes", type=click.IntRange(min=1), default=1, show_default=True, help="Machines per run.")
@click.option("--rdzv", default="", help="HOST:PORT of the first machine, if there are several machines.")
@slurm_options
@click.option("--data", "given", multiple=True, help="NAME=PATH, or a folder with an entry for each data set.")
@click.option("--row", "only", multiple=True, help="Only this row (may be given more than once).")
@click.option(
    "--seed", "seeds", type=click.IntRange(min=0), multiple=True, help="A seed; may be repeated [default: 0]."
)
@click.option("--parallel", type=click.IntRange(min=1), help="Runs at a time.")
@CACHE
@click.option("--skip-broken", is_flag=True, help="Continue without images that cannot be read.")
@click.option("--dry-run", is_flag=True, help="Print every command, what is missing and the cost; write nothing.")
def main(
    name: str,
    out: Path,
    preset: str,
    nnodes: int,
    rdzv: str,
    given: tuple[str, ...],
    only: tuple[str, ...],
    cache: Path,
    dry_run: bool,
    **more: Any,
) -> None:
    """Reproduce the table or figure NAME of the paper: all, table1, table1b, tableA2, fig4, ..."""
    target = f"reproduce-{name}"
    with told():
        check_paths(str(out), *given)
        more["slurm"] = slurm = chosen_slurm(more.pop("cluster"), more.pop("partition"), more.pop("slurm_args"))
        call = make_call(name, preset, out, given, cache, only, **more)
        check_nodes(nnodes, rdzv, [int(row.options.get("gpus", 1)) for row in call.rows], slurm is not None)
        os.environ |= {NNODES: str(nnodes), RDZV: rdzv}
        if dry_run:
            click.echo("\n".join(describe(call, weights=False)))
            missing = needs(call, target)
            click.echo(f"\n{listed(missing)}" if missing else "\nmissing: nothing")
            return
        fetch(call)
        if missing := needs(call, target):
            rows = ready_rows(call)
            some = f"\nRows whose data is there: ROW='{' '.join(rows)}'" if 0 < len(rows) < len(call.rows) else ""
            raise UserError(f"{target}: cannot run yet.\n{listed(missing)}{some}")
        call.data.check_sources(call.dataset_names)
        raise SystemExit(call.execute())


if __name__ == "__main__":
    main()
