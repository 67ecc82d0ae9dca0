"""TaiChi at 256 px, as clips."""

from pathlib import Path

from experiments.datasets import clips, published, taichi
from experiments.datasets.listing import check_source
from experiments.datasets.published import Job, make_clips
from experiments.datasets.recipe import Recipe
from experiments.datasets.zips import CLIPS, DatasetInfo


def make(
    source: Path, file: Path, work: Path, skip_broken: bool, partial: bool, processes: int, min_frames: int
) -> DatasetInfo:
    """Writes every clip with all its frames."""
    job = Job("taichi-256-videos", taichi.RESOLUTION_PX, "center", work, skip_broken, partial, processes)
    found = taichi.training_clips(job, source)
    info = make_clips(job, file, found, min_frames)
    info.notes.update(found={"clips": len(found)})
    return info


RECIPE = Recipe(
    name="taichi-256-videos",
    title="TaiChi (training clips) at 256 x 256 px, for the video hosts.",
    make=make,
    obtain=taichi.OBTAIN,
    licence=taichi.LICENCE,
    options=(*published.OPTIONS, published.MIN_FRAMES),
    packages=published.PACKAGES,
    folder=CLIPS,
    more_sources=(*published.MORE_SOURCES, str(clips.__file__), str(taichi.__file__)),
    expected=taichi.EXPECTED,
    crop=taichi.CROP,
    check=check_source,
    resumable=True,
    unrecorded=published.UNRECORDED,
)
