"""TaiChi at 256 px: each frame an image. What the two recipes of TaiChi share lies here, too."""

from pathlib import Path

from experiments.datasets import clips, published
from experiments.datasets.clips import list_clips
from experiments.datasets.listing import check_source
from experiments.datasets.parts import Shard
from experiments.datasets.published import Job, make_images
from experiments.datasets.recipe import Recipe
from experiments.datasets.zips import DatasetInfo

RESOLUTION_PX = 256
EXPECTED = {"clips": 3_049}
OBTAIN = (
    "Run load_videos.py --metadata taichi-metadata.csv --format .png of "
    "https://github.com/AliaksandrSiarohin/video-preprocessing, which downloads and crops the videos; SOURCE is its "
    "--out_folder (only train is used). Many videos are gone from YouTube: --partial."
)
LICENCE = "none stated; the videos are their owners', under YouTube's terms of service."
CROP = (
    "The boxes of taichi-metadata.csv, which load_videos.py crops and resizes to 256 x 256 px; taken as they are. "
    "Frames of another size: the middle square, resized with Lanczos."
)


def training_clips(job: Job, source: Path) -> list[Shard]:
    """The clips of the training split, whose number must be right."""
    found = list_clips(source, split="train")
    job.check_count("clips", EXPECTED["clips"], len(found), source, OBTAIN)
    return found


def make(source: Path, file: Path, work: Path, skip_broken: bool, partial: bool, processes: int) -> DatasetInfo:
    """Writes every frame of every clip as an image."""
    job = Job("taichi-256", RESOLUTION_PX, "center", work, skip_broken, partial, processes)
    found = training_clips(job, source)
    info = make_images(job, file, found)
    info.notes.update(found={"clips": len(found)})
    return info


RECIPE = Recipe(
    name="taichi-256",
    title="TaiChi (training clips) at 256 x 256 px, each frame an image.",
    make=make,
    obtain=OBTAIN,
    licence=LICENCE,
    options=published.OPTIONS,
    packages=published.PACKAGES,
    more_sources=(*published.MORE_SOURCES, str(clips.__file__)),
    expected=EXPECTED,
    crop=CROP,
    check=check_source,
    resumable=True,
    unrecorded=published.UNRECORDED,
)
