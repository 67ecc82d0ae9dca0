"""Runs the rows of a table: `python -m experiments.run quickstart --out runs/quickstart`.

Run it again to resume: it does not repeat finished runs, continues an interrupted run from its snapshot, and follows a
run that is still running because only the runner ended.
"""

import re
import shlex
import signal
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from experiments import ledger
from experiments.commands import CACHE, check_paths, told
from experiments.costs import RunCost, bench_of, disk_needed_gb, run_cost, training_ratios
from experiments.data import Data
from experiments.datasets.zips import DatasetInfo
from experiments.extras import bench, make_stand_ins
from experiments.files import UserError, free_bytes, free_text
from experiments.folder import check_owner, claim, identity, locked, others, run_folder
from experiments.jobs import AGAIN, Job, Scheduler, row_command
from experiments.metrics import METRICS, weights_of
from experiments.plan import describe
from experiments.progress import make_progress
from experiments.provenance import portable_command
from experiments.results import load_results, result_lines
from experiments.slurm import Slurm, SlurmScheduler, chosen_slurm, slurm_options
from experiments.table import Row, Table, load_table
from experiments.trainers import TRAINERS
from experiments.trainers.contract import LOG, STAND_INS, Run
from experiments.weights import check_readers, locate


def make_run(table: Table, row: Row, seed: int, out: Path, zip_path: Path, content_sha256: str, made_by: str) -> Run:
    """The run of a row with one seed. `content_sha256` is "unknown" if the data is not made yet (in a dry run)."""
    facts = identity(row, content_sha256)
    return Run(
        table=table.name,
        preset=table.preset,
        row=row.id,
        title=row.title,
        trainer=row.trainer,
        mtm=row.mtm,
        seed=seed,
        options=row.options,
        dataset=row.dataset,
        metrics=row.metrics,
        samples_nimg=table.samples_nimg,
        real_nimg=table.real_nimg,
        stand_ins=table.applied.stand_ins,
        identity=facts,
        made_by=made_by,
        folder=run_folder(out, row.id, seed, facts),
        data=zip_path,
    )


def while_training(row: Row) -> list[str]:
    """The metrics that the row's trainer computes of its snapshots during training: its option `metrics`."""
    return [name for name in re.findall(r"\w+", str(row.options.get("metrics", ""))) if name in METRICS]


def is_finished(run: Run, attempts: list[ledger.Attempt], out: Path) -> bool:
    """Whether the ledger records the run as done, with every metric that it asks for now."""
    mine = [entry for entry in attempts if entry.run == run.folder.relative_to(out).as_posix()]
    if not mine or mine[-1].status != "done":
        return False
    return set(run.metrics) <= set(mine[-1].metrics) and not TRAINERS[run.trainer].missing(run)


class Call:
    """One call of the runner: the chosen rows of a table, in OUT; with `slurm`, as jobs of a cluster."""

    def __init__(self, table: Table, rows: list[Row], out: Path, data: Data, slurm: Slurm | None = None) -> None:
        self.table, self.rows, self.out, self.data, self.slurm = table, rows, out, data, slurm
        self.dataset_names = list(dict.fromkeys(row.dataset for row in rows))
        self.weights = weights_of(name for row in rows for name in (*row.metrics, *while_training(row)))
        self.stand_ins = data.cache / STAND_INS

    def make_runs(self, infos: dict[str, DatasetInfo]) -> list[Run]:
        """A run for every row and seed, in the order of execution."""
        runs = []
        for row in self.rows:
            made_by = portable_command(self.data.step(row.dataset), self.out)
            content = infos[row.dataset].content_sha256 if row.dataset in infos else "unknown"
            for turn, seed in enumerate(row.seeds):
                path = self.data.path(row.dataset)
                run = make_run(self.table, row, seed, self.out, path, content, made_by)
                runs.append((turn if self.table.seeds_first else 0, run))
        return [run for _, run in sorted(runs, key=lambda pair: pair[0])]

    def check_weights(self) -> None:
        """Raises UserError if weights that the metrics need are missing (listing all of them), or a package that reads
        them. Checked first, not after days of training."""
        locate(self.weights)
        check_readers(self.weights)

    def finished(self, runs: list[Run]) -> set[Path]:
        """The folders of the finished runs."""
        entries, _ = ledger.read_entries(self.out / ledger.NAME)
        attempts = [entry for entry in entries if isinstance(entry, ledger.Attempt)]
        return {run.folder for run in runs if is_finished(run, attempts, self.out)}

    def costs(self, runs: list[Run]) -> dict[Path, RunCost]:
        """The expected cost of each run whose setting has an estimate."""
        ratios = training_ratios(bench_of(self.out))
        found = {run.folder: run_cost(self.table.row(run.row), ratios) for run in runs}
        return {folder: cost for folder, cost in found.items() if cost is not None}

    def data_gb(self) -> float:
        """The expected size of the data sets that are not made yet."""
        return sum(self.table.datasets[n].size_gb for n in self.dataset_names if not self.data.path(n).exists())

    def check_disk(self, runs: list[Run]) -> None:
        """Raises UserError if the disk has less free space than the remaining work needs."""
        finished = self.finished(runs)
        costs = {folder: cost for folder, cost in self.costs(runs).items() if folder not in finished}
        needed_gb = disk_needed_gb(self.table, costs, self.data_gb())
        if free_bytes(self.out) < needed_gb * 1e9:
            raise UserError(
                f"run: the disk of out must have room; expected {needed_gb:,.4g} GB, got {free_text(self.out)} at "
                f"{str(self.out)!r}. Free some, or choose a folder on another disk: OUT=..."
            )

    def execute(self, prepare_only: bool = False) -> int:
        """Does the remaining runs, renders the report and prints the results; returns the exit code. With
        `prepare_only`, makes the data and the runs' folders and prints the command of each remaining run."""
        started_s = time.monotonic()
        check_owner(self.out, self.table)  # early, because making data takes minutes
        planned = self.make_runs({name: info for name in self.dataset_names if (info := self.data.known(name))})
        self.check_disk(planned)
        for run in planned:
            TRAINERS[run.trainer].check(run)
        if self.table.applied.stand_ins:
            make_stand_ins(self.stand_ins, self.weights)
        else:
            self.check_weights()
        with locked(self.out):
            infos = {name: self.data.prepare(name)[1] for name in self.dataset_names}
            runs = self.make_runs(infos)
            claim(self.out, self.table, {name: asdict(info) for name, info in infos.items()}, runs)
            finished = self.finished(runs)
            jobs = [Job(run) for run in runs if run.folder not in finished]
            if len(jobs) < len(runs):
                click.echo(f"{len(runs) - len(jobs)} of {len(runs)} runs are finished already", err=prepare_only)
            for job in jobs:
                for line in others(job.run) if not (job.run.folder / LOG).exists() else []:
                    click.echo(f"{job.label}: a new run, {job.run.folder.name}; {line}", err=prepare_only)
            if prepare_only:
                click.echo("\n".join(shlex.join(row_command(job.run, self.out)) for job in jobs))
                return 0
            scheduler = self._run_jobs(jobs)
            tell(jobs, scheduler)
            if jobs:
                self._record_call(jobs, scheduler, time.monotonic() - started_s)
            measured = scheduler.signal is not None or bench(self.table, self.out)
            code = self._conclude(jobs, scheduler)
            if not measured:
                click.echo(f"\nThe bench of Table 4 failed; see above. {AGAIN}", err=True)
            return code or int(not measured)

    def _record_call(self, jobs: list[Job], scheduler: Scheduler, wall_s: float) -> None:
        entry: dict[str, Any] = {"event": "call", "table": self.table.name, "preset": self.table.preset}
        entry |= {"runs": {job.label: job.status for job in jobs}, "wall_s": round(wall_s, 1)}
        ledger.append_entry(self.out / ledger.NAME, entry | {"peak_rss_bytes": scheduler.peak_rss_bytes})

    def _run_jobs(self, jobs: list[Job]) -> Scheduler:
        progress = make_progress([job.label for job in jobs])
        if self.slurm is not None:
            scheduler: Scheduler = SlurmScheduler(jobs, self.slurm, self.table.on_cpu, self.out, progress)
        else:
            scheduler = Scheduler(jobs, self.table.parallel, self.out, progress)
        try:
            scheduler.run()
        finally:
            progress.close()
        return scheduler

    def _conclude(self, jobs: list[Job], scheduler: Scheduler) -> int:
        if scheduler.signal == signal.SIGHUP:
            return 128 + scheduler.signal
        if scheduler.signal is not None:
            click.echo(f"\n{scheduler.stopped_text()}", err=True)
            return 128 + scheduler.signal
        from experiments.report import render  # imports matplotlib: late, for a quick start

        paths = render(self.out)
        click.echo(f"\n{self.table.title}")
        click.echo("\n".join(result_lines(load_results(self.out))))
        if scheduler.peak_rss_bytes:
            click.echo(f"  peak memory of everything together: {scheduler.peak_rss_bytes / 1e9:.2f} GB")
        click.echo("\nreport: " + "\n        ".join(str(path) for path in paths))
        return 1 if any(job.status != "done" for job in jobs) else 0


def tell(jobs: list[Job], scheduler: Scheduler) -> None:
    """Prints why runs failed or were interrupted, before anything else is written, because the disk may be full."""
    for job in jobs:
        log = f"The whole output: {job.run.folder / LOG}"
        if job.status == "failed":
            click.echo(f"\nrow {job.label} failed: {job.message}\n  {log}. When that is fixed: {AGAIN}", err=True)
        elif job.status == "interrupted" and scheduler.signal is None:
            why = job.message or "its process was told to stop."
            click.echo(f"\nrow {job.label} was interrupted: {why}\n  {log}. {AGAIN}", err=True)


def choose_rows(table: Table, only: tuple[str, ...]) -> list[Row]:
    """The rows named in `only`, or all rows if it is empty. Raises UserError for an unknown name."""
    ids = [row.id for row in table.rows]
    for row_id in only:
        if row_id not in ids:
            raise UserError(f"run: row must be one of {', '.join(ids)}; got {row_id!r}. Correct it.")
    return [row for row in table.rows if not only or row.id in only]


def own_data(table: Table, given: tuple[str, ...]) -> dict[str, Path]:
    """The paths in the --data values by data set. A value is NAME=PATH, or only a path if the table uses one data set.
    Raises UserError if a path could be for several data sets."""
    used = list(dict.fromkeys(row.dataset for row in table.rows))
    sources: dict[str, Path] = {}
    for word in given:
        name, equals, path = word.partition("=")
        if equals and name in table.datasets:
            sources[name] = Path(path)
        elif len(used) == 1:
            sources[used[0]] = Path(word)
        else:
            raise UserError(
                f"run: --data must say which data set it stands for; expected NAME=PATH with a name of "
                f"{', '.join(used)}, got {word!r}."
            )
    return sources


@click.command()
@click.argument("name")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="The output folder; pass the same one to resume."
)
@click.option("--data", "sources", multiple=True, help="Folder or zip to use as data: PATH, or DATASET=PATH.")
@click.option(
    "--preset",
    default="full",
    show_default=True,
    help="A preset of the table: full, or smoke for a smoke test in minutes.",
)
@click.option("--row", "only", multiple=True, help="Run only this row (may be given more than once).")
@click.option("--parallel", type=click.IntRange(min=1), help="Number of runs at a time.  [default: the table's]")
@CACHE
@click.option("--skip-broken", is_flag=True, help="Leave out images of --data that cannot be read.")
@slurm_options
@click.option(
    "--prepare", is_flag=True, help="Make data and folders, print the command of each remaining run, and stop."
)
@click.option("--dry-run", is_flag=True, help="Print every command, the data and the cost; write nothing.")
def main(
    name: str,
    out: Path,
    sources: tuple[str, ...],
    preset: str,
    only: tuple[str, ...],
    parallel: int | None,
    cache: Path,
    skip_broken: bool,
    prepare: bool,
    dry_run: bool,
    **cluster: Any,
) -> None:
    """Run the table NAME (such as quickstart, or a TOML file): data, training, metrics, images, report. Run the same
    command again to resume."""
    with told():
        check_paths(str(out), *sources)
        table = load_table(name, preset)
        own = own_data(table, sources)
        table = table.with_data(own)
        if parallel is not None:
            table = table.model_copy(update={"parallel": parallel})
        data = Data(table, own, cache, skip_broken)
        call = Call(table, choose_rows(table, only), out, data, chosen_slurm(**cluster))
        if dry_run:
            click.echo("\n".join(describe(call)))
            return
        data.check_sources(call.dataset_names)
        raise SystemExit(call.execute(prepare))


if __name__ == "__main__":
    main()
