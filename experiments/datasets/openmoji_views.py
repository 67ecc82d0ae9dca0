"""OpenMoji glyphs on a card in space, seen by a camera that looks at it: images with EG3D's camera labels.

A label is 25 numbers: the camera-to-world matrix [4, 4] and the intrinsics [3, 3], both row by row. Axes are OpenCV's
(x right, y down, z forward); focal length and principal point are in image sides. Distance and field of view are those
of EG3D's FFHQ, so that its ffhq configuration renders the right volume.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
from PIL import Image
from tqdm import tqdm

from experiments.datasets import openmoji
from experiments.datasets.openmoji import GLYPH_PX, SUPERSAMPLE, check_options, draw_glyph, draw_glyphs
from experiments.datasets.recipe import Recipe
from experiments.datasets.zips import DatasetInfo, write_zip

RADIUS = 2.7  # from the camera to the card's centre, in world units
FOCAL = 4.2647
_CARD = (0.35, 0.5)  # range of its side, in world units; the field of view is 0.63 wide there
_YAW, _PITCH = 0.6, 0.3  # maxima, rad
INTRINSICS = np.array([[FOCAL, 0.0, 0.5], [0.0, FOCAL, 0.5], [0.0, 0.0, 1.0]])


def camera(yaw: float, pitch: float) -> np.ndarray:
    """[4, 4] camera-to-world matrix of a camera at distance RADIUS that looks at the origin; with yaw and pitch 0 it
    looks along -z. y is up in the world."""
    origin = RADIUS * np.array([np.sin(yaw) * np.cos(pitch), np.sin(pitch), np.cos(yaw) * np.cos(pitch)])
    forward = -origin / RADIUS
    right = np.cross(forward, [0.0, 1.0, 0.0])
    right /= np.linalg.norm(right)
    matrix = np.eye(4)
    matrix[:3] = np.column_stack([right, np.cross(forward, right), forward, origin])
    return matrix


def card_homography(cam2world: np.ndarray, card: float, side_px: int) -> np.ndarray:
    """The homography [3, 3], up to scale, from an image's pixels to the glyph's, for a card of side `card` in the plane
    z = 0.

    A pixel's ray p + t d meets the plane at t = -p_z / d_z, which is the point (p d_z - p_z d) / d_z.
    """
    p = cam2world[:3, 3]
    pixels = np.array([[1 / side_px, 0.0, 0.0], [0.0, 1 / side_px, 0.0], [0.0, 0.0, 1.0]])
    rays = cam2world[:3, :3] @ np.linalg.inv(INTRINSICS) @ pixels
    plane = np.stack([p[0] * rays[2] - p[2] * rays[0], p[1] * rays[2] - p[2] * rays[1], rays[2]])
    scale, middle = GLYPH_PX / card, GLYPH_PX / 2
    return np.array([[scale, 0.0, middle], [0.0, -scale, middle], [0.0, 0.0, 1.0]]) @ plane


def render_views(subset: str, resolution: int, count: int, seed: int) -> Iterator[tuple[np.ndarray, list[float]]]:
    """`count` images, uint8 [resolution, resolution, 3], with their labels. The same arguments give the same images."""
    glyphs = draw_glyphs(openmoji.SUBSETS[subset])
    rng = np.random.default_rng([seed, resolution])
    side_px = resolution * SUPERSAMPLE
    for index in range(count):
        cam2world = camera(rng.uniform(-_YAW, _YAW), rng.uniform(-_PITCH, _PITCH))
        homography = card_homography(cam2world, rng.uniform(*_CARD), side_px)
        numbers = (homography / homography[2, 2]).ravel()[:8]
        image = draw_glyph(glyphs[index % len(glyphs)], Image.Transform.PERSPECTIVE, numbers, side_px)
        yield np.asarray(image), [float(v) for v in (*cam2world.ravel(), *INTRINSICS.ravel())]


def make(_source: None, file: Path, subset: str, resolution: int, count: int, seed: int) -> DatasetInfo:
    """Writes images and labels as a zip in the hosts' format. Byte-identical for the same arguments and versions."""
    check_options("openmoji-views", subset, resolution, count=count)
    views = render_views(subset, resolution, count, seed)
    shown = tqdm(views, total=count, desc=f"Drawing views of {subset}", unit="img", disable=None)
    return write_zip(file, shown, resolution)


RECIPE = Recipe(
    name="openmoji-views",
    title="OpenMoji glyphs on a card in space, with camera labels.",
    make=make,
    obtain=openmoji.OBTAIN,
    licence=openmoji.LICENCE,
    credit=openmoji.CREDIT,
    takes_source=False,
    options=(
        openmoji.SUBSET,
        click.Option(["--resolution"], type=int, default=128, show_default=True, help="Side of an image, px."),
        click.Option(["--count"], type=int, default=8000, show_default=True, help="How many images."),
        openmoji.SEED,
    ),
    packages=(*openmoji.PACKAGES, "numpy"),
    more_sources=(openmoji.__file__,),
)
