"""Runs as jobs of a Slurm cluster: one job per run, which executes experiments.row.

Slurm handles the queue, the machines and requeueing; the run's folder has everything else. The runner submits the runs
that are neither finished nor in the queue, and follows them through their files. You can stop it at any time: the jobs
continue, and the same command follows them again.
"""

import hashlib
import re
import shlex
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from experiments.files import UserError, atomic_output
from experiments.folder import in_use
from experiments.jobs import Job, Scheduler, row_command
from experiments.progress import Progress
from experiments.row import State, read_state
from experiments.trainers import TRAINERS
from experiments.trainers.contract import LOG, ROOT, SLURM_JOB, STATE, Run
from experiments.trainers.nodes import nodes

# Final states of jobs.
ENDED = set("COMPLETED CANCELLED FAILED TIMEOUT DEADLINE BOOT_FAIL OUT_OF_MEMORY NODE_FAIL REVOKED".split())
# Options of sbatch that would hide a job from the runner or split it into several.
TAKEN = tuple(
    "--job-name -J --output -o --array -a --clusters -M --cluster --wrap --test-only --wait -W --export".split()
)
LIMIT_S = 120  # how long before its time limit a run is told to stop, and requeued
CPUS_PER_GPU = 4  # the training process and the host's three data workers
POLL_S = 10.0
MISSED_POLLS = 3  # tolerated, because a restarting controller does not answer for a while


@dataclass(frozen=True)
class Slurm:
    """How jobs are submitted. `more`: further options of sbatch, which take precedence."""

    partition: str = ""
    more: str = ""

    def command(self, run: Run, out: Path, on_cpu: bool) -> list[str]:
        """The sbatch command of a run; with `on_cpu` it asks for no GPU."""
        log = _as_pattern(str((run.folder / LOG).resolve()))
        # --export=ALL, because a site may set SBATCH_EXPORT to pass no variables, and a job needs MTM_WEIGHTS etc.
        words = ["sbatch", "--parsable", "--requeue", "--open-mode=append", "--export=ALL", f"--output={log}"]
        words += [f"--job-name={job_name(run)}", f"--signal=B:USR1@{LIMIT_S}"]
        words += [f"--nodes={nodes()}", "--ntasks-per-node=1", f"--chdir={ROOT}"]
        if self.partition:
            words.append(f"--partition={self.partition}")
        gpus = TRAINERS[run.trainer].gpus(run)  # on each machine
        if gpus and not on_cpu:
            words += [f"--gpus-per-node={gpus}", f"--cpus-per-task={gpus * CPUS_PER_GPU}"]
        script = str(ROOT / "experiments/slurm_job.sh")
        return [*words, *shlex.split(self.more), script, *row_command(run, out)]


def slurm_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of chosen_slurm to a click command."""
    for option in (
        click.option(
            "--slurm-args", default="", help="More options for sbatch, such as '--account=me --time=24:00:00'."
        ),
        click.option("--partition", default="", help="Partition for the jobs.  [default: the cluster's]"),
        click.option(
            "--cluster", type=click.Choice(["slurm"]), help="Submit every run as a job to this kind of cluster."
        ),
    ):
        command = option(command)
    return command


def chosen_slurm(cluster: str | None, partition: str, slurm_args: str) -> Slurm | None:
    """The Slurm settings from the options; None without a cluster. Raises UserError if the options are inconsistent."""
    if not cluster and (partition or slurm_args):
        raise UserError(
            f"run: PARTITION and SLURM_ARGS must come with a cluster; got {partition or slurm_args!r} without one. Add "
            "CLUSTER=slurm."
        )
    try:
        words = shlex.split(slurm_args)
    except ValueError as error:
        raise UserError(
            f"run: SLURM_ARGS must be words of a shell; got {slurm_args!r} ({error}). Close the quotes."
        ) from None
    for word in words:
        if word.partition("=")[0] in TAKEN or word[:2] in TAKEN:
            raise UserError(
                f"run: SLURM_ARGS must not have the options by which the runner finds its jobs ({', '.join(TAKEN)}); "
                f"got {word!r}. Leave it out; another cluster: export SLURM_CLUSTERS=name."
            )
    return Slurm(partition, slurm_args) if cluster else None


def submit(command: list[str]) -> str:
    """Submits a job and returns its number. Raises UserError with Slurm's message if Slurm refuses it."""
    try:  # in a separate session, so that Ctrl-C cannot end it between the submission and its answer
        result = subprocess.run(command, capture_output=True, text=True, start_new_session=True)
    except OSError as error:
        raise UserError(
            f"slurm: sbatch must be on the PATH; got {error.strerror}. Run this on a machine that submits jobs."
        ) from None
    if result.returncode:
        raise UserError(f"slurm: sbatch refused the job: {result.stderr.strip()}\nIt was: {shlex.join(command)}")
    numbers = re.findall(r"^(\d+)(?:;.*)?$", result.stdout, re.MULTILINE)  # a site's wrapper may print more
    if len(numbers) != 1:
        raise UserError(
            f"slurm: sbatch must print the number of the job; got {result.stdout.strip()!r}. Run the same command "
            f"again: it finds the job by its name.\nIt was: {shlex.join(command)}"
        )
    return numbers[0]


def queue(names: list[str]) -> dict[str, tuple[str, str]] | None:
    """(number, state) of the newest job of each name in the queue, preferring jobs that have not ended. A state is
    PENDING, RUNNING, ... None if Slurm does not answer."""
    if not names:
        return {}
    try:
        # Asks for all jobs of the user, because a query for a list of jobs fails if one of them is gone.
        words = ["squeue", "--noheader", "--states=all", "--me", "--format=%i %T %j"]
        result = subprocess.run(words, capture_output=True, text=True, timeout=60, start_new_session=True)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if result.returncode:
        return None
    jobs = [line.split() for line in result.stdout.splitlines() if len(line.split()) == 3]
    mine = [(number, state, name) for number, state, name in jobs if number.isdigit() and name in names]
    mine.sort(key=lambda job: (job[1] not in ENDED, int(job[0])))
    return {name: (number, state) for number, state, name in mine}


class SlurmScheduler(Scheduler):
    """Submits jobs and follows them until all have ended or a signal comes. The number of a run's job is stored in the
    run's folder, so that the next call finds it."""

    def __init__(self, jobs: list[Job], slurm: Slurm, on_cpu: bool, out: Path, progress: Progress) -> None:
        super().__init__(jobs, len(jobs), out, progress)
        self._slurm, self._on_cpu = slurm, on_cpu
        self._states: dict[str, str] = {}
        self._polled_s, self._missed = float("-inf"), 0
        self._absent = Counter[str]()  # per run, consecutive polls that did not find its job
        self._held_back = 0  # number of followed jobs when Slurm last refused another one

    def stopped_text(self) -> str:
        numbers = [job_number(job.run) for job in self._running]
        return (
            f"no longer following; {len(numbers)} jobs stay in the queue. Run the same command again to follow them. "
            f"To cancel them: scancel {' '.join(numbers)}"
        )

    def _start_some(self) -> None:
        if self.signal is not None or not self._waiting or self._held_back == len(self._running) > 0:
            return
        known = self._poll_now([job_name(job.run) for job in self._waiting])
        while self._waiting and not self._signals_seen:
            job = self._waiting[0]
            number, state = known.get(job_name(job.run), (job_number(job.run), "COMPLETED"))
            if state not in ENDED or in_use(job.run.folder):
                self._progress.stage(job.label, f"already in the queue as job {number}; following it")
            else:
                (job.run.folder / STATE).unlink(missing_ok=True)  # it describes the previous attempt
                try:
                    number = submit(self._slurm.command(job.run, self._out, self._on_cpu))
                except UserError as error:
                    if not self._running:
                        raise
                    self._held_back = len(self._running)  # probably a limit on the number of jobs
                    self._progress.stage(job.label, f"will be tried again when a job ends: {error}")
                    break
                self._progress.stage(job.label, f"job {number}")
            job.status = "running"
            self._running.append(self._waiting.popleft())
            with atomic_output(job.run.folder / SLURM_JOB) as temporary:
                temporary.write_text(number + "\n", encoding="utf-8")
        self._polled_s = time.monotonic()

    def _poll_now(self, names: list[str]) -> dict[str, tuple[str, str]]:
        found = queue(names)
        if found is None:
            raise UserError(
                "slurm: squeue gave no answer. Nothing was submitted, because a run could be submitted twice. Try: "
                "squeue --me"
            )
        return found

    def _look(self) -> None:
        if time.monotonic() - self._polled_s > POLL_S:
            self._polled_s = time.monotonic()
            found = queue([job_name(job.run) for job in self._running])
            self._missed = self._missed + 1 if found is None else 0
            if self._missed == MISSED_POLLS:
                self._progress.stage(self._running[0].label, "squeue does not answer; waiting for it")
            for job in self._running if found is not None else []:
                self._note(job, (found or {}).get(job_name(job.run)))
        super()._look()

    def _note(self, job: Job, found: tuple[str, str] | None) -> None:
        """Records the state of the job in the queue. Slurm may answer from an outdated cache, so a missing job counts
        as gone only after MISSED_POLLS polls, or once its run is done or failed."""
        self._absent[job.label] = 0 if found else self._absent[job.label] + 1
        said = state.status if (state := self._state(job)) is not None else ""
        if found is None and self._absent[job.label] < MISSED_POLLS and said not in ("done", "failed"):
            return
        number, queued = found or (job_number(job.run), "gone")
        if queued not in (self._states.get(number), "RUNNING", "COMPLETING", "gone", *ENDED):
            self._progress.stage(job.label, f"job {number} is {queued}")
        self._states[number] = queued

    def _memory_bytes(self) -> int:
        """Resident memory of the largest run. Not a sum, because the runs are on other machines."""
        return max((state.peak_rss_bytes for job in self._running if (state := self._state(job))), default=0)

    def _state(self, job: Job) -> State | None:
        with suppress(UserError):
            state = read_state(job.run.folder)
            job.pid = state.pid if state is not None else 0
            return state
        return None

    def _has_ended(self, job: Job) -> bool:
        state = self._states.get(job_number(job.run))
        return (state == "gone" or state in ENDED) and not in_use(job.run.folder)

    def _conclude(self, job: Job) -> None:
        try:
            state = read_state(job.run.folder)
        except UserError as error:
            self._end(job, "failed", str(error))
            return
        number = job_number(job.run)
        if state is not None and state.status in ("done", "failed"):
            self._end(job, state.status, state.message)
        elif self._states[number] == "CANCELLED":
            self._end(job, "interrupted", f"its Slurm job {number} was cancelled.")
        elif state is not None and state.status == "interrupted":
            what = f"its Slurm job {number} was told to stop, and is no longer in the queue."
            self._end(job, "interrupted", f"{what} {state.message}".strip())
        else:
            what = f"its Slurm job {number} ended ({self._states[number]}) without a result."
            self._end(job, "failed", f"{what} See: sacct -j {number}", note=True)

    def _leaves(self) -> bool:
        return self.signal is not None

    def _pass_signals_on(self) -> None:
        if self._signals_seen:
            self.signal = self._signals_seen[0]


def _as_pattern(path: str) -> str:
    """A path escaped for sbatch's --output. Slurm replaces patterns that begin with %, and %% stands for %. If there is
    a backslash in the path, Slurm replaces no pattern, and a backslash escapes the next character."""
    return path.replace("\\", "\\\\") if "\\" in path else path.replace("%", "%%")


def job_name(run: Run) -> str:
    """The name of the run's job, unique to the run's folder, which identifies the job in the queue. The job's number
    would not do: a copy of the folder has the same number, and a killed runner may not have recorded it."""
    return f"mtm-{run.row}-{run.seed}-{hashlib.sha256(str(run.folder.resolve()).encode()).hexdigest()[:12]}"


def job_number(run: Run) -> str:
    """The number of the last job that was submitted for the run; empty if there is none."""
    path = run.folder / SLURM_JOB
    return path.read_text(encoding="utf-8").strip() if path.exists() else ""
