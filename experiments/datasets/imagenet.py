"""ImageNet at 128 px, with class labels."""

import re
from pathlib import Path

from experiments.datasets import published
from experiments.datasets.listing import check_source, choose, list_items
from experiments.datasets.published import Job, image_shards, make_images, tell_ignored
from experiments.datasets.recipe import Recipe
from experiments.datasets.zips import DatasetInfo

RESOLUTION_PX = 128
EXPECTED = {"images": 1_281_167, "classes": 1_000}
OBTAIN = (
    "Register at https://image-net.org/download.php and download the training images (task 1 & 2) of ILSVRC2012; "
    "SOURCE is ILSVRC2012_img_train.tar as it is, or a folder with a folder or a tar for each class."
)
_MEMBER = re.compile(r"(?:^|/)(n\d{8})/([^/]+\.jpe?g)$", re.IGNORECASE)


def make(source: Path, file: Path, work: Path, skip_broken: bool, partial: bool, processes: int) -> DatasetInfo:
    """Writes the images in the order of class and name. A label is the rank of the class's WordNet id (n01440764 is 0),
    which is the usual numbering where all classes are there."""
    job = Job("imagenet-128", RESOLUTION_PX, "center", work, skip_broken, partial, processes)
    chosen, others = choose(list_items(source), lambda name: _MEMBER.search(name) is not None)
    chosen.sort(key=lambda item: _class_and_name(item.name))
    classes = sorted({_class_and_name(item.name)[0] for item in chosen})
    job.check_count("images", EXPECTED["images"], len(chosen), source, OBTAIN)
    job.check_count("classes", EXPECTED["classes"], len(classes), source, OBTAIN)
    tell_ignored(others)
    rank = {wordnet_id: index for index, wordnet_id in enumerate(classes)}
    info = make_images(job, file, image_shards(chosen, RESOLUTION_PX), lambda name: rank[_class_and_name(name)[0]])
    info.notes.update(found={"images": len(chosen), "classes": len(classes)}, classes=classes)
    return info


def _class_and_name(name: str) -> tuple[str, str]:
    match = _MEMBER.search(name)
    assert match is not None
    return match[1].lower(), match[2]


RECIPE = Recipe(
    name="imagenet-128",
    title="ImageNet (ILSVRC2012, training images) at 128 x 128 px, with class labels.",
    make=make,
    obtain=OBTAIN,
    licence="ImageNet's terms of access: non-commercial research and education (https://image-net.org/download.php).",
    options=published.OPTIONS,
    packages=published.PACKAGES,
    more_sources=published.MORE_SOURCES,
    expected=EXPECTED,
    crop="The middle square, its side the shorter side, resized with Lanczos (StyleGAN3's dataset_tool.py, "
    "center-crop).",
    check=check_source,
    resumable=True,
    unrecorded=published.UNRECORDED,
)
