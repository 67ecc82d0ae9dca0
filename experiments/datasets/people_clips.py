"""Clips of clothed people in real human motion for the video hosts, with the joints of every frame."""

from __future__ import annotations

from pathlib import Path

import click

from experiments.datasets import people
from experiments.datasets.people import check_numbers, shoot, start
from experiments.datasets.recipe import Recipe
from experiments.datasets.zips import CLIPS, DatasetInfo


def make(
    _source: None,
    file: Path,
    work: Path,
    resolution: int,
    count: int,
    frames: int,
    fps: float,
    seed: int,
    motion: Path | None,
    processes: int,
) -> DatasetInfo:
    """Writes `count` clips of `frames` frames, each of one person in front of a fixed camera."""
    check_numbers("people-clips", resolution, count=count, frames=frames, fps=fps)
    plan = start(resolution, seed, motion, frames=frames, fps=fps)
    return shoot("people-clips", file, work, plan, count, processes, clips=True)


RECIPE = Recipe(
    name="people-clips",
    title="Clips of clothed people in real human motion, rendered, with their joints as labels.",
    make=make,
    obtain=people.OBTAIN,
    licence=people.LICENCE,
    credit=people.CREDIT,
    takes_source=False,
    source_option="motion",
    check=people.check_own,
    options=(
        click.Option(["--resolution"], type=int, default=64, show_default=True, help="Side of a frame, px."),
        click.Option(["--count"], type=int, default=1000, show_default=True, help="How many clips."),
        click.Option(["--frames"], type=int, default=16, show_default=True, help="Frames per clip."),
        click.Option(["--fps"], type=float, default=15.0, show_default=True, help="Frames per second of motion."),
        people.SEED,
        people.MOTION,
        people.PROCESSES,
    ),
    packages=people.PACKAGES,
    folder=CLIPS,
    more_sources=people.SOURCES,
    resumable=True,
    unrecorded=people.RECIPE.unrecorded,
)
