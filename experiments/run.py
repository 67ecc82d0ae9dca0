"""Runs the rows of a table: `python -m experiments.run quickstart --out runs/quickstart`.

Run it again and it resumes: finished rows are not repeated, an interrupted one continues from its snapshot.
"""

import json
import shlex
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from experiments import ledger
from experiments.data import Data, flags
from experiments.datasets.zips import DatasetInfo
from experiments.files import UserError, free_bytes, free_text
from experiments.folder import check_same_run, claim, locked
from experiments.jobs import Job, Scheduler, Step
from experiments.progress import duration_text, make_progress
from experiments.results import finished_rows, load_results, result_lines, row_folder
from experiments.table import Row, Table, load_table


def train_command(table: Table, row: Row, out: Path, data: Path) -> list[str]:
    """The command that trains a row: as a user would type it, "python" for the interpreter."""
    where = ["--outdir", str(row_folder(out, row)), "--data", str(data)]
    return [*table.hosts[row.host].train, *where, *flags(row.options)]


def evaluate_command(table: Table, row: Row, out: Path, data: Path) -> list[str]:
    """The command that takes a trained row's metrics and makes its pictures."""
    samples_nimg = max((table.metrics[name].samples_nimg for name in row.metrics), default=0)
    arguments = ["--run", str(row_folder(out, row)), "--data", str(data), "--samples", str(samples_nimg)]
    return [*table.hosts[row.host].evaluate, *arguments]


def check_disk(table: Table, out: Path) -> None:
    """Raises UserError if the disk has less room than the preset needs."""
    if free_bytes(out) < table.cost.disk_gb * 1e9:
        raise UserError(
            f"run: the disk of out must have room; expected {table.cost.disk_gb:g} GB, got {free_text(out)} at "
            f"{str(out)!r}. Free some, or choose a folder on another disk: OUT=..."
        )


def make_jobs(table: Table, rows: list[Row], out: Path, zips: dict[str, Path]) -> list[Job]:
    """A job with the steps that are still to do for every row in `rows` that has not finished."""
    finished = finished_rows(out)
    jobs = []
    for row in rows:
        if row.id in finished:
            continue
        folder, data = row_folder(out, row), zips[row.dataset]
        steps = []
        if not (folder / "final.pt").exists():
            steps.append(Step("train", train_command(table, row, out, data)))
        if steps or not (folder / "metrics.json").exists():
            steps.append(Step("evaluate", evaluate_command(table, row, out, data)))
        threads = {"OMP_NUM_THREADS": str(row.options["threads"])} if "threads" in row.options else {}
        jobs.append(Job(row.id, out / "logs" / f"{row.id}.txt", steps, threads))
    return jobs


def ledger_entry(
    table: Table, row: Row, job: Job, out: Path, made: list[str], data: Path, info: DatasetInfo
) -> ledger.Entry:
    """What the ledger keeps of one attempt at a row; `made` is the command that made its data."""
    folder = row_folder(out, row)
    commands = (made, train_command(table, row, out, data), evaluate_command(table, row, out, data))
    return {
        "event": "row",
        "table": table.name,
        "preset": table.preset,
        "meaningless": table.meaningless,
        "row": row.id,
        "host": row.host,
        "mtm": row.mtm,
        "seed": row.options.get("seed"),
        "options": row.options,
        "commands": [ledger.portable_command(command, out) for command in commands],
        "dataset": {"name": row.dataset, **asdict(info)},
        **ledger.provenance(),
        "trainer": ledger.portable_values(_read_json(folder / "training_options.json"), out),
        "status": job.status,
        "failed_step": job.failed_step,
        "exit_code": job.exit_code,
        "resumed_from_kimg": job.resumed_from_kimg,
        "kimg": job.kimg,
        "wall_s": round(job.wall_s, 1),
        "peak_rss_bytes": job.peak_rss_bytes,
        "metrics": _read_json(folder / "metrics.json") if job.status == "done" else {},
        "paper": row.paper,
    }


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


class Run:
    """One call of the runner."""

    def __init__(self, table: Table, rows: list[Row], out: Path, data: Data) -> None:
        self.table, self.rows, self.out, self.data = table, rows, out, data
        self.dataset_names = list(dict.fromkeys(row.dataset for row in rows))

    def describe(self) -> Iterator[str]:
        """The dry run: data, commands and cost, as text. Writes nothing."""
        cost = self.table.cost
        yield f"{self.table.title}\n  preset {self.table.preset}, {len(self.rows)} rows, output in {self.out}"
        if self.table.meaningless:
            yield "  every number of this preset is meaningless: it only shows that the path works"
        for name in self.dataset_names:
            zip_path, dataset = self.data.path(name), self.table.datasets[name]
            yield f"\n# data: {dataset.title}" + (" (made already)" if zip_path.exists() else "")
            yield shlex.join(self.data.command(name))
        finished = finished_rows(self.out)
        for row in self.rows:
            zip_path = self.data.path(row.dataset)
            yield f"\n# row {row.id}: {row.title}" + (" (finished already)" if row.id in finished else "")
            yield shlex.join(train_command(self.table, row, self.out, zip_path))
            yield shlex.join(evaluate_command(self.table, row, self.out, zip_path))
        yield (
            f"\ncost: about {duration_text(cost.hours * 3600)} on {cost.machine}, {cost.memory_gb:g} GB of memory, "
            f"{cost.disk_gb:g} GB of disk ({free_text(self.out)} free); {self.table.parallel} rows at a time"
        )

    def execute(self, own_data: bool) -> int:
        """Runs what is left to run, renders the report, says what came out; returns the exit code."""
        started_s = time.monotonic()
        check_disk(self.table, self.out)
        with locked(self.out) as lock:
            check_same_run(self.out, self.table)  # before minutes go into the data
            prepared = {name: self.data.prepare(name) for name in self.dataset_names}
            claim(self.out, self.table, {name: info for name, (_, info) in prepared.items()}, own_data)
            zips = {name: path for name, (path, _) in prepared.items()}
            jobs = make_jobs(self.table, self.rows, self.out, zips)
            scheduler = self._run_jobs(jobs, prepared, lock)
            if jobs:
                self._record_call(jobs, scheduler, time.monotonic() - started_s)
            return self._conclude(jobs, scheduler)

    def _record_call(self, jobs: list[Job], scheduler: Scheduler, wall_s: float) -> None:
        statuses = {job.row_id: job.status for job in jobs}
        totals = {"wall_s": round(wall_s, 1), "peak_rss_bytes": scheduler.peak_rss_bytes}
        entry = {"event": "call", "table": self.table.name, "preset": self.table.preset, "rows": statuses, **totals}
        ledger.append_entry(self.out / ledger.NAME, entry)

    def _run_jobs(self, jobs: list[Job], prepared: dict[str, tuple[Path, DatasetInfo]], lock: int) -> Scheduler:
        if len(jobs) < len(self.rows):
            click.echo(f"{len(self.rows) - len(jobs)} of {len(self.rows)} rows are finished already")
        progress = make_progress([job.row_id for job in jobs])

        def record(job: Job) -> None:
            row = self.table.row(job.row_id)
            entry = ledger_entry(self.table, row, job, self.out, self.data.command(row.dataset), *prepared[row.dataset])
            ledger.append_entry(self.out / ledger.NAME, entry)

        scheduler = Scheduler(jobs, self.table.parallel, progress, record, keep_open=(lock,))
        try:
            scheduler.run()
        finally:
            progress.close()
        return scheduler

    def _conclude(self, jobs: list[Job], scheduler: Scheduler) -> int:
        from experiments.report import render  # matplotlib: only now, so that a dry run and errors are quick

        again = "Run the same command again to go on."
        for job in jobs:
            if job.status == "failed":
                tail = "\n".join(f"    {line}" for line in job.tail) or "    (it printed nothing)"
                click.echo(
                    f"\nrow {job.row_id}: {job.failed_step} ended with {exit_text(job.exit_code)}. Its last lines "
                    f"(all of them: {job.log}):\n{tail}\n  When that is mended: {again[0].lower()}{again[1:]}",
                    err=True,
                )
        if scheduler.signal is not None:
            stopped = ", ".join(f"{job.row_id} at {job.kimg:.3g} kimg" for job in jobs if job.status == "interrupted")
            click.echo(f"\nstopped; kept: {stopped or 'what had finished'}. {again}", err=True)
            return 128 + scheduler.signal
        paths = render(self.out)
        click.echo(f"\n{self.table.title}")
        click.echo("\n".join(result_lines(load_results(self.out))))
        if scheduler.peak_rss_bytes:
            click.echo(f"  peak memory of everything together: {scheduler.peak_rss_bytes / 1e9:.2f} GB")
        click.echo("\nreport: " + "\n        ".join(str(path) for path in paths))
        return 1 if any(job.status != "done" for job in jobs) else 0


def exit_text(code: int | None) -> str:
    """'exit code 3', or for a signal 'SIGKILL (was it out of memory?)'."""
    if code is None or code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"{name} (was it out of memory?)" if name == "SIGKILL" else name


def choose_rows(table: Table, only: tuple[str, ...]) -> list[Row]:
    """The rows named in `only`, or all. Raises UserError for a name that is none."""
    ids = [row.id for row in table.rows]
    for row_id in only:
        if row_id not in ids:
            raise UserError(f"run: row must exist; expected one of {', '.join(ids)}, got {row_id!r}.")
    return [row for row in table.rows if not only or row.id in only]


@click.command()
@click.argument("name")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The run's folder; the same one resumes.")
@click.option("--data", "source", type=click.Path(path_type=Path), help="Your own pictures: a folder or a zip.")
@click.option("--preset", default="full", show_default=True, help="full, or smoke: minutes, meaningless numbers.")
@click.option("--row", "only", multiple=True, help="Run only this row (may be given more than once).")
@click.option("--cache", type=click.Path(path_type=Path), default=Path("data"), show_default=True, help="Made data.")
@click.option("--skip-broken", is_flag=True, help="Go on without pictures of --data that cannot be read.")
@click.option("--dry-run", is_flag=True, help="Print every command, the data and the cost; write nothing.")
def main(
    name: str,
    out: Path,
    source: Path | None,
    preset: str,
    only: tuple[str, ...],
    cache: Path,
    skip_broken: bool,
    dry_run: bool,
) -> None:
    """Run the table NAME (such as quickstart): data, training, metrics, report. Run it again to resume."""
    try:
        table = load_table(name, preset)
        table = table.with_data("user") if source is not None else table
        data = Data(table, source, cache, skip_broken)
        data.check_source()
        run = Run(table, choose_rows(table, only), out, data)
        if dry_run:
            click.echo("\n".join(run.describe()))
            return
        raise SystemExit(run.execute(own_data=source is not None))
    except UserError as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:  # while data is made or the report drawn; training stops by itself, with its snapshot
        click.echo("\nstopped; nothing half-written was left. Run the same command again to go on.", err=True)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
