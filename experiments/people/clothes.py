"""The clothes of a person, and the colour of each point of the body.

Clothes are drawn on the body: a garment is a region of the body in coordinates that do not change with phenotype or
pose (Chart), so the edge of a sleeve may cross a triangle sharply. Garments have a thickness; skirts and long hair are
meshes.
"""

from __future__ import annotations

import colorsys
import itertools
from dataclasses import dataclass

import numpy as np

from experiments.people.anny import BODY, HAIR, SKIRT, Shapes
from experiments.people.raster import vertex_normals

Colour = tuple[float, float, float]  # sRGB, 0 to 1
HAIR_STYLES = ("none", "short", "long")
_SKIN: tuple[Colour, ...] = (
    *((0.96, 0.82, 0.73), (0.91, 0.73, 0.61), (0.84, 0.65, 0.50), (0.76, 0.56, 0.41)),
    *((0.63, 0.44, 0.31), (0.50, 0.34, 0.24), (0.38, 0.25, 0.18), (0.28, 0.18, 0.13)),
)
_HAIR: tuple[Colour, ...] = (
    *((0.08, 0.07, 0.07), (0.16, 0.11, 0.08), (0.27, 0.17, 0.10), (0.40, 0.26, 0.14)),
    *((0.62, 0.47, 0.27), (0.80, 0.68, 0.45), (0.50, 0.22, 0.10)),
)
_GREY: tuple[Colour, ...] = ((0.55, 0.55, 0.55), (0.72, 0.72, 0.72), (0.88, 0.88, 0.87))
_TROUSERS: tuple[Colour, ...] = (
    *((0.14, 0.20, 0.36), (0.25, 0.36, 0.56), (0.10, 0.10, 0.12), (0.32, 0.32, 0.35)),
    *((0.58, 0.52, 0.40), (0.36, 0.28, 0.20), (0.80, 0.78, 0.72), (0.30, 0.36, 0.24)),
)
_SHOES: tuple[Colour, ...] = (
    *((0.08, 0.08, 0.09), (0.92, 0.92, 0.92), (0.35, 0.22, 0.13), (0.70, 0.15, 0.15), (0.20, 0.25, 0.45)),
)
_THICKNESS_M = {"shirt": 0.012, "trousers": 0.013, "shoes": 0.010, "hair": 0.022}
ANKLE_Y = -0.745  # in the base mesh, metres; the soles are at -0.817, the crown at 0.849
KNEE_Y = -0.369
CROTCH_Y = -0.02


@dataclass(frozen=True)
class Outfit:
    """Colours, and the edges of garments: `sleeve` along the arm (0 shoulder, 1 wrist), and `waist_y`, `hem_y`,
    `shoe_y` and `collar_y` as heights in the base mesh, in metres. With a `skirt`, hem_y is its hem and the legs are
    bare below."""

    skin: Colour
    hair: Colour
    shirt: Colour
    stripe: Colour
    trousers: Colour
    shoes: Colour
    sleeve: float
    collar_y: float
    waist_y: float
    hem_y: float
    shoe_y: float
    stripe_m: float  # period of the shirt's stripes; 0: plain
    skirt: bool
    hair_style: str
    hair_y: float  # height at which long hair ends


def random_outfit(rng: np.random.Generator, sex: float, age: float) -> Outfit:
    """Plausible random clothes and colours. Only skirts, hair style and hair colour depend on sex and age
    (Phenotype)."""
    skirt = bool(rng.random() < 0.35 * (1 - sex))
    style = str(rng.choice(HAIR_STYLES, p=(0.12 * sex, 0.30 + 0.50 * sex, 0.70 - 0.62 * sex)))
    hems = (KNEE_Y - 0.05, KNEE_Y + 0.12) if skirt or rng.random() < 0.3 else (ANKLE_Y + 0.01, ANKLE_Y + 0.09)
    sleeves = ((0.02, 0.10), (0.28, 0.44), (0.70, 0.80), (0.97, 1.0))
    low, high = sleeves[rng.choice(len(sleeves), p=(0.12, 0.42, 0.10, 0.36))]
    return Outfit(
        skin=_near(rng, _SKIN, 0.02),
        hair=_near(rng, _GREY if age > 0.5 and rng.random() < 2.2 * (age - 0.5) else _HAIR, 0.02),
        shirt=_any(rng),
        stripe=_any(rng),
        trousers=_near(rng, _TROUSERS, 0.04) if rng.random() < 0.75 else _any(rng),
        shoes=_near(rng, _SHOES, 0.03),
        sleeve=float(rng.uniform(low, high)),
        collar_y=float(rng.uniform(0.575, 0.615)),
        waist_y=float(rng.uniform(0.02, 0.13)),
        hem_y=float(rng.uniform(*hems)),
        shoe_y=float(rng.choice((ANKLE_Y - 0.01, ANKLE_Y + 0.07)) + rng.uniform(-0.01, 0.01)),
        stripe_m=float(rng.uniform(0.06, 0.14)) if rng.random() < 0.25 else 0.0,
        skirt=skirt,
        hair_style=style,
        hair_y=float(rng.uniform(0.46, 0.62)),
    )


def outer_faces(shapes: Shapes) -> np.ndarray:
    """The triangles without those for the inside of helpers, for computing normals."""
    kept = [shapes.faces[shapes.parts == BODY]]
    for part in (SKIRT, HAIR):
        both = shapes.faces[shapes.parts == part]
        kept.append(both[: len(both) // 2])
    return np.concatenate(kept)


def _near(rng: np.random.Generator, palette: tuple[Colour, ...], jitter: float) -> Colour:
    """A random colour of a palette, with its brightness varied by 10 % and its channels by `jitter`."""
    place = rng.uniform(0, len(palette) - 1)
    low = int(place)
    base = np.asarray(palette[low if jitter > 0.02 else low + round(place - low)])
    red, green, blue = np.clip(base * rng.uniform(0.9, 1.1) + rng.uniform(-jitter, jitter, 3), 0, 1)
    return float(red), float(green), float(blue)


def _any(rng: np.random.Generator) -> Colour:
    """A random colour of dyed cloth: dark to white, dull to bright."""
    return colorsys.hsv_to_rgb(float(rng.random()), float(rng.beta(1.6, 1.6)), float(rng.uniform(0.2, 0.98)))


class Chart:
    """The coordinates in the base mesh that define garments. `fields` [V, 6] holds x, y, z, the position along an arm
    (0 shoulder, 1 wrist; -1 off the arms), the weight of the feet's bones, and the weight of the head's bones."""

    def __init__(self, shapes: Shapes) -> None:
        self.shapes = shapes
        self.outer = outer_faces(shapes)
        self.rest_normals = vertex_normals(shapes.vertices, shapes.faces[shapes.parts == BODY])
        left = np.where(shapes.vertices[:, 0] >= 0, 1.0, 0.0)
        arm = np.where(left > 0, self._along("Left"), self._along("Right"))
        on_arm = self._share("Arm", "ForeArm", "Hand", "FingerBase", "HandFinger1", "Thumb") > 0.5
        self.fields = np.column_stack(
            [
                shapes.vertices,
                np.where(on_arm, arm, -1.0),
                self._share("Foot", "ToeBase"),
                self._share("Head") + self._share("Neck1"),
            ]
        )
        self._eyes = shapes.landmarks[:2]
        self._mouth = shapes.landmarks[2]

    def _share(self, *ends: str) -> np.ndarray:
        """The total skinning weight on each vertex of the bones with these names, on both sides."""
        names = {side + end for side in ("Left", "Right", "L", "R", "") for end in ends}
        chosen = np.array([str(bone) in names for bone in self.shapes.bones])
        return (chosen[self.shapes.influences] * self.shapes.influence_weights).sum(axis=1)

    def _along(self, side: str) -> np.ndarray:
        bones = [str(bone) for bone in self.shapes.bones]
        places = [self.shapes.joints[bones.index(side + end), 0] for end in ("Arm", "ForeArm", "Hand")]
        halves = []
        for begin, end in itertools.pairwise(places):
            along = end - begin
            halves.append(((self.shapes.vertices - begin) * along).sum(axis=1) / (along**2).sum())
        upper, fore = halves
        return 0.5 * (np.clip(upper, 0, 1) + np.maximum(fore, 0))

    def garments(self, fields: np.ndarray, outfit: Outfit) -> dict[str, np.ndarray]:
        """Masks [P] of the points of the body that each garment, or hair, covers. Later ones are over earlier ones."""
        x, y, z, arm, foot, head = fields.T
        trunk = arm < -0.05
        collar = outfit.collar_y - 0.35 * np.maximum(z, 0) + 0.25 * np.abs(x)
        lower = trunk & (y < outfit.waist_y)
        # From the forehead over the ears to the nape; z is the front.
        hairline = 0.785 - np.clip(0.105 - z, 0, 0.12) * 1.35
        return {
            "shirt": (trunk & (y >= outfit.waist_y) & (y < collar)) | (~trunk & (arm < outfit.sleeve)),
            "trousers": lower & (y > outfit.hem_y + (0.03 if outfit.skirt else 0.0)),
            "shoes": trunk & (y < outfit.shoe_y) & (foot > 0.1),
            "hair": (head > 0.5) & (y > hairline) if outfit.hair_style != "none" else np.zeros(len(y), dtype=bool),
        }

    def thickness(self, outfit: Outfit) -> np.ndarray:
        """[V, 3] in metres: how far garments lift the body's surface off the skin."""
        lifted = np.zeros(len(self.fields))
        for name, mask in self.garments(self.fields, outfit).items():
            lifted[mask] = _THICKNESS_M[name] if name != "trousers" or not outfit.skirt else 0.0
        lifted[np.unique(self.shapes.faces[self.shapes.parts != BODY])] = 0.0
        return lifted[:, None] * self.rest_normals

    def faces(self, outfit: Outfit) -> np.ndarray:
        """The triangles to draw: those of the body and, if worn, of the skirt and of long hair."""
        parts = self.shapes.parts
        skirt, hair = (parts == SKIRT) & outfit.skirt, (parts == HAIR) & (outfit.hair_style == "long")
        return np.flatnonzero((parts == BODY) | skirt | hair)

    def cut(self, outfit: Outfit) -> np.ndarray:
        """[V]: below 0 beyond the end of a skirt or long hair, and where the skirt is under the shirt."""
        cut = np.ones(len(self.fields))
        for part, lowest in ((SKIRT, outfit.hem_y), (HAIR, outfit.hair_y)):
            own = np.unique(self.shapes.faces[self.shapes.parts == part])
            cut[own] = self.fields[own, 1] - lowest
            if part == HAIR:  # the helper also covers the face
                cut[own] = np.minimum(cut[own], np.maximum(0.085 - self.fields[own, 2], self.fields[own, 1] - 0.79))
        return cut

    def colours(self, fields: np.ndarray, parts: np.ndarray, outfit: Outfit) -> np.ndarray:
        """Colours [P, 3], sRGB, 0 to 1, of points with these fields [P, 6] on these parts [P]."""
        colour = np.tile(np.asarray(outfit.skin, dtype=float), (len(fields), 1))
        self._paint_face(colour, fields, outfit)
        for name, mask in self.garments(fields, outfit).items():
            colour[mask] = getattr(outfit, name)
            if name == "shirt" and outfit.stripe_m:
                height = np.where(fields[:, 3] > -0.05, 0.55 * fields[:, 3], fields[:, 1])
                colour[mask & (np.mod(height / outfit.stripe_m, 1.0) < 0.45)] = outfit.stripe
        colour[parts == SKIRT] = outfit.trousers
        colour[(parts == SKIRT) & (fields[:, 1] > outfit.waist_y)] = outfit.shirt
        colour[parts == HAIR] = outfit.hair
        return colour

    def _paint_face(self, colour: np.ndarray, fields: np.ndarray, outfit: Outfit) -> None:
        x, y, z, head = fields[:, 0], fields[:, 1], fields[:, 2], fields[:, 5]
        front = np.flatnonzero((head > 0.5) & (z > 0.07))
        x, y = x[front], y[front]
        across, up = np.abs(x) - self._eyes[0, 0], y - self._eyes[0, 1]
        eye = (across / 0.016) ** 2 + (up / 0.009) ** 2 < 1
        colour[front[eye]] = (0.93, 0.93, 0.93)
        colour[front[eye & (np.abs(across) < 0.008)]] = (0.10, 0.08, 0.07)
        colour[front[(np.abs(across) < 0.020) & (np.abs(up - 0.022) < 0.004)]] = np.asarray(outfit.hair) * 0.8
        lips = (x / 0.025) ** 2 + ((y - self._mouth[1]) / 0.009) ** 2 < 1
        colour[front[lips]] = np.asarray(outfit.skin) * (0.80, 0.55, 0.55)
