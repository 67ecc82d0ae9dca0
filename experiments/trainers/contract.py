"""The contract between the runner and a trainer. The runner knows nothing else about a trainer.

A *run* is a row of a table with one seed. It has a folder of its own (`Run.folder`), with the fixed names below, and a
trainer: a small class that gives the commands to run and reads the files that they write. A child's output goes
straight to a log file and is not parsed.

To add a trainer: one module with a subclass of `Trainer` and a TRAINER, one line in experiments/trainers/__init__.py.
"""

import json
import shlex
import signal
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import ConfigDict

from experiments.checked import Checked, Number, Value, read_json, storable
from experiments.files import UserError
from experiments.metrics import METRICS as REGISTERED

ROOT = Path(__file__).resolve().parents[2]

# The content of a run's folder. TRAIN belongs to the trainer; the rest has the same form for every trainer.
TRAIN = "train"
METRICS = "metrics"  # <name>.json: a Measured
IMAGES = "images"  # <name>.png: IMAGE_NAMES, films, strip, strip-off, strip-field, and strength-<factor>.png
LOG = "log.txt"  # the output of the run's commands
RUN = "run.json"  # the Run as requested
STATE = "state.json"  # the run's state, written by experiments.row
SLURM_JOB = "slurm-job"  # the number of its job, if it was submitted to a cluster
NCLIPS = 2048  # at most this many clips for a metric of videos
STAND_INS = "stand-ins"  # folder beside the data with the weights of the metrics, for runs with stand_ins
FEW_NIMG = 96  # if metrics have fewer images, as in a smoke test, figures have as few
FEW_REAL_NIMG, FEW_NCLIPS = 32, 2  # real images and clips of a metric with stand-in weights
IMAGE_NAMES = ("samples", "reals", "fig4", "offsets")

# Exit codes of a command that stopped on request; any other code except 0 is a failure.
INTERRUPTED = (130, 143, -signal.SIGINT, -signal.SIGTERM)


class Step(Checked):
    """One command, as a user would type it. In `argv` the word "python" stands for this interpreter.

    `name` is train, metrics or images; `cwd` is relative to the repository's root (empty: the root).
    """

    name: str
    argv: list[str]
    cwd: str = ""
    env: dict[str, str] = {}

    def text(self) -> str:
        """The command line for a shell at the repository's root. A * in a name that is not known yet is not quoted."""
        words = [f"{key}={shlex.quote(value)}" for key, value in self.env.items()]
        words += [shlex.quote(word.replace("*", "@@")).replace("@@", "*") for word in self.argv]
        return f"(cd {shlex.quote(self.cwd)} && {' '.join(words)})" if self.cwd else " ".join(words)


class Progress(Checked):
    """The progress of a training, for a progress bar. Read from the end of the trainer's files, within milliseconds."""

    kimg: float
    total_kimg: float
    finished: bool  # the last snapshot exists


class Tick(Checked):
    """A report of the trainer at one moment. `curves` holds means since the previous tick. Curves that mean the same
    for all trainers have the names that experiments.curves knows: G_loss, D_loss, path_length, path_penalty, r1."""

    kimg: float
    elapsed_s: Number = None  # of training, over all attempts
    s_per_kimg: Number = None
    curves: dict[str, float] = {}


class Measured(Checked):
    """A metric of a finished run; `value` is None if it is NaN or infinite. Values are compared only if their
    fingerprints are equal, so a fingerprint holds everything that decides a value, but nothing about the run itself."""

    value: Number
    fingerprint: dict[str, Any]


class Run(Checked):
    """A row of a table with one seed, every option resolved. Written to the run's folder as RUN.

    `options` are the trainer's options, spelt by its adapter; they include mtm and mtm-head if the trainer takes them.
    `folder` and `data` (the zip) are paths of this machine, so they are not written.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, arbitrary_types_allowed=True)

    table: str
    preset: str
    row: str
    title: str
    trainer: str
    mtm: str
    seed: int
    options: dict[str, Value]
    dataset: str
    metrics: list[str]
    samples_nimg: int  # generated images for each metric that does not fix the number
    real_nimg: int = 0  # real images for such a metric, drawn with a fixed seed; 0: all
    identity: dict[str, Any] = {}  # a change in it makes another run; see experiments.folder
    made_by: str = ""  # the command that made the data
    stand_ins: bool = False  # its metrics use stand-in weights, from the folder STAND_INS beside the data

    folder: Path = Path()
    data: Path = Path()

    @property
    def train(self) -> Path:
        """The trainer's own folder."""
        return self.folder / TRAIN

    @property
    def label(self) -> str:
        """Row and seed, for messages."""
        return f"{self.row}/{self.seed}"

    @property
    def nclips(self) -> int:
        """The number of clips to generate for a metric of videos."""
        return FEW_NCLIPS if self.stand_ins else min(self.samples_nimg, NCLIPS)

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables of every step: the number of threads, if the option `threads` is set, and the folder of
        the stand-in weights, if the run uses them."""
        threads = {"OMP_NUM_THREADS": str(self.options["threads"])} if "threads" in self.options else {}
        weights = {"MTM_WEIGHTS": str(_from_root(self.data.parent / STAND_INS))} if self.stand_ins else {}
        return threads | weights

    def written(self) -> dict[str, Any]:
        """The content of the file RUN."""
        return self.model_dump(exclude={"folder", "data"})


class Trainer(ABC):
    """Base class of the trainers. Metrics and images come from the same tools for all of them."""

    name: str
    host: str | None = None  # its codebase under vendor/, whose state is part of a run's provenance
    version: int = 1  # of the adapter; raise it if old runs can no longer be continued to the same result

    def check(self, run: Run) -> None:  # noqa: B027 - nothing to check is a valid answer
        """Raises UserError if the run cannot be trained here. Called before anything is written."""

    @abstractmethod
    def train_step(self, run: Run) -> Step:
        """The command that trains the run, or continues it from the newest complete snapshot."""

    @abstractmethod
    def progress(self, run: Run) -> Progress:
        """The progress of the training. Raises UserError for an invalid file, naming it."""

    def saved_kimg(self, run: Run) -> float:
        """The kimg from which the training would resume now. This default is for trainers that save a snapshot when
        they are told to stop; others override it. Raises as `progress` does."""
        return self.progress(run).kimg

    @abstractmethod
    def ticks(self, run: Run, problems: list[str]) -> list[Tick]:
        """All ticks in order of kimg, each once, however often the run was interrupted. Damaged lines are skipped and
        described in `problems`."""

    @abstractmethod
    def snapshot(self, run: Run) -> Path | None:
        """The newest complete snapshot that can be opened (experiments.snapshots); truncated ones are skipped."""

    def gpus(self, run: Run) -> int:
        """The number of GPUs that the run asks for on a machine that has GPUs."""
        return 0

    def facts(self, run: Run) -> dict[str, Any]:
        """What the trainer recorded about its options, for the ledger; empty if nothing."""
        return {}

    def measure(self, run: Run, name: str) -> Measured | None:
        """A computed metric, or None. Raises UserError for an invalid file, naming it."""
        path = run.folder / METRICS / f"{name}.json"
        return read_json(Measured, path) if path.exists() else None

    def measured(self, run: Run) -> dict[str, Measured]:
        """The computed metrics among those that the run asks for. Raises UserError as `measure` does."""
        found = {name: self.measure(run, name) for name in run.metrics}
        return {name: measured for name, measured in found.items() if measured is not None}

    def missing(self, run: Run) -> list[str]:
        """The metrics still to be computed: absent, unreadable, or computed with another number of images."""

        def is_there(name: str) -> bool:
            try:
                measured = self.measure(run, name)
            except UserError:
                return False
            if measured is None or REGISTERED[name].by_host:  # the host fixes the numbers itself
                return measured is not None
            wanted = {"generated_nimg": run.samples_nimg, "generated_nclip": run.nclips}
            return all(measured.fingerprint.get(key, count) == count for key, count in wanted.items())

        return [name for name in run.metrics if not is_there(name)]

    def metric_steps(self, run: Run, snapshot: str, missing: list[str]) -> Iterator[Step]:
        """The commands that compute the metrics in `missing`."""
        if missing:
            yield measuring(run, "metrics", snapshot, missing, run.folder / METRICS)

    @abstractmethod
    def planned_snapshot(self, run: Run) -> str:
        """The path of the last snapshot, as far as it is known before the training, for a dry run."""

    def image_steps(self, run: Run, snapshot: str) -> Iterator[Step]:
        """The command that draws IMAGES."""
        words = [f"--outdir={run.folder / IMAGES}", f"--data={run.data}", "--seed=0"]
        if run.samples_nimg < FEW_NIMG:
            words.append(f"--count={run.samples_nimg}")
        yield Step(name="images", argv=["python", "-m", "tools.images", snapshot, *words], env=run.environment)

    def steps(self, run: Run) -> list[Step]:
        """The remaining commands, in order: train, metrics, images."""
        newest = self.snapshot(run) if self.progress(run).finished else None
        finished, snapshot = newest is not None, str(newest or self.planned_snapshot(run))
        steps = [] if finished else [self.train_step(run)]
        steps += self.metric_steps(run, snapshot, self.missing(run) if finished else run.metrics)
        if not finished or not (run.folder / IMAGES / "samples.png").exists():
            steps += self.image_steps(run, snapshot)
        return steps


def measuring(run: Run, name: str, snapshot: str, metrics: list[str], outdir: Path) -> Step:
    """The step, called `name`, that computes these metrics of a snapshot and writes them to `outdir`."""
    words = [",".join(metrics), str(run.data), snapshot, f"--outdir={outdir}", "--seed=0"]
    words += [f"--nimg={run.samples_nimg}", f"--nclips={run.nclips}"]
    real_nimg = FEW_REAL_NIMG if run.stand_ins else run.real_nimg
    words += [f"--real-nimg={real_nimg}"] if real_nimg else []
    return Step(name=name, argv=["python", "-m", "experiments.metrics", *words], env=run.environment)


def _from_root(path: Path) -> Path:
    """The path relative to the repository's root if it is inside the repository; else unchanged."""
    absolute = path.absolute()
    return absolute.relative_to(ROOT) if absolute.is_relative_to(ROOT) else absolute


def mean_s_per_kimg(ticks: list[Tick]) -> float | None:
    """Training time per thousand images, seconds, over the whole run; None if no tick reported it."""
    last = ticks[-1] if ticks else None
    return last.elapsed_s / last.kimg if last and last.elapsed_s is not None and last.kimg else None


def read_lines(path: Path, problems: list[str]) -> list[dict[str, Any]]:
    """The JSON objects of a .jsonl file, in order, with None for NaN; damaged lines are reported in `problems`."""
    if not path.exists():
        return []
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        if isinstance(value, dict):
            found.append(storable(value))
        elif line.strip():
            problems.append(f"{path.parent.name}/{path.name}: line {number} is damaged and was left out")
    return found


def in_order(ticks: Iterable[Tick]) -> list[Tick]:
    """Ticks with rising kimg. Ticks of an attempt that resumed from an earlier snapshot replace those they repeat."""
    kept: list[Tick] = []
    for tick in ticks:
        while kept and kept[-1].kimg >= tick.kimg:
            kept.pop()
        kept.append(tick)
    return kept


def first_line(path: Path) -> dict[str, Any]:
    """The JSON object in the first line of a .jsonl file; empty if there is none."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            value = json.loads(file.readline())
    except (FileNotFoundError, ValueError):
        return {}
    return storable(value) if isinstance(value, dict) else {}


def last_line(path: Path, tail_bytes: int = 1 << 16) -> dict[str, Any]:
    """The last complete JSON object of a .jsonl file, without reading all of it; empty if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - tail_bytes))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    for line in reversed(lines):
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            return storable(value)
    return {}


def load_run(folder: Path, data: Path = Path()) -> Run:
    """The Run in the file RUN of `folder`. Raises UserError, naming the file, if it is missing or invalid."""
    return read_json(Run, folder / RUN).model_copy(update={"folder": folder, "data": data})
