"""Shared by the categories of LSUN: converts an LMDB, or images exported from one, to squares of 256 px."""

from collections import Counter
from pathlib import Path, PurePosixPath

import click

from experiments.datasets.images import SUFFIXES
from experiments.datasets.items import LMDB, Item
from experiments.datasets.listing import choose, list_items
from experiments.datasets.paths import suffix_of
from experiments.datasets.published import Job, image_shards, make_images, published_recipe, tell_ignored
from experiments.datasets.recipe import Recipe
from experiments.datasets.zips import DatasetInfo
from experiments.files import UserError


def make(job: Job, source: Path, file: Path, max_images: int | None) -> DatasetInfo:
    """Writes the images in the order of the LMDB's keys, which are also the names of exported images."""
    chosen = _choose(job.name, source)
    job.check_count("images", len(chosen), source)
    info = make_images(job, file, image_shards(chosen[:max_images], job.resolution_px))
    info.notes.update(found={"images": len(chosen)})
    return info


def _choose(name: str, source: Path) -> list[Item]:
    items = list_items(source)
    if packed := next((item.name for item in items if PurePosixPath(item.name).name == "data.mdb"), None):
        raise UserError(
            f"{name}: an LMDB must not be inside an archive; got {packed!r} in {str(source)!r}. Unpack it and give the "
            "folder."
        )
    keyed = [item for item in items if item.kind == LMDB]
    chosen, others = choose(items, lambda item_name: suffix_of(item_name) in SUFFIXES)
    if keyed:
        chosen, others = keyed, Counter()
    tell_ignored(others)
    return sorted(chosen, key=lambda item: PurePosixPath(item.name).stem)


def lsun_recipe(name: str, title: str, archive: str, folder: str, expected: int, more: str = "") -> Recipe:
    """The recipe of one category. `archive` is its URL, `folder` the folder that it unpacks to."""
    obtain = (
        f"Download and unpack {archive}; SOURCE is {folder}, with data.mdb, or a folder or zip of its images. {more}"
    )
    return published_recipe(
        make,
        name=name,
        title=title,
        obtain=obtain.strip(),
        licence="none stated; the images are their owners'. See https://www.yf.io/p/lsun.",
        expected={"images": expected},
        options=(
            click.Option(
                ["--max-images"],
                type=click.IntRange(1),
                default=None,
                help="Use only this many images, the first ones.",
            ),
        ),
        resolution_px=256,
        crop="center",
        crop_text="The central square, as large as the shorter side allows, resized with Lanczos (StyleGAN3's "
        "dataset_tool.py, center-crop; StyleGAN2-ADA's README uses it for LSUN).",
    )
