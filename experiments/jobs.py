"""Runs rows as child processes, a few at a time: output to a log, ticks to the progress, signals passed on.

A child lives in a session of its own, so that Ctrl-C reaches it once, from here, and not a second time from the
terminal. Its output comes through a pipe: if this process is killed outright, the child ends at its next line.
"""

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil

from experiments.progress import Progress

TAIL_LINES = 15
INTERRUPTED = (130, 143, -signal.SIGINT, -signal.SIGTERM)


@dataclass(frozen=True)
class Step:
    """One command of a row: 'train' or 'evaluate'."""

    name: str
    command: list[str]


@dataclass
class Job:
    """A row's steps still to do, and what came of them. Status: waiting, running, done, failed or interrupted."""

    row_id: str
    log: Path  # the children's whole output; outside the row's folder, which trainers want for themselves
    steps: list[Step]
    environment: dict[str, str] = field(default_factory=dict)
    status: str = "waiting"
    exit_code: int | None = None
    failed_step: str | None = None
    wall_s: float = 0.0
    peak_rss_bytes: int = 0
    resumed_from_kimg: float | None = None
    kimg: float = 0.0
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=TAIL_LINES))


class _Running:
    """A job's child process."""

    def __init__(self, job: Job, step: Step, keep_open: tuple[int, ...]) -> None:
        self.job, self.step = job, step
        self.started_s = time.monotonic()
        self.rest = b""
        job.log.parent.mkdir(parents=True, exist_ok=True)
        self.log: IO[bytes] = job.log.open("ab")
        self.log.write(f"\n$ {' '.join(step.command)}\n".encode())
        self.log.flush()
        try:
            self.process = subprocess.Popen(
                [sys.executable if token == "python" else token for token in step.command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **job.environment},
                start_new_session=True,
                pass_fds=keep_open,  # the folder's lock: held until the last child has gone, whatever happens to us
            )
        except OSError:
            self.log.close()
            raise
        assert self.process.stdout is not None
        self.pipe = self.process.stdout
        os.set_blocking(self.pipe.fileno(), False)

    def read(self) -> list[str] | None:
        """Whole lines that have come since the last call; None once the pipe has ended."""
        lines: list[str] = []
        while True:
            try:
                data = os.read(self.pipe.fileno(), 1 << 16)
            except BlockingIOError:
                return lines
            if not data:
                if self.rest:
                    lines.append(self.rest.decode(errors="replace"))
                    self.rest = b""
                return lines or None
            self.log.write(data)
            self.log.flush()
            *whole, self.rest = (self.rest + data).split(b"\n")
            lines += [line.decode(errors="replace") for line in whole]

    def close(self) -> None:
        self.pipe.close()
        self.log.close()
        self.job.wall_s += time.monotonic() - self.started_s


class Scheduler:
    """Runs jobs, `parallel` at a time, until all have ended or a signal stops them.

    `on_end(job)` is called once for every job that was started. After `run`, `signal` is the signal that stopped it
    or None, and `peak_rss_bytes` the largest sum of resident memory of all children and this process (pages that
    processes share are counted in each).
    """

    def __init__(
        self,
        jobs: list[Job],
        parallel: int,
        progress: Progress,
        on_end: Callable[[Job], None],
        keep_open: tuple[int, ...] = (),
    ) -> None:
        self._waiting = deque(jobs)
        self._parallel, self._progress, self._on_end, self._keep_open = parallel, progress, on_end, keep_open
        self._running: list[_Running] = []
        self._selector = selectors.DefaultSelector()
        self._sampled_s = 0.0
        self._signals_seen: list[int] = []
        self.signal: int | None = None
        self.peak_rss_bytes = 0

    def run(self) -> None:
        """Runs everything; returns when no child is left."""
        with self._signals():
            try:
                while self._running or (self._waiting and self.signal is None):
                    self._pass_signals_on()
                    self._start_some()
                    self._read(timeout_s=0.25)
                    self._sample_memory()
                    self._progress.refresh()
            finally:
                self._kill()  # only after an error of our own
                self._selector.close()

    def _start_some(self) -> None:
        while self._waiting and len(self._running) < self._parallel and self.signal is None:
            job = self._waiting.popleft()
            job.status = "running"
            self._start_step(job)

    def _start_step(self, job: Job) -> None:
        if not job.steps:
            self._end(job, "done")
            return
        step = job.steps.pop(0)
        self._progress.stage(job.row_id, step.name)
        try:
            running = _Running(job, step, self._keep_open)
        except OSError as error:
            job.tail.append(f"{step.command[0]}: {error}")
            job.failed_step, job.exit_code = step.name, 127
            self._end(job, "failed")
            return
        self._running.append(running)
        self._selector.register(running.pipe, selectors.EVENT_READ, running)

    def _read(self, timeout_s: float) -> None:
        if not self._running:
            return
        for key, _ in self._selector.select(timeout_s):
            if not self._drain(key.data):
                self._selector.unregister(key.fileobj)
        for running in list(self._running):  # the pipe may end before the child does, or (grandchildren) after it
            if running.process.poll() is not None:
                self._drain(running)
                self._step_ended(running)

    def _drain(self, running: _Running) -> bool:
        """Takes what there is; False at the pipe's end."""
        lines = running.read()
        for line in lines or []:
            self._line(running.job, line)
        return lines is not None

    def _line(self, job: Job, line: str) -> None:
        event = None
        if line.startswith("{"):
            with suppress(ValueError):
                event = json.loads(line)
        if not isinstance(event, dict) or "kimg" not in event or "total_kimg" not in event:
            if line.strip():
                job.tail.append(line.rstrip())
            return
        job.kimg = float(event["kimg"])
        if job.resumed_from_kimg is None:
            job.resumed_from_kimg = job.kimg
        self._progress.tick(job.row_id, job.kimg, float(event["total_kimg"]))

    def _step_ended(self, running: _Running) -> None:
        job, code = running.job, running.process.wait()
        with suppress(KeyError):
            self._selector.unregister(running.pipe)
        self._running.remove(running)
        running.close()
        job.exit_code = code
        if code == 0 and (self.signal is None or not job.steps):
            self._start_step(job)
        elif self.signal is not None or code in INTERRUPTED:
            self._end(job, "interrupted")
        else:
            job.failed_step = running.step.name
            self._end(job, "failed")

    def _end(self, job: Job, status: str) -> None:
        job.status = status
        self._progress.stage(job.row_id, status)
        self._on_end(job)

    def _sample_memory(self) -> None:
        if time.monotonic() - self._sampled_s < 1.0:
            return
        self._sampled_s = time.monotonic()
        total = psutil.Process().memory_info().rss
        for running in self._running:
            rss = _tree_rss_bytes(running.process.pid)
            running.job.peak_rss_bytes = max(running.job.peak_rss_bytes, rss)
            total += rss
        self.peak_rss_bytes = max(self.peak_rss_bytes, total)

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
        self._signals_seen.append(number)  # nothing else: it may interrupt a print to the same terminal

    def _pass_signals_on(self) -> None:
        """The first signal asks every child for a snapshot; a second one ends them now."""
        if len(self._signals_seen) > 1:
            self._kill()
        if self._signals_seen and self.signal is None:
            self.signal = self._signals_seen[0]
            for running in self._running:
                self._progress.stage(running.job.row_id, "saves a snapshot and stops (Ctrl-C again: stops at once)")
                with suppress(ProcessLookupError):
                    running.process.send_signal(signal.SIGINT if self.signal == signal.SIGINT else signal.SIGTERM)

    def _kill(self) -> None:
        for running in self._running:
            with suppress(ProcessLookupError):
                os.killpg(running.process.pid, signal.SIGKILL)


def _tree_rss_bytes(pid: int) -> int:
    total = 0
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        for one in [process, *process.children(recursive=True)]:
            with suppress(psutil.Error):
                total += one.memory_info().rss
    return total
