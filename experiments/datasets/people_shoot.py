"""The worker of the people recipes: draws the random person of a given number, in a frame of a motion or in a clip."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from experiments.datasets.items import Item
from experiments.datasets.people_labels import facts
from experiments.datasets.zips import Encoded, encode
from experiments.files import UserError
from experiments.people.anny import Shapes
from experiments.people.body import Body, Phenotype, Retarget
from experiments.people.bvh import Motion, read_bvh
from experiments.people.clothes import Outfit
from experiments.people.scene import Look, Studio, View, random_look, random_phenotype, random_view

# The body, pose and camera of `aligned`: a standing person of average build, seen obliquely from the side.
ALIGNED_PHENOTYPE = Phenotype()
ALIGNED_VIEW = View(yaw_rad=3.67, stature=0.86, shift=(0.0, 0.0), mirrored=False)
ALIGNED_FRAME = 1412  # of the first motion, a standing pose; the yaw is relative to the motion's axes


@dataclass(frozen=True)
class Shoot:
    """Everything that decides an image besides its number. `body` is a file of anny.Shapes, `motions` are BVH files. A
    clip has `frames` frames at `fps` per second; for single images `frames` is 1."""

    body: str
    motions: tuple[str, ...]
    seed: int
    resolution_px: int
    frames: int = 1
    fps: float = 30.0
    aligned: bool = False

    def items(self, count: int) -> list[Item]:
        """The items of persons 0 to count - 1."""
        return [Item(f"{number:08d}", "", "drawn", number, 1, 1, self.seed) for number in range(count)]

    def __call__(self, item: Item) -> Iterator[Encoded]:
        """The image or the frames of one person, with labels. The result does not depend on the process."""
        studio, motions = _stage(self.body, self.motions)
        chances = np.random.default_rng([self.seed, item.offset, 0])
        phenotype = random_phenotype(chances)
        number, frames = self._choose(chances, [motion.motion for motion in motions])
        view = random_view(chances)
        look = random_look(np.random.default_rng([self.seed, item.offset, 1]), phenotype.sex, phenotype.age)
        worn = look.outfit
        if self.aligned:
            phenotype, view, number, frames = ALIGNED_PHENOTYPE, ALIGNED_VIEW, 0, np.array([ALIGNED_FRAME])
            look, worn = level(look)
        body: Body = studio.body(phenotype, worn)
        images = studio.draw(body, motions[number], frames, view, look, self.resolution_px)
        for frame, (pixels, labels) in zip(frames.tolist(), images, strict=True):
            known = facts(labels, view, look, phenotype, number, frame, item.offset)
            yield replace(encode(pixels), facts=known)

    def check(self, motions: Sequence[Motion]) -> None:
        """Raises UserError if no motion is as long as a clip, or a motion has fewer frames per second than a clip."""
        for motion in motions:
            if self.frames > 1 and self.fps * motion.frame_s > 1.01:
                raise UserError(
                    f"people-clips: fps must be at most that of every motion; got {self.fps:g}, and {motion.name} has "
                    f"{1 / motion.frame_s:.4g}. Ask for fewer."
                )
        if not any(self._starts(motion) for motion in motions):
            longest = max(len(motion) * motion.frame_s for motion in motions)
            raise UserError(
                f"people: a motion must last longer than a clip, {self.frames} frames at {self.fps:g} a second; got at "
                f"most {longest:.2f} s. Ask for fewer frames, or a higher --fps."
            )

    def _choose(self, chances: np.random.Generator, motions: Sequence[Motion]) -> tuple[int, np.ndarray]:
        """A random motion and its frames. All start frames of all motions are equally likely."""
        starts = [self._starts(motion) for motion in motions]
        ticket = int(chances.integers(sum(map(len, starts))))
        number = int(np.searchsorted(np.cumsum([len(begins) for begins in starts]), ticket, side="right"))
        begin = starts[number][ticket - sum(map(len, starts[:number]))]
        return number, begin + self._steps(motions[number])

    def _steps(self, motion: Motion) -> np.ndarray:
        return np.round(np.arange(self.frames) / (self.fps * motion.frame_s)).astype(int)

    def _starts(self, motion: Motion) -> range:
        """The frames at which a clip may begin. The first frame is omitted if there are others, because CMU's
        conversion has its T-pose there."""
        return range(min(1, len(motion) - 1), len(motion) - int(self._steps(motion)[-1]))


def level(look: Look) -> tuple[Look, Outfit]:
    """The look without everything that changes the outline (skirt, long hair, bald head), and the outfit that gives the
    thickness of every body: long sleeves and trousers."""
    outfit = replace(look.outfit, skirt=False, hair_style="short")
    covered = replace(outfit, sleeve=1.0, collar_y=0.59, waist_y=0.08, hem_y=-0.72, shoe_y=-0.74)
    return replace(look, outfit=outfit), covered


@lru_cache(maxsize=2)
def _stage(body: str, motions: tuple[str, ...]) -> tuple[Studio, list[Retarget]]:
    """The objects that all images of a process share."""
    shapes = Shapes.load(Path(body))
    return Studio(shapes), [Retarget(shapes, read_bvh(Path(motion))) for motion in motions]
