"""Starts the processes of runs, a few at a time, and follows them through their files.

No pipe connects the runner to a run: the runner can be killed at any time, and the next one follows the runs that still
run (experiments.row). SIGINT and SIGTERM are passed on to the runs; SIGHUP (a closed terminal) does not affect them.
"""

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from experiments.files import MACHINE, UserError
from experiments.folder import in_use
from experiments.progress import Progress
from experiments.provenance import visible_gpus
from experiments.row import exit_text, note_failure, read_state, tree_rss_bytes
from experiments.trainers import TRAINERS
from experiments.trainers.contract import LOG, ROOT, Run

ROW = ("-m", "experiments.row")
AGAIN = "Run the same command again to resume."
FIRST_PORT = 29500  # MASTER_PORT of the first run; each run beside it takes the next


@dataclass
class Job:
    """A run to be done, and its outcome. Status: waiting, running, done, failed or interrupted."""

    run: Run
    status: str = "waiting"
    message: str = ""
    process: "subprocess.Popen[bytes] | None" = None  # None if another runner started it
    pid: int = 0
    child_pid: int = 0
    slot: int = 0
    gpus: tuple[str, ...] = ()
    elsewhere: bool = False  # runs on another machine, so its pid and GPUs are not of this one
    stage: str = ""

    @property
    def label(self) -> str:
        return self.run.label


def row_command(run: Run, out: Path) -> list[str]:
    """The command that finishes a prepared run, on this or any machine that sees the same files."""
    paths = {"--out": out, "--data": run.data}
    return [sys.executable, *ROW, str(run.folder.resolve()), *[f"{k}={v.resolve()}" for k, v in paths.items()]]


class Scheduler:
    """Runs jobs, at most `parallel` at a time and as many as the GPUs allow, until all have ended or a signal stops
    them.

    After `run`, `signal` is the signal that stopped the jobs, or None, and `peak_rss_bytes` the largest sum of the
    resident memory of all runs and this process.
    """

    def __init__(self, jobs: list[Job], parallel: int, out: Path, progress: Progress) -> None:
        self._jobs, self._waiting, self._running = jobs, deque(jobs), list[Job]()
        self._parallel, self._out, self._progress = parallel, out, progress
        self._gpus = visible_gpus()
        self._looked_s = 0.0
        self._signals_seen: list[int] = []
        self._passed_on = 0
        self.signal: int | None = None
        self.peak_rss_bytes = 0

    def stopped_text(self) -> str:
        """A sentence that names the interrupted runs and what each has saved."""
        stopped = [f"{job.label} {_saved_text(job.run)}" for job in self._jobs if job.status == "interrupted"]
        return f"stopped; saved: {', '.join(stopped) or 'what has finished'}. {AGAIN}"

    def run(self) -> None:
        """Runs all jobs; returns when none is running any more, or at once after SIGHUP."""
        with self._signals():
            while self._running or (self._waiting and self.signal is None):
                self._pass_signals_on()
                if self._leaves():
                    return
                self._start_some()
                self._look()
                time.sleep(0.1)

    def _leaves(self) -> bool:
        """Whether to return and leave the runs running: true after SIGHUP, because a closed terminal stops no run."""
        return self.signal == signal.SIGHUP

    def _start_some(self) -> None:
        for job in [job for job in self._waiting if in_use(job.run.folder)]:
            self._waiting.remove(job)
            self._follow(job)
        while self._waiting and len(self._running) < self._parallel and self.signal is None:
            needed = TRAINERS[self._waiting[0].run.trainer].gpus(self._waiting[0].run) if self._gpus else 0
            used = {gpu for job in self._running for gpu in job.gpus}
            free = [gpu for gpu in self._gpus if gpu not in used]
            if needed > len(self._gpus):
                job = self._waiting.popleft()
                self._end(
                    job, "failed", f"it needs {needed} GPUs; this machine has {len(self._gpus)}. Set gpus.", note=True
                )
                continue
            if needed > len(free):
                return  # keeps the order, so that a run with many GPUs does not wait forever
            self._start(self._waiting.popleft(), tuple(free[:needed]))

    def _start(self, job: Job, gpus: tuple[str, ...]) -> None:
        job.gpus = gpus
        job.slot = min(set(range(len(self._running) + 1)) - {other.slot for other in self._running})
        environment = {"MASTER_PORT": str(int(os.environ.get("MASTER_PORT", FIRST_PORT)) + job.slot)}
        if self._gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        command = row_command(job.run, self._out)
        try:
            with (job.run.folder / LOG).open("ab") as log:
                job.process = subprocess.Popen(
                    command,
                    cwd=ROOT,
                    env={**os.environ, **environment},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            self._end(job, "failed", f"its process cannot be started: {error}", note=True)
            return
        job.status, job.pid = "running", job.process.pid
        self._running.append(job)

    def _follow(self, job: Job) -> None:
        """Takes over a run that an earlier runner started."""
        job.status, job.process = "running", None
        _take_over(job)
        job.slot = min(set(range(len(self._running) + 1)) - {other.slot for other in self._running})
        self._progress.stage(job.label, "already running; following it")
        self._running.append(job)

    def _look(self) -> None:
        now_s = time.monotonic()
        if now_s - self._looked_s > 0.5:
            self._looked_s = now_s
            self.peak_rss_bytes = max(self.peak_rss_bytes, self._memory_bytes())
            for job in self._running:
                self._show(job)
            self._progress.refresh()
        for job in list(self._running):
            if self._has_ended(job):
                self._running.remove(job)
                self._show(job)
                self._conclude(job)

    def _memory_bytes(self) -> int:
        return psutil.Process().memory_info().rss + sum(
            tree_rss_bytes(job.pid) for job in self._running if not job.elsewhere
        )

    def _has_ended(self, job: Job) -> bool:
        return job.process.poll() is not None if job.process is not None else not in_use(job.run.folder)

    def _conclude(self, job: Job) -> None:
        try:
            state = read_state(job.run.folder)
        except UserError as error:
            self._end(job, "failed", str(error))
            return
        if job.process is not None and in_use(job.run.folder):  # killed, but its trainer still runs
            self._follow(job)
            return
        mine = state is not None and state.pid == job.pid
        if state is not None and mine and state.status != "running":
            self._end(job, state.status, state.message)
        elif job.process is None and self.signal is None:  # it was killed, and no other runner continues it
            job.status = "waiting"
            self._waiting.appendleft(job)
        elif self.signal is not None:
            self._end(job, "interrupted", "")
        else:
            code = exit_text(job.process.returncode) if job.process is not None else "nothing"
            message = f"its process ended with {code} and gave no reason."
            self._end(job, "failed", message, note=True)

    def _show(self, job: Job) -> None:
        with suppress(Exception):  # the run's own process reports damaged files
            progress = TRAINERS[job.run.trainer].progress(job.run)
            self._progress.tick(job.label, progress.kimg, progress.total_kimg)
        with suppress(UserError):
            state = read_state(job.run.folder)
            if state is not None and state.pid == job.pid and state.status == "running" and state.step != job.stage:
                job.stage = state.step
                self._progress.stage(job.label, state.step)

    def _end(self, job: Job, status: str, message: str, note: bool = False) -> None:
        job.status, job.message = status, message
        if note:
            try:
                note_failure(job.run, self._out, message)
            except (UserError, OSError) as error:  # a full disk: the other runs continue
                job.message += f"\nThe ledger cannot be written: {error}"
        self._progress.stage(job.label, status)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        stops = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, self._on_signal) for number in stops}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, _frame: object) -> None:
        self._signals_seen.append(number)  # must not print: it may interrupt a print to the same terminal

    def _pass_signals_on(self) -> None:
        """Passes signals on to the runs: the first one asks for a snapshot, a second one stops them at once."""
        for number in self._signals_seen[self._passed_on :]:
            self._passed_on += 1
            self.signal = self.signal or number
            if number == signal.SIGHUP:
                return
            for job in [job for job in self._running if job.process is None]:
                _take_over(job)  # updates child_pid: it may have started its next step
            for job in [job for job in self._running if job.elsewhere]:
                self._running.remove(job)
                self._end(job, "interrupted", "")
                self._progress.stage(job.label, "runs on another machine, and keeps running")
            for job in self._running:
                self._progress.stage(job.label, "stopping (press Ctrl-C again to stop at once)")
                with suppress(ProcessLookupError):
                    if _is_row(job):
                        os.kill(job.pid, number)
                    elif job.child_pid:  # a trainer that outlived its run's process
                        os.killpg(job.child_pid, number)


def _saved_text(run: Run) -> str:
    """How much of a run's training is saved, as text."""
    with suppress(UserError, OSError):
        kimg = TRAINERS[run.trainer].saved_kimg(run)
        return f"up to {kimg:.3g} kimg" if kimg else "nothing yet"
    return "an unreadable file"


def _take_over(job: Job) -> None:
    """Reads pids, machine and GPUs of a run that another runner started from the run's state."""
    with suppress(UserError):
        if (state := read_state(job.run.folder)) is not None:
            job.pid, job.child_pid, job.elsewhere = state.pid, state.child_pid, state.machine != MACHINE
            job.gpus = () if job.elsewhere else tuple(filter(None, state.cuda_visible_devices.split(",")))


def _is_row(job: Job) -> bool:
    """Whether the pid still belongs to the run's process. For our own child that is certain until it is waited for."""
    if job.process is not None:
        return job.process.returncode is None
    with suppress(psutil.Error):
        words = psutil.Process(job.pid).cmdline()
        return "experiments.row" in words and str(job.run.folder.resolve()) in words
    return False
