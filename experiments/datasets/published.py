"""Shared by the recipes of published data sets: options, counts, broken files, and the steps from shards to a zip."""

import functools
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import click
from tqdm import tqdm

from experiments.datasets import decode, images, items, listing, parts, zips
from experiments.datasets.decode import Decoder
from experiments.datasets.items import Item
from experiments.datasets.listing import VIDEO_SUFFIXES, check_source
from experiments.datasets.parts import Part, Shard, make_parts, work_folder
from experiments.datasets.paths import printable, suffix_of
from experiments.datasets.recipe import Recipe, version
from experiments.datasets.zips import DatasetInfo, Encoded, verify, write_encoded, write_encoded_clips
from experiments.files import UserError, free_bytes

PACKAGES = ("pillow", "av")
SOURCES = tuple(str(module.__file__) for module in (decode, items, listing, parts, images, zips))
SHARD_BYTES = 1 << 25
_LISTED = 100
_LISTED_SHORT = 10


@dataclass(frozen=True)
class Job:
    """One run of a recipe, with its options."""

    name: str
    resolution_px: int
    crop: str
    expected: dict[str, int]
    obtain: str
    work: Path
    skip_broken: bool
    partial: bool
    processes: int

    def check_count(self, what: str, found: int, source: Path) -> None:
        """Raises UserError if the number found is 0, more than expected or, unless `partial`, fewer than expected."""
        expected = self.expected[what]
        if found == expected or (self.partial and 0 < found < expected):
            return
        way_out = self.obtain
        if found > expected:
            way_out = f"Point SOURCE at the training set alone. {way_out}"
        elif found:
            way_out = f"See what is missing, or accept fewer: --partial. {way_out}"
        raise UserError(f"{self.name}: source must hold {expected} {what}; got {found} in {str(source)!r}. {way_out}")


def published_recipe(
    make: Callable[..., DatasetInfo],
    *,
    resolution_px: int,
    crop: str,
    crop_text: str,
    crop_is_a_choice: bool = False,
    options: tuple[click.Option, ...] = (),
    modules: tuple[ModuleType, ...] = (),
    **facts: Any,
) -> Recipe:
    """A recipe that runs `make(job, source, file, **options)`, with the options, checks and resuming that all recipes
    of published data sets have. `crop` is a key of decode.CROPS; `modules` are further modules whose code decides the
    result; `facts` are name, title, obtain, licence, expected, and folder for clips."""

    asked = ("skip_broken", "partial", "processes")

    @functools.wraps(make)
    def run(source: Path, file: Path, work: Path, crop: str = crop, **own: Any) -> DatasetInfo:
        given = {name: own.pop(name) for name in asked}
        job = Job(facts["name"], resolution_px, crop, facts["expected"], facts["obtain"], work, **given)
        return make(job, source, file, **own)

    return Recipe(
        make=run,
        crop=crop_text,
        options=(*_options(), *options, *[_crop_option(crop)] * crop_is_a_choice),
        unrecorded=("processes",),
        packages=PACKAGES,
        more_sources=(__file__, *SOURCES, *(str(module.__file__) for module in modules)),
        check=check_source,
        resumable=True,
        **facts,
    )


def _options() -> tuple[click.Option, ...]:
    return (
        click.Option(["--skip-broken"], is_flag=True, help="Continue without files that cannot be read."),
        click.Option(["--partial"], is_flag=True, help="Accept fewer than the expected number; the manifest says so."),
        click.Option(
            ["--processes"],
            type=click.IntRange(1),
            default=lambda: len(os.sched_getaffinity(0)),
            show_default="all cores",
            help="Number of decoding processes.",
        ),
    )


def _crop_option(default: str) -> click.Option:
    """The crop option, for data sets whose sources do not specify how a frame becomes a square."""
    return click.Option(
        ["--crop"],
        type=click.Choice(["center", "squash"]),
        default=default,
        show_default=True,
        help="The central square, or the whole frame squashed to a square.",
    )


def min_frames_option(default: int) -> click.Option:
    """The option for the minimum length of a clip."""
    return click.Option(
        ["--min-frames"], type=click.IntRange(1), default=default, show_default=True, help="Leave out shorter clips."
    )


def tell_ignored(others: Counter[str]) -> None:
    """Prints which files of the source are not part of the data set."""
    if others:
        kinds = ", ".join(f"{n} x {printable(suffix) or 'no suffix'}" for suffix, n in others.most_common(5))
        click.echo(f"Ignored {others.total()} files that are not part of the data set: {kinds}.", err=True)


def image_shards(chosen: Sequence[Item], resolution_px: int) -> list[Shard]:
    """Shards of a fixed number of images, so that a part has about 32 MB."""
    size = max(1, SHARD_BYTES // (3 * resolution_px**2))
    return [Shard(chosen[i].name, tuple(chosen[i : i + size])) for i in range(0, len(chosen), size)]


def make_images(
    job: Job, file: Path, shards: Sequence[Shard], label: Callable[[str], object] = lambda name: None
) -> DatasetInfo:
    """Writes every frame of the shards as an image, with its item's label, to `file`."""
    with work_folder(job.work):
        made, broken = _decode(job, shards)

        def labelled() -> Iterator[tuple[Encoded, object]]:
            for part in _shown(job, made):
                labels = [label(name) for name, nframes in part.items() for _ in range(nframes)]
                yield from zip(part.frames(), labels, strict=True)

        info = write_encoded(file, labelled(), job.resolution_px)
        return _finished(file, info, broken)


def make_clips(
    job: Job, file: Path, shards: Sequence[Shard], min_frames: int, clip_frames: int | None = None
) -> DatasetInfo:
    """Writes the frames of every shard as a clip, or cut into clips of `clip_frames`. Omits clips of fewer than
    `min_frames`, and shards with a broken frame, because a gap would be a jump in time."""
    with work_folder(job.work):
        made, broken = _decode(job, shards)
        sound = [part for part in made if not part.broken]
        lengths = [list(_cut(part.nframes, clip_frames)) for part in sound]
        short = sum(length < min_frames for cut in lengths for length in cut)

        def clips() -> Iterator[Iterator[Encoded]]:
            for part, cut in zip(_shown(job, sound), lengths, strict=True):
                frames = part.frames()
                for length in cut:
                    clip = (frame for _, frame in zip(range(length), frames, strict=False))
                    if length >= min_frames:
                        yield clip
                    for _ in clip:  # skips what the writer left, or all of a short clip
                        pass
                next(frames, None)  # so that the checksum is verified

        info = write_encoded_clips(file, clips(), job.resolution_px)
        notes = {"short_clips_left_out": short, "broken_clips_left_out": len(made) - len(sound)}
        return _finished(file, replace(info, notes=notes), broken)


def _shown(job: Job, made: Sequence[Part]) -> Iterable[Part]:
    return tqdm(made, desc=f"{job.name}, writing", unit=" parts", disable=None)


def _cut(nframes: int, clip_frames: int | None) -> Iterator[int]:
    step = clip_frames or max(nframes, 1)
    yield from (min(step, nframes - begin) for begin in range(0, nframes, step))


def _decode(job: Job, shards: Sequence[Shard]) -> tuple[list[Part], list[tuple[str, str]]]:
    _check_space(job, shards)
    decoder = Decoder(job.resolution_px, job.crop)
    made = make_parts(shards, decoder, _stamp(job), job.work, job.processes, f"{job.name}, decoding", " files")
    broken = [problem for part in made for problem in part.broken]
    if broken and not job.skip_broken:
        total = sum(len(shard.items) for shard in shards)
        raise UserError(
            f"{job.name}: every file must be readable; {len(broken)} of {total} are broken:\n{_listed(broken)}\n"
            "Obtain them again and run the same command (what is decoded is kept), or skip them: --skip-broken."
        )
    if broken:
        click.echo(f"Skipped {len(broken)} broken files:\n{_listed(broken)}", err=True)
    return made, broken


def _finished(file: Path, info: DatasetInfo, broken: list[tuple[str, str]]) -> DatasetInfo:
    if not info.nimg:
        raise UserError(f"Nothing is left to write: all files are broken or too short.\n{_listed(broken)}")
    verify(file, info)
    notes = info.notes | {"broken": [list(problem) for problem in broken[:_LISTED]]}
    return replace(info, skipped=len(broken), notes=notes)


def _listed(broken: list[tuple[str, str]]) -> str:
    lines = [f"  {printable(name)}: {printable(reason)}" for name, reason in broken[:_LISTED_SHORT]]
    if len(broken) > _LISTED_SHORT:
        lines.append(f"  ... and {len(broken) - _LISTED_SHORT} more")
    return "\n".join(lines)


def _check_space(job: Job, shards: Sequence[Shard]) -> None:
    """Raises UserError if the disk has too little space. Frames are stored without compression, in the parts and in the
    zip. Videos are not counted, because their numbers of frames are not known yet."""
    frames = sum(suffix_of(item.name) not in VIDEO_SUFFIXES for shard in shards for item in shard.items)
    there = sum(file.stat().st_size for file in job.work.glob("*.frames"))
    needed, free = 2 * frames * 3 * job.resolution_px**2 - there, free_bytes(job.work)
    if needed > free:
        raise UserError(
            f"{job.name}: {job.work.parent} must have {needed / 1e9:.0f} GB free, for {frames} frames twice: decoded "
            f"parts, and the zip; got {free / 1e9:.1f} GB. Free some space, or choose another DEST."
        )


def _stamp(job: Job) -> str:
    """A stamp of everything that decides a frame besides its file."""
    code = hashlib.sha256()
    for source in SOURCES:
        code.update(Path(source).read_bytes())
    versions = {package: version(package) for package in PACKAGES}
    return json.dumps([job.resolution_px, job.crop, versions, code.hexdigest()])
