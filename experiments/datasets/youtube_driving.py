"""YouTube Driving (the videos of ACO) at 256 px, as clips."""

from pathlib import Path

import click

from experiments.datasets import clips
from experiments.datasets.clips import cut_clips, list_clips
from experiments.datasets.published import Job, make_clips, min_frames_option, published_recipe
from experiments.datasets.zips import CLIPS, DatasetInfo


def make(job: Job, source: Path, file: Path, min_frames: int, clip_frames: int) -> DatasetInfo:
    """Writes the videos, cut into clips."""
    found = list_clips(source)
    job.check_count("videos", len(found), source)
    info = make_clips(job, file, cut_clips(found, clip_frames), min_frames, clip_frames)
    info.notes.update(found={"videos": len(found)})
    return info


RECIPE = published_recipe(
    make,
    name="youtube-driving-256",
    title="YouTube Driving (ACO's videos) at 256 x 256 px, for the video hosts.",
    obtain="From https://github.com/metadriverse/ACO: download its frames (OneDrive) and join them, cat sega* > "
    "frames.zip; or download the videos of its list. SOURCE is the zip, or a folder with one folder of frames, or one "
    "file, per video.",
    licence="none stated; the videos are their owners', under YouTube's terms of service.",
    expected={"videos": 134},
    options=(
        click.Option(
            ["--clip-frames"], type=click.IntRange(1), default=512, show_default=True, help="Frames per clip."
        ),
        min_frames_option(128),
    ),
    folder=CLIPS,
    modules=(clips,),
    resolution_px=256,
    crop="squash",
    crop_is_a_choice=True,
    crop_text="The whole frame, squashed to a square with Lanczos (StyleSV's loader squashes frames that are not "
    "square, with OpenCV's bicubic filter). Clips of 512 frames, those under 128 left out (StyleSV's configuration ytb "
    "and its loader).",
)
