"""One image of one person: random factors, camera, light and labels."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from experiments.people.anny import Shapes
from experiments.people.body import JOINTS, Body, Phenotype, Retarget, shape
from experiments.people.clothes import Chart, Colour, Outfit, random_outfit
from experiments.people.raster import Fragments, rasterise, vertex_normals

SUPERSAMPLE = 3  # images are drawn this many times larger, then box-averaged
DISTANCE_M = 6.0  # from the camera to the person
PITCH_RAD = math.radians(6.0)  # how far the camera looks down
_MOST = 0.94  # of the image's side: the largest extent of a person; larger ones are reduced to it
# How much nearer than a visible joint the surface over it may be: about the limb's radius, in metres.
_RADIUS_M = np.array([0.20 if name in ("Hips", "Spine1", "Neck", "Head", "HeadTop") else 0.13 for name in JOINTS])
_EDGE_M = 0.05  # smallest step in depth that darkens the surface behind it


@dataclass(frozen=True)
class Look:
    """Everything that does not change the geometry: the outfit, the background colours (at the top and bottom of wall
    and ground; the ground begins at `floor`, in image sides), and the direction (x right, y up, z to the camera) and
    strength of the light."""

    outfit: Outfit
    wall: tuple[Colour, Colour]
    ground: tuple[Colour, Colour]
    floor: float
    light: tuple[float, float, float]
    diffuse: float


@dataclass(frozen=True)
class View:
    """The placement of a person in the image. `stature`: the body's height in image sides, before large poses are
    reduced. `shift`: position in the free space, -1 to 1 along each axis. `mirrored`: left and right are exchanged."""

    yaw_rad: float
    stature: float
    shift: tuple[float, float]
    mirrored: bool


@dataclass(frozen=True)
class Labels:
    """The labels of one image: joints_px [J, 2] (x right, y down, from the upper left corner), joints_m [J, 3] relative
    to the hips (x right, y up, z to the camera), whether each joint is visible [J], and the scale at the hips in px per
    metre."""

    joints_px: np.ndarray
    joints_m: np.ndarray
    visible: np.ndarray
    px_per_m: float


def random_phenotype(rng: np.random.Generator) -> Phenotype:
    """A random phenotype: mostly adults; female, male and some in between; weight and height about the average."""
    sex = float(np.clip(rng.choice((0.05, 0.95)) + rng.normal(0, 0.06), 0, 1))
    low, high = ((0.05, 0.4), (0.42, 0.75), (0.75, 1.0))[rng.choice(3, p=(0.2, 0.6, 0.2))]
    age = float(rng.uniform(low, high))
    weight, height = (float(np.clip(rng.normal(0.5, 0.18), 0.05, 0.95)) for _ in range(2))
    african, asian, caucasian = (float(share) for share in rng.dirichlet((0.6, 0.6, 0.6)))
    return Phenotype(sex, age, weight, height, (african, asian, caucasian))


def random_look(rng: np.random.Generator, sex: float, age: float) -> Look:
    """Random clothes, colours and light, independent of the pose."""
    outfit = random_outfit(rng, sex, age)
    wall, ground = _dull(rng), _dull(rng)
    azimuth, elevation = rng.uniform(-1.1, 1.1), rng.uniform(0.4, 1.1)
    return Look(
        outfit=outfit,
        wall=(_scaled(wall, rng.uniform(0.85, 1.15)), wall),
        ground=(ground, _scaled(ground, rng.uniform(0.8, 1.1))),
        floor=float(rng.uniform(0.55, 0.85)) if rng.random() < 0.6 else 1.0,
        light=(
            math.sin(azimuth) * math.cos(elevation),
            math.sin(elevation),
            math.cos(azimuth) * math.cos(elevation),
        ),
        diffuse=float(rng.uniform(0.30, 0.60)),
    )


def random_view(rng: np.random.Generator) -> View:
    x, y = rng.uniform(-0.6, 0.6, 2)
    return View(
        yaw_rad=float(rng.uniform(0, 2 * math.pi)),
        stature=float(rng.uniform(0.78, 0.94)),
        shift=(float(x), float(y)),
        mirrored=bool(rng.random() < 0.5),
    )


def _dull(rng: np.random.Generator) -> Colour:
    value, saturation, hue = rng.uniform(0.3, 0.95), rng.uniform(0, 0.35), rng.uniform(0, 2 * math.pi)
    tint = [math.cos(hue + turn) for turn in (0.0, 2.1, 4.2)]
    red, green, blue = (float(np.clip(value * (1 + saturation * t / 2), 0, 1)) for t in tint)
    return red, green, blue


def _scaled(colour: Colour, factor: float) -> Colour:
    red, green, blue = (min(1.0, float(part * factor)) for part in colour)
    return red, green, blue


class Studio:
    """Draws people. Holds what all images share: the body's data and its chart."""

    def __init__(self, shapes: Shapes) -> None:
        self.shapes, self.chart = shapes, Chart(shapes)

    def body(self, phenotype: Phenotype, outfit: Outfit) -> Body:
        return shape(self.shapes, phenotype, self.chart.thickness(outfit))

    def draw(
        self, body: Body, motion: Retarget, frames: np.ndarray, view: View, look: Look, resolution_px: int
    ) -> list[tuple[np.ndarray, Labels]]:
        """For each of `frames` [N] an image uint8 [resolution_px, resolution_px, 3] with its labels. One camera, which
        has all frames in view, is used for all."""
        vertices, joints = motion.pose(body, frames)
        faces = self.chart.faces(look.outfit)
        used = np.unique(self.shapes.faces[faces])
        camera = Camera.around(vertices[:, used], view, body.stature_m)
        return [
            self._frame(v, j, faces, camera, view, look, resolution_px) for v, j in zip(vertices, joints, strict=True)
        ]

    def _frame(
        self,
        vertices: np.ndarray,
        joints: np.ndarray,
        chosen: np.ndarray,
        camera: Camera,
        view: View,
        look: Look,
        resolution_px: int,
    ) -> tuple[np.ndarray, Labels]:
        side = resolution_px * SUPERSAMPLE
        faces = self.shapes.faces[chosen]
        seen = camera.turn(vertices)
        places, depth = camera.project(seen)
        fragments = rasterise(places * side, depth, faces, self.chart.cut(look.outfit), side)
        values = np.concatenate([self.chart.fields, vertex_normals(seen, self.chart.outer)], axis=1)
        points = fragments.interpolate(faces, values)
        colour = self.chart.colours(points[:, :6], self.shapes.parts[chosen][fragments.face], look.outfit)
        buffer = np.full((side, side), np.inf)
        buffer.reshape(-1)[fragments.pixel] = fragments.depth
        colour *= (_lit(points[:, 6:], look) * _edges(buffer, fragments))[:, None]
        canvas = _background(look, side)
        canvas.reshape(-1, 3)[fragments.pixel] = colour
        labels = _labels(joints, camera, buffer, resolution_px)
        return _mirrored(_reduced(canvas), labels) if view.mirrored else (_reduced(canvas), labels)


@dataclass(frozen=True)
class Camera:
    """A pinhole camera at DISTANCE_M from `target` [3], which sees the person turned by `yaw_rad`. `focal`: focal
    length in image sides; `center`: position of the target in the image, in image sides."""

    target: np.ndarray
    yaw_rad: float
    focal: float
    center: np.ndarray

    @classmethod
    def around(cls, vertices: np.ndarray, view: View, stature_m: float) -> Camera:
        """A camera with all vertices [N, V, 3] in view."""
        points = vertices.reshape(-1, 3)
        target = (points.min(axis=0) + points.max(axis=0)) / 2
        # A child appears smaller than an adult, but by less than to scale.
        focal = view.stature * DISTANCE_M / (0.5 * stature_m + 0.85)
        camera = cls(target, view.yaw_rad, focal, np.zeros(2))
        low, high = _extent(camera.project(camera.turn(points))[0])
        focal *= min(1.0, _MOST / float((high - low).max()))
        camera = replace(camera, focal=focal)
        low, high = _extent(camera.project(camera.turn(points))[0])
        room = np.maximum(1 - (high - low), 0) / 2
        return replace(camera, center=0.5 - (low + high) / 2 + np.asarray(view.shift) * room * 0.9)

    def turn(self, points: np.ndarray) -> np.ndarray:
        """Points [..., 3] in the camera's axes (x right, y up, z to the camera), relative to the target."""
        x, y, z = np.moveaxis(points - self.target, -1, 0)
        cos, sin = math.cos(self.yaw_rad), math.sin(self.yaw_rad)
        x, z = cos * x + sin * z, cos * z - sin * x
        cos, sin = math.cos(PITCH_RAD), math.sin(PITCH_RAD)
        return np.stack([x, cos * y - sin * z, cos * z + sin * y], axis=-1)

    def project(self, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions [..., 2] in image sides (x right, y down) and distances [...] of points from `turn`."""
        depth = DISTANCE_M - seen[..., 2]
        scale = self.focal / depth
        return self.center + np.stack([seen[..., 0] * scale, -seen[..., 1] * scale], axis=-1), depth


def _extent(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return places.min(axis=0), places.max(axis=0)


def _lit(normals: np.ndarray, look: Look) -> np.ndarray:
    """Brightness [P]: ambient light from above, a lamp, and darkening where the surface turns away from the camera."""
    unit = normals / np.maximum(np.sqrt((normals**2).sum(axis=1, keepdims=True)), 1e-9)
    unit = np.where(unit[:, 2:] < -0.2, -unit, unit)  # the inside of a skirt
    lamp = np.maximum((unit * np.asarray(look.light)).sum(axis=1), 0)
    ambient = 1 - look.diffuse + 0.12 * unit[:, 1]
    return (ambient + 1.1 * look.diffuse * lamp) * (0.72 + 0.28 * np.clip(unit[:, 2], 0, 1))


def _edges(buffer: np.ndarray, fragments: Fragments) -> np.ndarray:
    """Factor [P], below 1 next to something much nearer, so that a limb stands out from the trunk behind it."""
    near = buffer.copy()
    for axis in (0, 1):
        for step in (-2, -1, 1, 2):
            moved = np.roll(buffer, step, axis)
            near = np.minimum(near, moved)
    return np.where(fragments.depth - near.ravel()[fragments.pixel] > _EDGE_M, 0.72, 1.0)


def _background(look: Look, side: int) -> np.ndarray:
    """[side, side, 3]: a wall and, below `floor`, the ground, each a vertical gradient."""
    rows = (np.arange(side) + 0.5)[:, None] / side
    wall = _gradient(look.wall, rows / max(look.floor, 1e-6))
    ground = _gradient(look.ground, (rows - look.floor) / max(1 - look.floor, 1e-6))
    return np.repeat(np.where(rows < look.floor, wall, ground)[:, None], side, axis=1)


def _gradient(pair: tuple[Colour, Colour], place: np.ndarray) -> np.ndarray:
    share = np.clip(place, 0, 1)
    return np.asarray(pair[0]) * (1 - share) + np.asarray(pair[1]) * share


def _reduced(canvas: np.ndarray) -> np.ndarray:
    side = len(canvas) // SUPERSAMPLE
    mean = np.clip(canvas, 0, 1).reshape(side, SUPERSAMPLE, side, SUPERSAMPLE, 3).mean(axis=(1, 3))
    return (mean * 255 + 0.5).astype(np.uint8)


def _labels(joints: np.ndarray, camera: Camera, buffer: np.ndarray, resolution_px: int) -> Labels:
    seen = camera.turn(joints)
    places, depth = camera.project(seen)
    cell = np.floor(places * len(buffer)).astype(int)
    inside = ((cell >= 0) & (cell < len(buffer))).all(axis=1)
    column, row = np.clip(cell, 0, len(buffer) - 1).T
    visible = inside & (depth - buffer[row, column] < _RADIUS_M) & np.isfinite(buffer[row, column])
    hips = JOINTS.index("Hips")
    return Labels(places * resolution_px, seen - seen[hips], visible, float(camera.focal / depth[hips] * resolution_px))


_OTHER_SIDE = np.array(
    [JOINTS.index(name.replace("Left", "#").replace("Right", "Left").replace("#", "Right")) for name in JOINTS]
)


def _mirrored(image: np.ndarray, labels: Labels) -> tuple[np.ndarray, Labels]:
    """The mirrored image and its labels: the left hand becomes the right one."""
    px, m = labels.joints_px[_OTHER_SIDE].copy(), labels.joints_m[_OTHER_SIDE].copy()
    px[:, 0], m[:, 0] = image.shape[1] - px[:, 0], -m[:, 0]
    return np.ascontiguousarray(image[:, ::-1]), Labels(px, m, labels.visible[_OTHER_SIDE], labels.px_per_m)
