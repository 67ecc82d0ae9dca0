"""One run as a separate process: `python -m experiments.row OUT/runs/ROW/SEED-IDENTITY --out OUT --data ZIP`.

It does the remaining steps of the run, one child process after another, and writes the run's state, log and ledger
entry. It does not depend on the runner that started it: it continues if that runner ends, and the next runner finds it
by the lock of the run's folder. SIGINT and SIGTERM go to the child's whole process group, so that a trainer can save a
snapshot and its workers end with it; a second signal kills the group.
"""

import fcntl
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Any

import click
import psutil

from experiments import ledger
from experiments.checked import Checked, read_json
from experiments.data import described
from experiments.files import MACHINE, UserError, atomic_output, disk_errors
from experiments.folder import LOCK
from experiments.metrics import METRICS
from experiments.provenance import portable_command, portable_values, provenance
from experiments.trainers import TRAINERS
from experiments.trainers.contract import INTERRUPTED, LOG, ROOT, STATE, Run, Step, Trainer, load_run, mean_s_per_kimg
from experiments.trainers.nodes import nodes

TAIL_LINES = 15
EXIT_CODES = {"done": 0, "failed": 1, "interrupted": 130}
NOTHING_SAVED = 131  # interrupted without progress, so slurm_job.sh does not requeue the run


class State(Checked):
    """The state of a run, which the runner reads (experiments.jobs). status: running, done, failed or interrupted."""

    status: str
    step: str = ""
    message: str = ""  # why it failed, or a remark on an interruption
    pid: int
    child_pid: int = 0  # leader of the current step's process group
    peak_rss_bytes: int = 0
    cuda_visible_devices: str = ""
    machine: str = MACHINE  # the machine of these pids


def read_state(folder: Path) -> State | None:
    """The run's state, or None if it has not begun. Raises UserError if the file is not a state."""
    return read_json(State, folder / STATE) if (folder / STATE).exists() else None


class Stopped(Exception):  # noqa: N818 - not an error: the run was told to stop
    """A signal came, or the step's exit code says that it was interrupted."""


class StepFailed(Exception):  # noqa: N818
    """A step failed. The message has the reason and the last lines of the step's output."""


@dataclass
class Work:
    """One attempt at a run."""

    run: Run
    trainer: Trainer
    out: Path
    lock: int
    signals: list[int] = field(default_factory=list)
    child: subprocess.Popen[bytes] | None = None
    step: str = ""
    exit_code: int | None = None
    peak_rss_bytes: int = 0
    begun_kimg: float = 0.0
    finished_steps: int = 0
    commands: list[str] = field(default_factory=list)

    def do(self) -> None:
        """Does every remaining step. Asks the trainer again after each, because its output decides the next one."""
        last: Step | None = None
        while steps := self.trainer.steps(self.run):
            if self.signals:
                raise Stopped
            if last is not None and steps[0].name == last.name and steps[0].argv[:3] == last.argv[:3]:
                raise StepFailed(self._nothing_new(last))
            last = steps[0]
            self._do_step(last)
        missing = [name for name in self.run.metrics if self.trainer.measured(self.run)[name].value is None]
        if missing:
            raise StepFailed(f"metrics: {', '.join(missing)} must be finite; got NaN or infinity.")

    def _nothing_new(self, step: Step) -> str:
        if step.name == "metrics":
            absent = [name for name in self.run.metrics if name not in self.trainer.measured(self.run)]
            return f"metrics ended with exit code 0, but did not write {', '.join(absent)}, which the row asks for."
        return f"{step.name} ended with exit code 0, but its output is missing or incomplete."

    def _do_step(self, step: Step) -> None:
        self.step = step.name
        self.commands.append(portable_command(step, self.out))
        log_path = self.run.folder / LOG
        with disk_errors(log_path), log_path.open("ab") as log:
            log.write(f"\n$ {step.text()}\n".encode())
            log.flush()
            begun = log.tell()
            self._start(step, log)
        assert self.child is not None
        try:
            self.write_state("running")
        except UserError:  # on a full disk, stops the step, because nobody could follow it
            os.killpg(self.child.pid, signal.SIGTERM)
            self._wait()
            raise
        self._wait()
        assert self.exit_code is not None
        if self.exit_code in INTERRUPTED or (self.signals and self.exit_code):
            raise Stopped
        if self.exit_code:
            raise StepFailed(f"{step.name} ended with {exit_text(self.exit_code)}.\n{_tail(log_path, begun)}")
        self.finished_steps += 1

    def has_saved(self) -> bool:
        """Whether the next attempt has less to do than this one had; True if the files cannot be read."""
        with suppress(UserError, OSError):
            return self.finished_steps > 0 or self.trainer.saved_kimg(self.run) > self.begun_kimg
        return True

    def _start(self, step: Step, log: IO[bytes]) -> None:
        try:
            self.child = subprocess.Popen(
                [sys.executable if word == "python" else word for word in step.argv],
                cwd=ROOT / step.cwd,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **step.env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(self.lock,),  # keeps the lock until the last child has ended
            )
        except OSError as error:
            raise StepFailed(f"{step.name} cannot be started: {step.argv[0]}: {error.strerror}.") from error
        if self.signals:  # a signal came before the child started
            os.killpg(self.child.pid, self.signals[-1])

    def _wait(self) -> None:
        assert self.child is not None
        sampled_s = 0.0
        while (code := self.child.poll()) is None:
            if time.monotonic() - sampled_s > 1.0:
                sampled_s = time.monotonic()
                self.peak_rss_bytes = max(self.peak_rss_bytes, tree_rss_bytes(os.getpid()))
            time.sleep(0.05)
        self.exit_code, self.child = code, None

    def on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.signals.append(number)
        if self.child is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.child.pid, number if len(self.signals) == 1 else signal.SIGKILL)

    def write_state(self, status: str, message: str = "") -> None:
        state = State(
            status=status,
            step=self.step,
            message=message,
            pid=os.getpid(),
            child_pid=self.child.pid if self.child else 0,
            peak_rss_bytes=self.peak_rss_bytes,
            cuda_visible_devices=os.environ.get("CUDA_VISIBLE_DEVICES", ""),
        )
        with atomic_output(self.run.folder / STATE) as temporary:
            temporary.write_text(state.model_dump_json(indent=1), encoding="utf-8")


def do_run(folder: Path, out: Path, data: Path, lock: int) -> int:
    """Does the run; returns the exit code for its status (EXIT_CODES), or NOTHING_SAVED. Raises UserError if the state
    cannot be written. If the ledger entry cannot be written, the status is failed and the state's message says so."""
    run = load_run(folder, data)
    work = Work(run, TRAINERS[run.trainer], out, lock)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, work.on_signal)
    started_s = time.monotonic()
    status, message, has_saved = "done", "", True
    try:
        work.begun_kimg = work.trainer.saved_kimg(run)
        work.do()
    except Stopped:
        status = "interrupted"
        if not (has_saved := work.has_saved()):
            message = f"it was stopped before it had saved anything new (saved: {work.begun_kimg:.3g} kimg)."
    except (StepFailed, UserError) as error:
        status, message = "failed", str(error)
    entry = ledger_entry(work, status, message)
    try:
        ledger.append_entry(out / ledger.NAME, entry | {"wall_s": round(time.monotonic() - started_s, 1)})
    except (UserError, OSError) as error:
        status, message = "failed", f"{message}\nThe ledger cannot be written: {error}".strip()
    work.write_state(status, message)
    return EXIT_CODES[status] if has_saved else NOTHING_SAVED


def ledger_entry(work: Work, status: str, message: str) -> ledger.Entry:
    """The ledger entry of one attempt. A file that cannot be read adds a line to the message; it raises no error."""
    run, trainer, problems = work.run, work.trainer, [message] if message else []

    def tried(read: Any, otherwise: Any) -> Any:
        try:
            return read()
        except (UserError, OSError) as error:
            problems.append(str(error))
            return otherwise

    metrics = tried(lambda: trainer.measured(run), {})
    return {
        "event": "row",
        "table": run.table,
        "preset": run.preset,
        "row": run.row,
        "run": run.folder.relative_to(work.out).as_posix(),
        "seed": run.seed,
        "trainer_name": run.trainer,
        "mtm": run.mtm,
        "options": run.options,
        "identity": run.identity,
        "commands": [run.made_by, *work.commands],
        "dataset": {"name": run.dataset, **tried(lambda: asdict(described(run.data)), {})},
        **tried(lambda: provenance(trainer.host), {}),
        "world_size": max(1, trainer.gpus(run)) * nodes(),
        "trainer": portable_values(tried(lambda: trainer.facts(run), {}), work.out),
        "status": status,
        "failed_step": work.step if status == "failed" else None,
        "exit_code": work.exit_code,
        "resumed_from_kimg": work.begun_kimg or None,
        "kimg": tried(lambda: trainer.progress(run).kimg, None),
        "s_per_kimg": tried(lambda: mean_s_per_kimg(trainer.ticks(run, [])), None),
        "peak_rss_bytes": work.peak_rss_bytes,
        "metrics": {n: m.model_dump() for n, m in metrics.items() if n in METRICS} if status == "done" else {},
        "message": "\n".join(dict.fromkeys(problems)),
    }


def note_failure(run: Run, out: Path, message: str) -> None:
    """Appends the ledger entry of a run whose own process could not write it."""
    entry = ledger_entry(Work(run, TRAINERS[run.trainer], out, lock=-1), "failed", message)
    ledger.append_entry(out / ledger.NAME, entry | {"wall_s": 0.0})


def exit_text(code: int) -> str:
    """'exit code 3', or the name of the signal: 'SIGKILL (was it out of memory?)'."""
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"{name} (was it out of memory?)" if name == "SIGKILL" else name


def _tail(log: Path, begun: int) -> str:
    """The last lines of the log from byte `begun` on."""
    with log.open("rb") as file:
        file.seek(max(begun, file.seek(0, os.SEEK_END) - 8192))
        lines = [line.rstrip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    return "\n".join(f"    {line}" for line in lines[-TAIL_LINES:]) or "    (it printed nothing)"


def tree_rss_bytes(pid: int) -> int:
    """Resident memory of a process and its descendants; shared pages count once per process."""
    total = 0
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        for one in [process, *process.children(recursive=True)]:
            with suppress(psutil.Error):
                total += one.memory_info().rss
    return total


def hold(folder: Path, patience_s: float = 5.0) -> int:
    """Takes the run's lock and returns its file descriptor. Raises UserError if another process still holds it after
    `patience_s`."""
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    end_s = time.monotonic() + patience_s  # a runner that checks the lock holds it for a moment
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() > end_s:
                raise UserError(
                    f"row: {folder} must be worked on by one process at a time; another one holds it. Wait for it."
                ) from None
            time.sleep(0.05)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The output folder with ledger and report.")
@click.option("--data", type=click.Path(path_type=Path), required=True, help="The zip to train on.")
def main(folder: Path, out: Path, data: Path) -> None:
    """Do the remaining steps of the run in FOLDER, which the runner (experiments.run) prepared."""
    try:
        raise SystemExit(do_run(folder, out, data, hold(folder)))
    except UserError as error:
        raise click.ClickException(str(error)) from None


if __name__ == "__main__":
    main()
