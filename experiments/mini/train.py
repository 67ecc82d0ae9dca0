"""Trains the compact generator. You can stop and resume it at any time.

    python -m experiments.mini.train --outdir runs/low --data faces.zip --mtm low

Writes training_options.json (first), stats.jsonl (one line per tick), snapshot.pt (the latest whole state, replaced
atomically) and, at the end, final.pt (the averaged generator). Run the same command again to resume: the result is
bit-identical to that of an uninterrupted run on the same machine.
"""

from __future__ import annotations

import io
import json
import pickle
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from types import FrameType
from typing import Any

import click
import torch
from tqdm import tqdm

from experiments.files import UserError, atomic_output, disk_errors
from experiments.mini import KEPT, VERSION
from experiments.mini.controls import SEES
from experiments.mini.data import ImageSet, load_images
from experiments.mini.trainer import NonFiniteLossError, Options, Trainer

DEFAULTS = {f.name: f.default for f in fields(Options)}
RESULTS = ("stats.jsonl", "snapshot.pt", "final.pt")


class StopRequest:
    """Records the first SIGINT or SIGTERM, so that the iteration can finish; a second one acts at once."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        for signum in (signal.SIGINT, signal.SIGTERM):
            self._before[signum] = signal.signal(signum, self._handle)
        return self

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        self.signum = signum
        self.__exit__()

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)


def peak_memory_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def save_bytes(path: Path, data: bytes) -> None:
    """Writes `path` completely or not at all. If that fails, raises UserError, naming it, and keeps the old file."""
    try:
        with atomic_output(path) as partial:
            partial.write_bytes(data)
    except OSError as error:
        raise UserError(f"train: {path} must be writable; got: {error.strerror}. No partial file is left.") from error


def save_tensors(path: Path, content: Any) -> None:
    """torch.save, completely or not at all. Serialises in memory first, because on a full disk torch's own writer
    raises an internal RuntimeError without the file's name."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    save_bytes(path, buffer.getvalue())


def save_generator(path: Path, trainer: Trainer) -> None:
    """Saves the averaged generator, completely or not at all."""
    save_tensors(path, {"options": asdict(trainer.options), "generator": trainer.G_ema.state_dict()})


def open_run(outdir: Path, options: Options, facts: dict[str, Any]) -> dict[str, Any] | None:
    """Claims `outdir` for these options, and records `facts` too. Returns the snapshot to continue from, if there is
    one.

    Writes nothing unless the folder is new or its run has the same options.
    """
    stored = outdir / "training_options.json"
    if not stored.exists():
        if found := [name for name in RESULTS if (outdir / name).exists()]:
            raise UserError(
                f"train: --outdir must be new or hold a complete run; {outdir} has {', '.join(found)} but no "
                f"{stored.name}. Choose another folder."
            )
        outdir.mkdir(parents=True, exist_ok=True)
        content = asdict(options) | {"mini_version": VERSION, "torch": torch.__version__} | facts
        if options.mtm != "none":
            from mtm_ops.doctor import impl_used

            content["mtm_impl"] = impl_used("cpu")
        save_bytes(stored, (json.dumps(content, indent=2) + "\n").encode())
        return None
    try:
        content = json.loads(stored.read_text())
    except ValueError as error:
        raise UserError(f"train: {stored} must be JSON; {error}. Choose another --outdir.") from error
    if differences := options.differences(content):
        raise UserError(
            f"train: --outdir must hold a run with the same options; {outdir} differs in {'; '.join(differences)} "
            "(stored -> asked). Give the stored options to resume it, or choose another --outdir."
        )
    if content.get("mini_version") != VERSION:
        raise UserError(f"train: {outdir} is of another version of this trainer. Choose another --outdir.")
    snapshot = outdir / "snapshot.pt"
    return load_state(snapshot) if snapshot.exists() else None


def load_state(path: Path) -> dict[str, Any]:
    """A snapshot's content. Raises UserError, naming the file, if it is truncated or not a snapshot."""
    try:
        content = torch.load(io.BytesIO(path.read_bytes()), weights_only=True)
    except (RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"train: {path} is truncated or not a snapshot ({path.stat().st_size} bytes; {reason}). Restore a "
            "complete one, or remove it to train from the beginning."
        ) from error
    return content


class Journal:
    """stats.jsonl, and progress on the terminal or in the log."""

    def __init__(self, outdir: Path, options: Options) -> None:
        self.path, self.total_kimg = outdir / "stats.jsonl", options.kimg
        self.bar: tqdm | None = None
        if sys.stdout.isatty():
            form = "{desc} {percentage:3.0f}% |{bar}| {n:.1f}/{total:g} kimg [{elapsed}, {remaining} left]"
            self.bar = tqdm(total=options.kimg, desc=f"mtm {options.mtm}", bar_format=form)

    def rewind(self, kimg: float) -> None:
        """Drops the ticks after `kimg`, which a run wrote that was killed before its next snapshot."""
        lines = self.path.read_text().splitlines(keepends=True) if self.path.exists() else []
        kept = []
        for line in lines:
            try:
                if json.loads(line)["kimg"] <= kimg:
                    kept.append(line)
            except (ValueError, KeyError):
                continue  # the killed run's last, incomplete line
        save_bytes(self.path, "".join(kept).encode())

    def write(self, tick: dict[str, float]) -> None:
        with disk_errors(self.path), open(self.path, "a") as file:
            file.write(json.dumps(tick) + "\n")

    def tell(self, kimg: float) -> None:
        """Shows the progress: a bar on a terminal, a line in a log."""
        if self.bar is None:
            print(f"{kimg:.3f} of {self.total_kimg:g} kimg", flush=True)
            return
        if self.bar.n == 0:  # else the work of an earlier call would count in the speed
            self.bar.initial = self.bar.n = self.bar.last_print_n = kimg
        self.bar.update(kimg - self.bar.n)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def _loop(trainer: Trainer, journal: Journal, outdir: Path, stop: StopRequest) -> None:
    """Trains to the end or to a stop request. Writes a tick and a snapshot at their intervals of images."""
    o = trainer.options
    started, before_s = time.perf_counter(), trainer.elapsed_s
    started_cpu_s = time.process_time() - trainer.cpu_s
    tick_s, tick_nimg = before_s, trainer.nimg
    while trainer.nimg < o.kimg * 1000 and stop.signum is None:
        last_nimg = trainer.nimg
        trainer.iterate()
        trainer.elapsed_s = now_s = before_s + time.perf_counter() - started
        trainer.cpu_s = time.process_time() - started_cpu_s  # excludes other work on the machine
        kimg = trainer.nimg / 1000
        done = trainer.nimg >= o.kimg * 1000
        if done or _passes(last_nimg, trainer.nimg, o.tick_kimg):
            rate = {"s_per_kimg": (now_s - tick_s) / (kimg - tick_nimg / 1000), "peak_memory_mb": peak_memory_mb()}
            journal.write({"kimg": kimg, "elapsed_s": now_s, "cpu_s": trainer.cpu_s} | rate | trainer.take_means())
            journal.tell(kimg)
            tick_s, tick_nimg = now_s, trainer.nimg
        for nimg in o.kept_nimg():  # before the snapshot: a killed run continues from that and would not write it again
            if last_nimg < nimg <= trainer.nimg:
                save_generator(outdir / KEPT.format(kimg=nimg / 1000), trainer)
        if done or _passes(last_nimg, trainer.nimg, o.snap_kimg):
            save_tensors(outdir / "snapshot.pt", trainer.state())


def _passes(before_nimg: int, after_nimg: int, every_kimg: float) -> bool:
    return before_nimg // (every_kimg * 1000) != after_nimg // (every_kimg * 1000)


def train(outdir: Path, data: Path, **settings: Any) -> None:
    """Trains or resumes a run in `outdir` (see the module's docstring). `settings` are fields of Options.

    Raises:
        click.ClickException: for anything the user can fix; the message says how.
        SystemExit: 130 after SIGINT, 143 after SIGTERM, after everything is saved.
    """
    try:
        with StopRequest() as stop:
            images = load_images(data)
            options = Options(data_sha256=images.sha256, resolution=images.resolution, **settings)
            _train(outdir, options, images, stop)
    except (UserError, NonFiniteLossError, OSError) as error:
        raise click.ClickException(str(error)) from error


def _train(outdir: Path, options: Options, images: ImageSet, stop: StopRequest) -> None:
    torch.set_num_threads(options.threads)
    try:
        options.kept_nimg()
        trainer = Trainer(options, images)
    except ValueError as error:  # such as layers that do not exist
        raise UserError(str(error)) from error
    parameters = sum(parameter.numel() for parameter in trainer.G.parameters())
    state = open_run(outdir, options, {"generator_parameters": parameters})
    if state is not None:
        trainer.restore(state)
    journal = Journal(outdir, options)
    journal.rewind(trainer.nimg / 1000)
    journal.tell(trainer.nimg / 1000)
    _loop(trainer, journal, outdir, stop)
    if trainer.nimg >= options.kimg * 1000:
        save_generator(outdir / "final.pt", trainer)
        journal.close()
        return
    save_tensors(outdir / "snapshot.pt", trainer.state())
    journal.close()
    assert stop.signum is not None  # the only other way for the loop to end
    click.echo(
        f"\ntrain: stopped by {signal.Signals(stop.signum).name} at {trainer.nimg / 1000:.1f} of {options.kimg:g} "
        f"kimg, all saved in {outdir / 'snapshot.pt'}. Run the same command again to resume.",
        err=True,
    )
    raise SystemExit(128 + stop.signum)


def _option(name: str, kind: Any, text: str) -> Callable[[Any], Any]:
    return click.option(f"--{name.replace('_', '-')}", type=kind, default=DEFAULTS[name], show_default=True, help=text)


POSITIVE = click.FloatRange(min=0, min_open=True)
COUNT = click.IntRange(min=1)


@click.command()
@click.option("--outdir", type=click.Path(file_okay=False, path_type=Path), required=True, help="The run's folder.")
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Zip of square images.")
@_option("mtm", str, "Deformable layers: none, groups (low,mid,high) or resolutions (8,16).")
@_option("mtm_head", click.Choice(["offset", "offset+mask"]), "What the module predicts.")
@_option("mtm_sees", click.Choice(SEES), "What its offsets are computed from: input and latent, or one of them.")
@_option("mtm_start_kimg", click.FloatRange(min=0), "Train plain until this kimg, and with MTM after it.")
@_option("mtm_lr", POSITIVE, "Learning rate of the MTM's parameters, relative to the others'.")
@_option("mtm_bound_px", click.FloatRange(min=0), "Longest offset along each axis, px of its layer; 0 for no bound.")
@_option("kimg", POSITIVE, "Length of the run, thousands of real images.")
@_option("batch", COUNT, "Images per iteration.")
@_option("channels", COUNT, "Feature channels at the full resolution.")
@_option("g_channels", click.IntRange(min=0), "The same for the generator alone; 0 for the discriminator's width.")
@_option("latent", COUNT, "Length of z and of w.")
@_option("noise", bool, "Noise per pixel, of learned strength, in layers below the full resolution.")
@_option("lr", POSITIVE, "Learning rate of both networks.")
@_option("r1_gamma", click.FloatRange(min=0), "Weight of R1; 0 turns it off.")
@_option("r1_interval", COUNT, "Iterations between R1 steps.")
@_option("pl_weight", click.FloatRange(min=0), "Weight of path-length regularisation; 0 turns it off.")
@_option("pl_interval", COUNT, "Iterations between path-length steps.")
@_option("mixing", click.FloatRange(0, 1), "Probability of style mixing.")
@_option("ema_kimg", POSITIVE, "Half-life of the averaged generator, kimg.")
@_option("seed", click.IntRange(min=0), "Seed of everything random.")
@_option("threads", COUNT, "CPU threads.")
@_option("tick_kimg", POSITIVE, "Kimg between lines of stats.jsonl.")
@_option("snap_kimg", POSITIVE, "Kimg between snapshots.")
@_option("keep_kimg", str, "Also keep the averaged generator at these kimg: 10,20.")
def main(outdir: Path, data: Path, **settings: Any) -> None:
    """Train the compact StyleGAN2-style generator, with or without the MTM. Run the same command again to resume."""
    train(outdir, data, **settings)


if __name__ == "__main__":
    main()
