"""SkyTimelapse at 256 px, as clips."""

from pathlib import Path

from experiments.datasets import clips
from experiments.datasets.clips import list_clips
from experiments.datasets.published import Job, make_clips, min_frames_option, published_recipe
from experiments.datasets.zips import CLIPS, DatasetInfo


def make(job: Job, source: Path, file: Path, min_frames: int) -> DatasetInfo:
    """Writes each short video of the training split as a clip."""
    found = list_clips(source, split="sky_train")
    job.check_count("clips", len(found), source)
    info = make_clips(job, file, found, min_frames)
    info.notes.update(found={"clips": len(found)})
    return info


RECIPE = published_recipe(
    make,
    name="sky-timelapse-256",
    title="SkyTimelapse (training clips) at 256 x 256 px, for the video hosts.",
    obtain="Download sky_timelapse.zip, linked at https://github.com/weixiong-ur/mdgan; SOURCE is that zip, or the "
    "folder it unpacks to (only sky_train is used).",
    licence="none stated; the videos, from YouTube, are their owners'.",
    expected={"clips": 2_392},
    options=(min_frames_option(3),),  # the hosts sample three frames per clip
    folder=CLIPS,
    modules=(clips,),
    resolution_px=256,
    crop="center",
    crop_is_a_choice=True,
    crop_text="The central 360 x 360 px of a 640 x 360 px frame, resized with Lanczos (as StyleGAN-V's "
    "convert_video_to_dataset.py does; its README says only 256 x 256 px).",
)
