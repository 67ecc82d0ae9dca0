"""SkyTimelapse at 256 px, as clips."""

from pathlib import Path

from experiments.datasets import clips, published
from experiments.datasets.clips import list_clips
from experiments.datasets.listing import check_source
from experiments.datasets.published import Job, make_clips
from experiments.datasets.recipe import Recipe
from experiments.datasets.zips import CLIPS, DatasetInfo

NAME = "sky-timelapse-256"
RESOLUTION_PX = 256
EXPECTED = {"clips": 2_392}
OBTAIN = (
    "Download sky_timelapse.zip, linked at https://github.com/weixiong-ur/mdgan; SOURCE is that zip, or the folder it "
    "unpacks to (only sky_train is used)."
)


def make(
    source: Path,
    file: Path,
    work: Path,
    skip_broken: bool,
    partial: bool,
    processes: int,
    min_frames: int,
    crop: str,
) -> DatasetInfo:
    """Writes the short videos of the training split, each a clip."""
    job = Job(NAME, RESOLUTION_PX, crop, work, skip_broken, partial, processes)
    found = list_clips(source, split="sky_train")
    job.check_count("clips", EXPECTED["clips"], len(found), source, OBTAIN)
    info = make_clips(job, file, found, min_frames)
    info.notes.update(found={"clips": len(found)})
    return info


RECIPE = Recipe(
    name=NAME,
    title="SkyTimelapse (training clips) at 256 x 256 px, for the video hosts.",
    make=make,
    obtain=OBTAIN,
    licence="none stated; the videos, from YouTube, are their owners'.",
    options=(*published.OPTIONS, published.MIN_FRAMES, published.crop_option("center")),
    packages=published.PACKAGES,
    folder=CLIPS,
    more_sources=(*published.MORE_SOURCES, str(clips.__file__)),
    expected=EXPECTED,
    crop="The middle 360 x 360 px of a frame of 640 x 360 px, resized with Lanczos (what StyleGAN-V's "
    "convert_video_to_dataset.py does with a video; its README says no more than 256 x 256 px).",
    check=check_source,
    resumable=True,
    unrecorded=published.UNRECORDED,
)
