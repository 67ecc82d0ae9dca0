"""ImageNet at 128 px, with class labels."""

import re
from pathlib import Path

from experiments.datasets.listing import choose, list_items
from experiments.datasets.published import Job, image_shards, make_images, published_recipe, tell_ignored
from experiments.datasets.zips import DatasetInfo

_MEMBER = re.compile(r"(?:^|/)(n\d{8})/([^/]+\.jpe?g)$", re.IGNORECASE)


def make(job: Job, source: Path, file: Path) -> DatasetInfo:
    """Writes the images in the order of class and name. A label is the rank of the class's WordNet id (n01440764 is 0).
    If all classes are there, that is the usual numbering."""
    chosen, others = choose(list_items(source), lambda name: _MEMBER.search(name) is not None)
    chosen.sort(key=lambda item: _class_and_name(item.name))
    classes = sorted({_class_and_name(item.name)[0] for item in chosen})
    job.check_count("images", len(chosen), source)
    job.check_count("classes", len(classes), source)
    tell_ignored(others)
    rank = {wordnet_id: index for index, wordnet_id in enumerate(classes)}
    shards = image_shards(chosen, job.resolution_px)
    info = make_images(job, file, shards, lambda name: rank[_class_and_name(name)[0]])
    info.notes.update(found={"images": len(chosen), "classes": len(classes)}, classes=classes)
    return info


def _class_and_name(name: str) -> tuple[str, str]:
    match = _MEMBER.search(name)
    assert match is not None
    return match[1].lower(), match[2]


RECIPE = published_recipe(
    make,
    name="imagenet-128",
    title="ImageNet (ILSVRC2012, training images) at 128 x 128 px, with class labels.",
    obtain="Register at https://image-net.org/download.php and download the training images (task 1 & 2) of "
    "ILSVRC2012; SOURCE is ILSVRC2012_img_train.tar as downloaded, or a folder with a folder or a tar for each class.",
    licence="ImageNet's terms of access: non-commercial research and education (https://image-net.org/download.php).",
    expected={"images": 1_281_167, "classes": 1_000},
    resolution_px=128,
    crop="center",
    crop_text="The central square, as large as the shorter side allows, resized with Lanczos (StyleGAN3's "
    "dataset_tool.py, center-crop).",
)
