"""A patched official codebase under vendor/, driven as a user would type it: train.py, then calc_metrics.py.

Their train.py makes a new folder NNNNN-... at every start. This adapter reads all these folders as one run and resumes
from the newest complete snapshot in them. Beside a snapshot, patched trainers write a sidecar with the rest of their
state (mtm_hosts), with which a resumed run continues exactly, from the same kimg. Without it they resume as upstream
does, with fresh optimisers and from 0 kimg; this adapter then asks for the remaining kimg only, and adds the kimg up.
The hosts' kimg are whole numbers; a row may have a fraction, for smoke tests.

A host is one subclass that defines the spelling of its options; see stylegan3.py, and hydra.py for the video hosts.
"""

import hashlib
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.checked import Value, check, read_object
from experiments.files import UserError
from experiments.metrics import METRICS
from experiments.trainers.contract import (
    ROOT,
    Measured,
    Progress,
    Run,
    Step,
    Tick,
    Trainer,
    first_line,
    in_order,
    last_line,
    read_lines,
)
from experiments.trainers.nodes import nodes, on_nodes
from experiments.trainers.starts import has_state, is_whole_file, kimg_of, start_of, starts, state_is_of

CURVES = {
    "Loss/G/loss": "G_loss",
    "Loss/D/loss": "D_loss",
    "Loss/r1_penalty": "r1",
    "Loss/pl_penalty": "path_penalty",
    "Progress/augment": "augment",
}


LEAST_KIMG = 0.001  # resolution of fractional kimg


@dataclass(frozen=True)
class Snapshot:
    """A complete network snapshot. `kimg` counts from the beginning of the run; the count of its own start is smaller
    by `offset_kimg`."""

    path: Path
    kimg: float
    offset_kimg: float
    exact: bool  # it has a sidecar, so training continues from it bit for bit


@dataclass(frozen=True)
class Part:
    """One start of train.py: its folder, the offset to add to its own count of kimg, and the kimg at which it began."""

    folder: Path
    offset_kimg: float
    begun_kimg: float = 0.0


class Official(Trainer):
    """Base class of the official trainers. Subclasses give name, host, folders and their own spelling of options."""

    host: str
    script = "train.py"  # what starts a training
    stats = "stats.jsonl"

    @property
    def cwd(self) -> str:
        """The working folder of the commands, relative to the repository."""
        return f"vendor/{self.host}"

    def spell(self, key: str, value: Value) -> str:
        """An option for the hosts' click: a Boolean is given as 0 or 1."""
        return f"--{key}={int(value) if isinstance(value, bool) else value}"

    def train_argv(self, run: Run, options: dict[str, Value]) -> list[str]:
        """The training command. `options` include seed, kimg and, when resuming, resume."""
        words = {"outdir": str(run.train.resolve()), "data": str(run.data.resolve()), **options}
        return ["python", self.script, *[self.spell(key, value) for key, value in words.items()]]

    def metrics_argv(self, run: Run, snapshot: str, missing: list[str]) -> list[str]:
        """The command that computes the host's own metrics."""
        words: dict[str, Value] = {"network": snapshot, "metrics": ",".join(missing), "data": str(run.data.resolve())}
        words |= {"gpus": self.gpus(run)}
        return ["python", "calc_metrics.py", *[self.spell(key, value) for key, value in words.items()]]

    def output(self, start: Path) -> Path:
        """The folder in which a start, whose folder is NNNNN-..., puts its snapshots and statistics."""
        return start

    def stage(self, path: Path) -> str:
        """The training stage of the start that contains `path`. Each stage counts its kimg from 0."""
        return ""

    # The following methods are the same for all hosts, except that Hydra and StyleSV override some.

    def check(self, run: Run) -> None:
        if not (ROOT / self.cwd / self.script).is_file():
            raise UserError(
                f"run: {self.cwd} must be fetched; got no {self.script} in it. Run: make patch HOST={self.host}"
            )
        applied = run.identity.get("host", {}).get("patches", {})
        if (ROOT / "patches" / self.host / "mtm.patch").is_file() and "mtm" not in applied:
            raise UserError(
                f"run: {self.cwd} must be patched with mtm; got {', '.join(applied) or 'no patch'} applied whole. Run: "
                f"make patch HOST={self.host}"
            )
        if "kimg" not in run.options:
            raise UserError(f"run: row {run.row} must say how long it trains; got no option kimg. Add it.")

    def gpus(self, run: Run) -> int:
        return int(run.options.get("gpus", 1)) // nodes()

    def train_step(self, run: Run) -> Step:
        options: dict[str, Value] = {"gpus": 1, "metrics": "none", **run.options, "seed": run.seed}
        options.pop("threads", None)
        environment = self.train_environment(run, options)
        last, kimg = self.to_resume(run), float(options["kimg"])
        if last is not None:
            options["resume"] = str(last.path.resolve())
            kimg = left_kimg(kimg, last.offset_kimg if last.exact else last.kimg)  # in the new start's own count
            if not last.exact:
                environment["MTM_RESUME"] = "weights"
        set_length(kimg, options, environment)
        return self.launched(self.train_argv(run, options), environment, int(options["gpus"]))

    def launched(self, argv: list[str], environment: dict[str, str], gpus: int) -> Step:
        """The training's step. On several machines it runs under torchrun on this machine's share of the GPUs."""
        return Step(name="train", argv=on_nodes(argv, gpus), cwd=self.cwd, env=environment)

    def train_environment(self, run: Run, options: dict[str, Value]) -> dict[str, str]:
        """Environment variables for mtm_hosts. Metrics that are computed during training must not change its random
        numbers, so they are isolated."""
        isolated = {} if options["metrics"] in ("none", "[]", "") else {"MTM_ISOLATE_METRICS": "1"}
        return {**run.environment, **isolated}

    def metric_steps(self, run: Run, snapshot: str, missing: list[str]) -> Iterator[Step]:
        theirs = [name for name in missing if METRICS[name].by_host]
        if theirs:
            yield Step(name="metrics", argv=self.metrics_argv(run, snapshot, theirs), cwd=self.cwd, env=run.environment)
        yield from super().metric_steps(run, snapshot, [name for name in missing if name not in theirs])

    def parts(self, run: Run) -> list[Part]:
        """The starts of train.py in order, each with the offset of its own count of kimg. Skips a start that ended
        before it opened its statistics: it has trained nothing, and its options file may be incomplete."""
        parts: list[Part] = []
        for folder in map(self.output, starts(run)):
            if not (folder / self.stats).exists() and not any(folder.glob("network-snapshot-*.pkl")):
                continue
            resumed = self.resumed_from(folder)
            before = next((p for p in parts if resumed and start_of(p.folder) == start_of(resumed)), None)
            if before is None or resumed is None:
                parts.append(Part(folder, 0.0))
                continue
            begun_kimg = self.reached_kimg(before, resumed)
            first_kimg = _mean(first_line(folder / self.stats), "Progress/kimg")
            # If it counted from 0, its first tick, after one batch, would be at less than one kimg.
            named_kimg = kimg_of(resumed)
            counts_on = has_state(resumed) if first_kimg is None or not named_kimg else first_kimg > named_kimg
            counts_on = counts_on and self.stage(folder) == self.stage(resumed)
            begun_kimg += before.offset_kimg
            parts.append(Part(folder, before.offset_kimg if counts_on else begun_kimg, begun_kimg))
        return parts

    def reached_kimg(self, part: Part, snapshot: Path) -> float:
        """The start's own count of kimg at one of its snapshots: the whole kimg in the file's name or, for the last
        snapshot, the kimg with fraction of the last tick."""
        last_kimg = _mean(last_line(part.folder / self.stats), "Progress/kimg") or 0.0
        return last_kimg if math.floor(last_kimg) == kimg_of(snapshot) else float(kimg_of(snapshot))

    def resumed_from(self, folder: Path) -> Path | None:
        """The snapshot that this start of train.py resumed from."""
        value = read_object(folder / "training_options.json").get("resume_pkl")
        return Path(value) if value else None

    def snapshots(self, run: Run) -> Iterator[Snapshot]:
        """The complete snapshots of all parts, newest first."""
        found = [
            (part.offset_kimg + self.reached_kimg(part, path), start_of(part.folder), path, part.offset_kimg)
            for part in self.parts(run)
            for path in part.folder.glob("network-snapshot-*.pkl")
        ]
        for kimg, _, path, offset_kimg in sorted(found, reverse=True):
            if is_whole_file(path):
                yield Snapshot(path, kimg, offset_kimg, has_state(path))

    def to_resume(self, run: Run) -> Snapshot | None:
        """The newest snapshot that can be continued exactly; if there is none, the newest with at least 1 kimg; else
        None."""
        newest = None
        for snapshot in self.snapshots(run):
            if snapshot.exact and state_is_of(snapshot.path):
                return snapshot
            newest = newest or (replace(snapshot, exact=False) if snapshot.kimg >= 1 else None)
        return newest

    def saved_kimg(self, run: Run) -> float:
        """The kimg of the snapshot to resume from, because train.py does not save one when it is told to stop."""
        last = self.to_resume(run)
        return last.kimg if last is not None else 0.0

    def snapshot(self, run: Run) -> Path | None:
        newest = next(self.snapshots(run), None)
        return newest.path.resolve() if newest else None

    def progress(self, run: Run) -> Progress:
        total_kimg = float(run.options.get("kimg", 0))
        parts = self.parts(run)
        own_kimg = _mean(last_line(parts[-1].folder / self.stats), "Progress/kimg") if parts else None
        kimg = parts[-1].begun_kimg if parts else 0.0
        kimg = parts[-1].offset_kimg + own_kimg if own_kimg is not None else kimg
        # A snapshot's name has whole kimg only. The fraction is in its tick, which is reported after it is written.
        whole = total_kimg == math.floor(total_kimg)
        finished = any(
            is_whole_file(path)
            for part in parts
            for path in part.folder.glob("network-snapshot-*.pkl")
            if part.offset_kimg + (kimg_of(path) if whole else self.reached_kimg(part, path) + LEAST_KIMG / 2)
            >= total_kimg
        )
        values = {"kimg": kimg, "total_kimg": total_kimg, "finished": finished}
        return check(Progress, values, f"{run.label}: {self.stats}")

    def ticks(self, run: Run, problems: list[str]) -> list[Tick]:
        ticks: list[Tick] = []
        before_s = 0.0
        for part in self.parts(run):
            own = [_tick(line, part, before_s) for line in read_lines(part.folder / self.stats, problems)]
            ticks = in_order([*ticks, *[tick for tick in own if tick is not None]])
            before_s = ticks[-1].elapsed_s or 0.0 if ticks else 0.0
        return ticks

    def planned_snapshot(self, run: Run) -> str:
        folder = self.output(run.train.resolve() / "00000-*")
        return str(folder / f"network-snapshot-{int(run.options['kimg']):06d}.pkl")

    def measure(self, run: Run, name: str) -> Measured | None:
        """Our metrics as for every trainer; the host's from the metric-*.jsonl beside the newest snapshot."""
        if not METRICS[name].by_host:
            return super().measure(run, name)
        snapshot, found = self.snapshot(run), None
        for line in read_lines(snapshot.parent / f"metric-{name}.jsonl", []) if snapshot else []:
            if snapshot and line.get("snapshot_pkl") == snapshot.name:
                fingerprint = {"metric": name, "code": self.host, "num_gpus": line.get("num_gpus")}
                own = line.get("fingerprint")  # written by mtm_hosts/more_metrics.py
                fingerprint |= {"data_sha256": run.identity.get("data"), **(own or {"detectors": _detectors()})}
                value = line.get("results", {}).get(name, "absent")
                found = check(Measured, {"value": value, "fingerprint": fingerprint}, f"metric-{name}.jsonl")
        return found

    def facts(self, run: Run) -> dict[str, Any]:
        parts = self.parts(run)
        if not parts:
            return {}
        found = read_object(parts[0].folder / "training_options.json")
        log = parts[0].folder / "log.txt"
        total = re.search(r"^Total +(\d+)", log.read_text(errors="replace"), re.MULTILINE) if log.exists() else None
        return found | ({"generator_parameters": int(total.group(1))} if total else {})


def left_kimg(total_kimg: float, done_kimg: float) -> float:
    """The kimg left to train; a whole number if the total is one."""
    return max(1, total_kimg - int(done_kimg)) if total_kimg % 1 == 0 else max(LEAST_KIMG, total_kimg - done_kimg)


def set_length(kimg: float, options: dict[str, Value], environment: dict[str, str]) -> None:
    """Sets the length of the training. The hosts' option is a whole number; mtm_hosts reads a fraction from the
    environment."""
    options["kimg"] = math.ceil(kimg)
    if kimg != options["kimg"]:
        environment["MTM_KIMG"] = f"{kimg:g}"


def _detectors() -> str:
    """The feature extractors of the host's metrics: the official ones, or the hash of the files in MTM_DETECTORS."""
    folder = os.environ.get("MTM_DETECTORS")
    if not folder:
        return "official"
    files = sorted(path for path in Path(folder).glob("*") if path.is_file())
    return hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()


def _mean(line: dict[str, Any], key: str) -> float | None:
    """A statistic's mean since the previous tick; None if it was not reported or is not finite."""
    statistic = line.get(key)
    mean = statistic.get("mean") if isinstance(statistic, dict) and statistic.get("num") else None
    return float(mean) if isinstance(mean, float | int) else None


def _tick(line: dict[str, Any], part: Part, before_s: float) -> Tick | None:
    kimg, seconds = _mean(line, "Progress/kimg"), _mean(line, "Timing/total_sec")
    if kimg is None:
        return None
    curves = {name: value for key, name in CURVES.items() if (value := _mean(line, key)) is not None}
    return Tick(
        kimg=kimg + part.offset_kimg,
        elapsed_s=before_s + (seconds or 0.0),
        s_per_kimg=_mean(line, "Timing/sec_per_kimg"),
        curves=curves,
    )
