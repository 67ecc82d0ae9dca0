"""YouTube Driving (the videos of ACO) at 256 px, as clips."""

from pathlib import Path

import click

from experiments.datasets import clips, published
from experiments.datasets.clips import cut_clips, list_clips
from experiments.datasets.listing import check_source
from experiments.datasets.published import Job, make_clips
from experiments.datasets.recipe import Recipe
from experiments.datasets.zips import CLIPS, DatasetInfo

NAME = "youtube-driving-256"
RESOLUTION_PX = 256
EXPECTED = {"videos": 134}
CLIP_FRAMES, MIN_FRAMES = 512, 128
OBTAIN = (
    "From https://github.com/metadriverse/ACO: download its frames (OneDrive) and join them, cat sega* > frames.zip; "
    "or download the videos of its list. SOURCE is the zip, or a folder with a folder of frames or a file "
    "for each video."
)


def make(
    source: Path,
    file: Path,
    work: Path,
    skip_broken: bool,
    partial: bool,
    processes: int,
    min_frames: int,
    clip_frames: int,
    crop: str,
) -> DatasetInfo:
    """Writes the videos, cut into clips."""
    job = Job(NAME, RESOLUTION_PX, crop, work, skip_broken, partial, processes)
    found = list_clips(source)
    job.check_count("videos", EXPECTED["videos"], len(found), source, OBTAIN)
    info = make_clips(job, file, cut_clips(found, clip_frames), min_frames, clip_frames)
    info.notes.update(found={"videos": len(found)})
    return info


RECIPE = Recipe(
    name=NAME,
    title="YouTube Driving (ACO's videos) at 256 x 256 px, for the video hosts.",
    make=make,
    obtain=OBTAIN,
    licence="none stated; the videos are their owners', under YouTube's terms of service.",
    options=(
        *published.OPTIONS,
        click.Option(
            ["--clip-frames"], type=click.IntRange(1), default=CLIP_FRAMES, show_default=True, help="Frames of a clip."
        ),
        click.Option(
            ["--min-frames"],
            type=click.IntRange(1),
            default=MIN_FRAMES,
            show_default=True,
            help="Leave out what is shorter, at a video's end.",
        ),
        published.crop_option("squash"),
    ),
    packages=published.PACKAGES,
    folder=CLIPS,
    more_sources=(*published.MORE_SOURCES, str(clips.__file__)),
    expected=EXPECTED,
    crop="The whole frame, squashed to a square with Lanczos (StyleSV's loader squashes frames that are not square, "
    "with OpenCV's bicubic filter). Clips of 512 frames, those under 128 left out (StyleSV's configuration ytb "
    "and its loader).",
    check=check_source,
    resumable=True,
    unrecorded=published.UNRECORDED,
)
