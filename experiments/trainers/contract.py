"""The contract between the runner and a trainer. The runner knows nothing else about a trainer.

A *run* is a row of a table with one seed. It has its own folder (`Run.folder`), in which the names below are
fixed, and a trainer: a small class that says which commands to type and reads the files that they write. Nothing is
read from a child's output, which goes straight to a file.

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

# What a run's folder holds. The trainer has TRAIN to itself; the rest has one form for every trainer.
TRAIN = "train"
METRICS = "metrics"  # <name>.json: a Measured
IMAGES = "images"  # <name>.png: IMAGE_NAMES, films, strip, strip-off, strip-field, and strength-<factor>.png
LOG = "log.txt"  # all that the run's commands printed
RUN = "run.json"  # the Run, as it was asked for
STATE = "state.json"  # how far it is, written by experiments.row
SLURM_JOB = "slurm-job"  # the number of its job, where it was submitted to a cluster
NCLIPS = 2048  # for a metric of videos, at most
STAND_INS = "stand-ins"  # beside the data: where a run that says so takes the weights of its metrics from
FEW_NIMG = 96  # with fewer images for a metric, as in a smoke test, figures have as few
FEW_REAL_NIMG, FEW_NCLIPS = 32, 2  # real images, and clips, of a metric with stand-in weights
IMAGE_NAMES = ("samples", "reals", "fig4", "offsets")

# Exit codes of a command that was told to stop and did; any other code but 0 is a failure.
INTERRUPTED = (130, 143, -signal.SIGINT, -signal.SIGTERM)


class Step(Checked):
    """One command, as a user would type it. In `argv` the word "python" stands for this interpreter.

    `name` is train, metrics or images; `cwd` is relative to the repository (its top where empty).
    """

    name: str
    argv: list[str]
    cwd: str = ""
    env: dict[str, str] = {}

    def text(self) -> str:
        """The line for a shell at the top of the repository; a * of a name that is not known yet stays one."""
        words = [f"{key}={shlex.quote(value)}" for key, value in self.env.items()]
        words += [shlex.quote(word.replace("*", "@@")).replace("@@", "*") for word in self.argv]
        return f"(cd {shlex.quote(self.cwd)} && {' '.join(words)})" if self.cwd else " ".join(words)


class Progress(Checked):
    """How far the training is; what a progress bar needs, from the end of the trainer's files, in milliseconds."""

    kimg: float
    total_kimg: float
    finished: bool  # the last snapshot is there


class Tick(Checked):
    """What a trainer reported at one moment. `curves` holds means since the tick before, under the names that
    experiments.charts knows where they mean the same: G_loss, D_loss, path_length, path_penalty, r1."""

    kimg: float
    elapsed_s: Number = None  # of training, over all attempts
    s_per_kimg: Number = None
    curves: dict[str, float] = {}


class Measured(Checked):
    """A metric of a finished run; `value` is None if it came out as NaN or infinite. Values compare only where the
    fingerprints are equal, and so a fingerprint holds what decides a value, and nothing of the run itself."""

    value: Number
    fingerprint: dict[str, Any]


class Run(Checked):
    """A row of a table with one seed, every option resolved. Written to the run's folder as RUN.

    `options` become the trainer's, spelt by its adapter; mtm and mtm-head are among them where the trainer takes
    them. `folder` and `data` (the zip) are of this machine and so not written.
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
    samples_nimg: int  # to generate for each metric that leaves the number open
    real_nimg: int = 0  # real images of such a metric, drawn from a fixed seed; all of them where 0
    identity: dict[str, Any] = {}  # what makes it another run where it changes; see experiments.folder
    made_by: str = ""  # the command that made the data
    stand_ins: bool = False  # its metrics take stand-in weights, from the folder STAND_INS beside the data

    folder: Path = Path()
    data: Path = Path()

    @property
    def train(self) -> Path:
        """The folder that the trainer has to itself."""
        return self.folder / TRAIN

    @property
    def label(self) -> str:
        """Row and seed, for a person."""
        return f"{self.row}/{self.seed}"

    @property
    def nclips(self) -> int:
        """How many clips to generate for a metric of videos."""
        return FEW_NCLIPS if self.stand_ins else min(self.samples_nimg, NCLIPS)

    @property
    def environment(self) -> dict[str, str]:
        """Of every step: the run's share of the CPU, where its option `threads` gives one, and its stand-in weights."""
        threads = {"OMP_NUM_THREADS": str(self.options["threads"])} if "threads" in self.options else {}
        weights = {"MTM_WEIGHTS": str(_from_root(self.data.parent / STAND_INS))} if self.stand_ins else {}
        return threads | weights

    def written(self) -> dict[str, Any]:
        """What RUN holds."""
        return self.model_dump(exclude={"folder", "data"})


class Trainer(ABC):
    """What all trainers share: metrics and images come from the same tools."""

    name: str
    host: str | None = None  # the codebase under vendor/ that it runs, whose state is part of a run's provenance
    version: int = 1  # of the adapter: raise it when an old run could not be continued to the same result

    def check(self, run: Run) -> None:  # noqa: B027 - nothing to check is a valid answer
        """Raises UserError, before anything is written, if a run cannot be trained here."""

    @abstractmethod
    def train_step(self, run: Run) -> Step:
        """The command that trains the run, or continues it from the newest whole snapshot."""

    @abstractmethod
    def progress(self, run: Run) -> Progress:
        """The progress of the training. Raises UserError for an invalid file, naming it."""

    def saved_kimg(self, run: Run) -> float:
        """From where the training would resume now. Here for trainers that save a snapshot when they are told to stop;
        others override it. Raises as `progress` does."""
        return self.progress(run).kimg

    @abstractmethod
    def ticks(self, run: Run, problems: list[str]) -> list[Tick]:
        """All ticks in order of kimg, each once however often the run was interrupted. What is wrong with the files
        is left out and added to `problems`."""

    @abstractmethod
    def snapshot(self, run: Run) -> Path | None:
        """The newest complete snapshot that can be opened (experiments.snapshots); truncated ones are skipped."""

    def gpus(self, run: Run) -> int:
        """How many GPUs the run asks for, where the machine has any."""
        return 0

    def facts(self, run: Run) -> dict[str, Any]:
        """What the trainer noted of its options, for the ledger; empty if it noted nothing."""
        return {}

    def measure(self, run: Run, name: str) -> Measured | None:
        """A metric that has been computed, or None. Raises UserError for an invalid file, naming it."""
        path = run.folder / METRICS / f"{name}.json"
        return read_json(Measured, path) if path.exists() else None

    def measured(self, run: Run) -> dict[str, Measured]:
        """The metrics that the run asks for and that are there. Raises UserError as `measure` does."""
        found = {name: self.measure(run, name) for name in run.metrics}
        return {name: measured for name, measured in found.items() if measured is not None}

    def missing(self, run: Run) -> list[str]:
        """The metrics that are still to be computed: absent, unreadable, or of another number of images."""

        def is_there(name: str) -> bool:
            try:
                measured = self.measure(run, name)
            except UserError:
                return False
            if measured is None or REGISTERED[name].by_host:  # which fixes the numbers itself
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
        """Where the last snapshot will be, as far as that is known before the training: a dry run shows it."""

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
    """The step of that name that computes these metrics of a snapshot into `outdir`."""
    words = [",".join(metrics), str(run.data), snapshot, f"--outdir={outdir}", "--seed=0"]
    words += [f"--nimg={run.samples_nimg}", f"--nclips={run.nclips}"]
    real_nimg = FEW_REAL_NIMG if run.stand_ins else run.real_nimg
    words += [f"--real-nimg={real_nimg}"] if real_nimg else []
    return Step(name=name, argv=["python", "-m", "experiments.metrics", *words], env=run.environment)


def _from_root(path: Path) -> Path:
    """The path from the repository's top where it lies in there."""
    absolute = path.absolute()
    return absolute.relative_to(ROOT) if absolute.is_relative_to(ROOT) else absolute


def mean_s_per_kimg(ticks: list[Tick]) -> float | None:
    """Training time per thousand images, seconds, over the whole run; None if nothing told it."""
    last = ticks[-1] if ticks else None
    return last.elapsed_s / last.kimg if last and last.elapsed_s is not None and last.kimg else None


def read_lines(path: Path, problems: list[str]) -> list[dict[str, Any]]:
    """The JSON objects of a .jsonl file, in order, with None for NaN; a damaged line is added to `problems`."""
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
    """Ticks with rising kimg: those of an attempt that went on from an earlier snapshot replace what they repeat."""
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
    """The last whole JSON object of a .jsonl file without reading all of it; empty if there is none."""
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
    """The Run that RUN in `folder` holds. Raises UserError naming the file where it is none."""
    return read_json(Run, folder / RUN).model_copy(update={"folder": folder, "data": data})
