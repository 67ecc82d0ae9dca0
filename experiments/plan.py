"""The dry run of the runner, as text: every command, what is missing, and the cost. Writes nothing."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING

from experiments.costs import (
    bench_of,
    cost_text,
    device_hours,
    disk_needed_gb,
    run_cost,
    totals,
    training_ratios,
)
from experiments.datasets import RECIPES
from experiments.extras import bench_step, benches, stand_ins_step
from experiments.files import UserError, free_text
from experiments.progress import duration_text
from experiments.trainers import TRAINERS
from experiments.trainers.contract import Run

if TYPE_CHECKING:
    from experiments.run import Call


def describe(call: Call, weights: bool = True) -> Iterator[str]:
    """The dry run, line by line: data, commands, cost and, with `weights`, missing weights."""
    table = call.table
    infos = {name: info for name in call.dataset_names if (info := call.data.known(name))}
    runs = call.make_runs(infos)
    yield f"{table.title}\n  preset {table.preset}, {len(runs)} runs, output in {call.out}"
    if table.applied.about:
        yield f"  {table.applied.about}"
    if table.meaningless:
        yield "  a smoke test: it checks that everything runs; its numbers are not results"
    for name in call.dataset_names:
        yield from _data(call, name)
        if name not in infos:
            yield "# not made yet; once it is, the runs below get other folders. --prepare makes it and prints them"
    if table.applied.stand_ins:
        yield "\n# weights of the metrics: stand-ins with random weights, made here"
        yield stand_ins_step(call.stand_ins, call.weights).text()
    elif weights:
        try:
            call.check_weights()
        except UserError as error:
            yield "\n# cannot run yet:\n" + "\n".join(f"# {line}" for line in str(error).splitlines())
    finished = call.finished(runs)
    for run in runs:
        yield from _run(call, run, run.folder in finished)
    yield from _shown(call)
    yield from _cost(call, runs)


def _data(call: Call, name: str) -> Iterator[str]:
    dataset = call.table.datasets[name]
    recipe = RECIPES[dataset.recipe]
    path = call.data.path(name)
    if name in call.data.sources:
        try:
            call.data.check_source(name)
        except UserError as error:
            yield f"\n# cannot run yet: {error}"
    made = " (made already)" if path.exists() else ""
    yield f"\n# data: {dataset.title}{made} {recipe.obtain} Licence: {recipe.licence}"
    yield call.data.step(name).text() if path != call.data.given(name) else f"# used as it is: {path}"


def _run(call: Call, run: Run, finished: bool) -> Iterator[str]:
    row = call.table.row(run.row)
    yield f"\n# row {run.label}: {run.title}{' (finished already)' if finished else ''}"
    if shown := [section.title for section in call.table.sections if run.row in section.row_ids]:
        yield f"# in: {'; '.join(shown)}"
    try:
        TRAINERS[run.trainer].check(run)
    except UserError as error:
        yield f"# cannot run yet: {error}"
    cost = run_cost(row, training_ratios(bench_of(call.out)))
    if cost is not None:
        yield f"# cost: {cost_text(cost)}"
    if call.slurm is not None and not finished:
        yield f"# as a job: {shlex.join(call.slurm.command(run, call.out, call.table.on_cpu))}"
    yield from (step.text() for step in TRAINERS[run.trainer].steps(run))


def _shown(call: Call) -> Iterator[str]:
    """The cited values, which need no run."""
    cited = [
        f"#   {section.title}: {', '.join(entry.title for entry in section.entries if not entry.row)}"
        for section in call.table.sections
        if any(not entry.row for entry in section.entries)
    ]
    if cited:
        yield "\n# cited by the paper from others, and not run:"
        yield from cited
    if benches(call.table):
        yield "\n# costs of training and inference, and parameters:"
        yield bench_step(call.table, call.out).text()


def _at_a_time(call: Call) -> str:
    return f"{call.table.parallel} run{'s' * (call.table.parallel > 1)} at a time"


def _cost(call: Call, runs: list[Run]) -> Iterator[str]:
    given, free = call.table.applied.cost, free_text(call.out)
    if given is not None:
        yield (
            f"\ncost: about {duration_text(given.hours * 3600)} on {given.machine}, {given.memory_gb:g} GB of memory, "
            f"{given.disk_gb:g} GB of disk ({free} free); {_at_a_time(call)}"
        )
        return
    costs = call.costs(runs)
    seconds, disk_gb = totals(costs.values())
    data_gb = call.data_gb()
    times = " and ".join(device_hours(device, each) for device, each in seconds.items()) or "time not known"
    needed = disk_needed_gb(call.table, costs, data_gb)
    what = "" if call.table.meaningless or not seconds else " for training, without metrics and images"
    yield (
        f"\ncost of {len(runs)} runs: {times}{what}; {disk_gb:,.1f} GB of disk for runs and "
        f"{data_gb:,.1f} GB for data that is not made yet. Still needed: {needed:,.1f} GB ({free} free); "
        f"{_at_a_time(call)}"
    )
