"""The people of `people` in one pose: appearance varies as it does there, but geometry does not.

All images have the same body, pose, yaw, scale and position. Each person has the clothes, colours, background and light
of that in `people` with the same seed, but skirts become trousers and all hair is short, so that every image has the
same outline.
"""

from __future__ import annotations

from pathlib import Path

import click

from experiments.datasets import people
from experiments.datasets.people import check_numbers, shoot, start
from experiments.datasets.recipe import Recipe
from experiments.datasets.zips import DatasetInfo


def make(_source: None, file: Path, work: Path, resolution: int, count: int, seed: int, processes: int) -> DatasetInfo:
    """Writes `count` images. Byte-identical for the same options and versions."""
    check_numbers("aligned", resolution, count=count)
    return shoot("aligned", file, work, start(resolution, seed, aligned=True), count, processes)


RECIPE = Recipe(
    name="aligned",
    title="The clothes and colours of people on one body in one pose, rendered, with its joints as labels.",
    make=make,
    obtain=people.OBTAIN.removesuffix("; or your own BVH files: --motion.") + ".",
    licence=people.LICENCE,
    credit=people.CREDIT,
    takes_source=False,
    options=(
        people.RESOLUTION,
        click.Option(["--count"], type=int, default=20000, show_default=True, help="How many images."),
        people.SEED,
        people.PROCESSES,
    ),
    packages=people.PACKAGES,
    more_sources=people.SOURCES,
    resumable=True,
    unrecorded=("processes",),
)
