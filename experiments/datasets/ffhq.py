"""FFHQ at 256 px, cropped and labelled with cameras by EG3D."""

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from experiments.datasets.images import SUFFIXES
from experiments.datasets.items import Item, read_item
from experiments.datasets.listing import list_items
from experiments.datasets.paths import suffix_of
from experiments.datasets.published import Job, image_shards, make_images, published_recipe
from experiments.datasets.zips import DatasetInfo
from experiments.files import UserError

LABEL_NUMBERS = 25
LABELS_MD5 = "a5893550587656894051685f1a5930ce"  # of the dataset.json in FFHQ_512.zip, from EG3D's rebalancing script


def make(job: Job, source: Path, file: Path) -> DatasetInfo:
    """Writes the images in the order of their names, with their cameras."""
    items = list_items(source)
    chosen = [item for item in items if suffix_of(item.name) in SUFFIXES]
    job.check_count("images", len(chosen), source)
    labels, md5 = _read_labels(job, items, source)
    _check_labels(job, chosen, labels, source)
    info = make_images(job, file, image_shards(chosen, job.resolution_px), labels.__getitem__)
    info.notes.update(found={"images": len(chosen)}, labels_md5=md5, labels_as_published=md5 == LABELS_MD5)
    return info


def _read_labels(job: Job, items: Sequence[Item], source: Path) -> tuple[dict[str, list[float]], str]:
    """The label of each name, from the topmost dataset.json, and the file's md5."""
    found = [item for item in items if PurePosixPath(item.name).name == "dataset.json"]
    if not found:
        raise UserError(
            f"{job.name}: source must hold dataset.json with the cameras; got none in {str(source)!r}. {job.obtain}"
        )
    item = min(found, key=lambda item: (item.name.count("/"), item.name))
    folder = item.name.removesuffix("dataset.json")
    try:
        data = read_item(item)
        labels = {folder + name: label for name, label in json.loads(data)["labels"]}
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise UserError(
            f'{job.name}: dataset.json must be EG3D\'s, {{"labels": [[name, 25 numbers], ...]}}; got something else in '
            f"{str(source)!r} ({error}). {job.obtain}"
        ) from error
    return labels, hashlib.md5(data, usedforsecurity=False).hexdigest()


def _check_labels(job: Job, chosen: Sequence[Item], labels: dict[str, list[float]], source: Path) -> None:
    if bare := [item.name for item in chosen if item.name not in labels]:
        raise UserError(
            f"{job.name}: every image must have a camera in dataset.json; got {len(bare)} of {len(chosen)} without "
            f"one in {str(source)!r}, such as {bare[0]!r}. {job.obtain}"
        )
    for item in chosen:
        if not is_camera(labels[item.name]):
            raise UserError(
                f"{job.name}: a camera must be {LABEL_NUMBERS} numbers, a [4, 4] camera-to-world matrix and [3, 3] "
                f"intrinsics; got {str(labels[item.name])[:80]} for {item.name!r} in {str(source)!r}. {job.obtain}"
            )


def is_camera(label: Any) -> bool:
    """Whether `label` is 25 finite numbers, of which the first 16 are a matrix of rotation and position, row by row."""
    if not isinstance(label, list) or len(label) != LABEL_NUMBERS:
        return False
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in label):
        return False
    columns = [[label[4 * row + column] for row in range(3)] for column in range(3)]
    products = [sum(a * b for a, b in zip(columns[i], columns[j], strict=True)) for i in range(3) for j in range(3)]
    orthonormal = all(abs(value - (i % 4 == 0)) < 1e-2 for i, value in enumerate(products))
    return orthonormal and label[12:16] == [0, 0, 0, 1]


RECIPE = published_recipe(
    make,
    name="ffhq-256",
    title="FFHQ at 256 x 256 px as EG3D crops it, mirrored too, with EG3D's camera labels.",
    obtain="Run dataset_preprocessing/ffhq/runme.py of https://github.com/NVlabs/eg3d, which downloads FFHQ in the "
    "wild and crops it; SOURCE is its FFHQ_512.zip, or its folder final_crops.",
    licence="CC BY-NC-SA 4.0 (the collection); each photo has its own, listed in FFHQ's metadata. See "
    "https://github.com/NVlabs/ffhq-dataset.",
    expected={"images": 139_914},
    resolution_px=256,
    crop="whole",
    crop_text="EG3D's own crops of 512 x 512 px, resized with Lanczos (its dataset_tool.py with --resolution "
    "256x256); the labels are unchanged, because their intrinsics are in units of the image side.",
)
