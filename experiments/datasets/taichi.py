"""TaiChi at 256 px, each frame as an image. Also has what the two recipes of TaiChi share."""

from pathlib import Path
from typing import Any

from experiments.datasets import clips
from experiments.datasets.clips import list_clips
from experiments.datasets.parts import Shard
from experiments.datasets.published import Job, make_images, published_recipe
from experiments.datasets.zips import DatasetInfo

FACTS: dict[str, Any] = {
    "obtain": "Run load_videos.py --metadata taichi-metadata.csv --format .png of "
    "https://github.com/AliaksandrSiarohin/video-preprocessing, which downloads and crops the videos; SOURCE is its "
    "--out_folder (only train is used). Many videos are no longer on YouTube: --partial.",
    "licence": "none stated; the videos are their owners', under YouTube's terms of service.",
    "expected": {"clips": 3_049},
    "resolution_px": 256,
    "crop": "center",
    "crop_text": "The boxes of taichi-metadata.csv, which load_videos.py crops and resizes to 256 x 256 px; used "
    "unchanged. Frames of another size: the central square, resized with Lanczos.",
}


def training_clips(job: Job, source: Path) -> list[Shard]:
    """The clips of the training split. Checks their number."""
    found = list_clips(source, split="train")
    job.check_count("clips", len(found), source)
    return found


def make(job: Job, source: Path, file: Path) -> DatasetInfo:
    """Writes every frame of every clip as an image."""
    found = training_clips(job, source)
    info = make_images(job, file, found)
    info.notes.update(found={"clips": len(found)})
    return info


RECIPE = published_recipe(
    make,
    name="taichi-256",
    title="TaiChi (training clips) at 256 x 256 px, each frame an image.",
    modules=(clips,),
    **FACTS,
)
