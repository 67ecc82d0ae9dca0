"""TaiChi at 256 px, as clips."""

from pathlib import Path

from experiments.datasets import clips, taichi
from experiments.datasets.published import Job, make_clips, min_frames_option, published_recipe
from experiments.datasets.zips import CLIPS, DatasetInfo


def make(job: Job, source: Path, file: Path, min_frames: int) -> DatasetInfo:
    """Writes every clip with all its frames."""
    found = taichi.training_clips(job, source)
    info = make_clips(job, file, found, min_frames)
    info.notes.update(found={"clips": len(found)})
    return info


RECIPE = published_recipe(
    make,
    name="taichi-256-videos",
    title="TaiChi (training clips) at 256 x 256 px, for the video hosts.",
    options=(min_frames_option(3),),
    folder=CLIPS,
    modules=(clips, taichi),
    **taichi.FACTS,
)
