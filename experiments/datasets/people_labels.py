"""The labels of a data set of people: one array per kind of label, in people.npz inside its zip, beside the manifest.

The hosts do not read that file. Every array has an entry for each image (for clips, each frame), in order:

    joints_px [N, J, 2]   x right, y down, from the upper left corner; the names are in `joints` [J]
    joints_m [N, J, 3]    relative to the hips: x right, y up, z to the camera
    visible [N, J]        inside the image, and at most 0.13 m (trunk and head: 0.20 m) behind the surface seen there
    px_per_m [N]          at the hips
    yaw_rad [N]           0: the rest pose's front faces the camera; counter-clockwise from above, before mirroring
    mirrored [N]          left and right are exchanged, as the last step; joints are named as seen in the image
    frame [N], motion [N] index in the motion file, and index of the file; `motions` has the files' names
    person [N]            the number of the person, which is that of the image or the clip
    phenotype [N, 7]      experiments.people.body.Phenotype; names in `phenotype_names`
    colours [N, 10, 3]    sRGB, 0 to 1; experiments.people.clothes.Outfit, wall and ground; names in `colour_names`
    clothes [N, 9]        the edges of garments, in metres of the base mesh; names in `clothes_names`
    stature [N], shift [N, 2]  experiments.people.scene.View
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from experiments.datasets.zips import CLIPS, add_member
from experiments.files import UserError
from experiments.people.anny import RACES
from experiments.people.body import JOINTS, Phenotype
from experiments.people.clothes import HAIR_STYLES
from experiments.people.scene import Labels, Look, View

LABELS_NAME = "people.npz"
PHENOTYPE_NAMES = ("sex", "age", "weight", "height", *RACES)
COLOUR_NAMES = ("skin", "hair", "shirt", "stripe", "trousers", "shoes", "wall_top", "wall", "ground", "ground_bottom")
CLOTHES_NAMES = ("sleeve", "collar_y", "waist_y", "hem_y", "shoe_y", "stripe_m", "skirt", "hair_style", "hair_y")
_DIGITS = 5


def facts(
    labels: Labels, view: View, look: Look, phenotype: Phenotype, motion: int, frame: int, person: int
) -> dict[str, Any]:
    """The labels of one image as JSON values."""
    outfit = look.outfit
    style = {"hair_style": HAIR_STYLES.index(outfit.hair_style)}
    worn = [style.get(name, getattr(outfit, name)) for name in CLOTHES_NAMES]
    colours = [*(getattr(outfit, name) for name in COLOUR_NAMES[:6]), *look.wall, *look.ground]
    values = {
        "joints_px": labels.joints_px,
        "joints_m": labels.joints_m,
        "visible": labels.visible,
        "px_per_m": labels.px_per_m,
        "yaw_rad": view.yaw_rad,
        "mirrored": view.mirrored,
        "stature": view.stature,
        "shift": view.shift,
        "motion": motion,
        "frame": frame,
        "person": person,
        "phenotype": [phenotype.sex, phenotype.age, phenotype.weight, phenotype.height, *phenotype.race],
        "colours": colours,
        "clothes": [float(value) for value in worn],
    }
    return {name: _plain(np.asarray(value)) for name, value in values.items()}


def _plain(value: np.ndarray) -> Any:
    return (np.round(value, _DIGITS) if value.dtype.kind == "f" else value).tolist()


def write_labels(file: Path, images: Iterable[dict[str, Any]], motions: list[str], folder: str = "") -> None:
    """Adds the labels to a data set's zip, in `folder`. The same labels give the same bytes."""
    listed = list(images)
    arrays: dict[str, Any] = {name: np.array([image[name] for image in listed]) for name in listed[0]}
    arrays = {name: a.astype(np.float32) if a.dtype.kind == "f" else a for name, a in arrays.items()}
    names = {"joints": JOINTS, "motions": motions, "phenotype_names": PHENOTYPE_NAMES}
    arrays |= {name: np.array(value) for name, value in names.items()}
    arrays |= {"colour_names": np.array(COLOUR_NAMES), "clothes_names": np.array(CLOTHES_NAMES)}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    with zipfile.ZipFile(file, "a", zipfile.ZIP_STORED) as archive:
        add_member(archive, folder + LABELS_NAME, buffer.getvalue())


def read_labels(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a data set of people, as described above. Raises UserError if the zip has none."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(n for n in (LABELS_NAME, CLIPS + LABELS_NAME) if n in archive.namelist())
            with np.load(io.BytesIO(archive.read(name))) as arrays:
                return dict(arrays)
    except (OSError, StopIteration, ValueError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path}: must be a zip that the recipes people, people-clips or aligned made; got {error or 'no labels'}. "
            "Make it with python -m tools.data people."
        ) from error
