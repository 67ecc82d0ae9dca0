"""The body of a given phenotype, in its rest pose or in the pose of a motion's frame.

Metres; y up, the front of the rest pose along +z, the left side along +x, as in MakeHuman and in CMU's motions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from experiments.files import UserError
from experiments.people.anny import AGES, HEIGHTS, RACES, SEXES, WEIGHTS, Shapes
from experiments.people.bvh import Motion, apply, multiply

SIDES = ("Left", "Right")
_LIMBS = ("UpLeg", "Leg", "Foot", "Arm", "ForeArm", "Hand")
REQUIRED = ("Hips", "Spine", "Head", *(side + limb for side in SIDES for limb in _LIMBS))
# The joints in the labels: the heads of these bones, and the end of the head.
JOINTS = (
    *("Hips", "Spine1", "Neck", "Head", "HeadTop"),
    *(side + limb for side in SIDES for limb in ("Arm", "ForeArm", "Hand", "UpLeg", "Leg", "Foot", "ToeBase")),
)
_TIP = "HeadTop"
# Bones with another name in the motion; the bone to which each limb bone points; fingers, which turn like the hand.
_ALIASES = {"LeftHandFinger1": "LFingers", "RightHandFinger1": "RFingers"}
_NEXT = {"UpLeg": "Leg", "Leg": "Foot", "Arm": "ForeArm", "ForeArm": "Hand", "Foot": "ToeBase"}
_AS_THE_HAND = ("FingerBase", "HandFinger1")


@dataclass(frozen=True)
class Phenotype:
    """sex: 0 (female) to 1 (male). age: 0 (a child of ten) to 1 (old), 0.5 young. weight and height: 0 to 1, 0.5
    average. race: shares of RACES, which sum to 1 (the targets' own term; it affects the shape of the face, not the
    colour)."""

    sex: float = 0.5
    age: float = 0.5
    weight: float = 0.5
    height: float = 0.5
    race: tuple[float, float, float] = (1 / 3, 1 / 3, 1 / 3)


@dataclass(frozen=True)
class Body:
    """The rest shape of one phenotype: vertices [V, 3], joints [B, 2, 3] (head and tail of each bone)."""

    vertices: np.ndarray
    joints: np.ndarray

    @property
    def stature_m(self) -> float:
        return float(np.ptp(self.vertices[:, 1]))


def shape(shapes: Shapes, phenotype: Phenotype, offsets_m: np.ndarray | None = None) -> Body:
    """The body of a phenotype; `offsets_m` [V, 3] are added to its vertices (the thickness of clothes)."""
    vertices, joints = shapes.vertices.copy(), shapes.joints.copy()
    numbers = {str(name): number for number, name in enumerate(shapes.targets)}
    for name, share in target_shares(phenotype).items():
        vertices += share * shapes.vertex_targets[numbers[name]]
        joints += share * shapes.joint_targets[numbers[name]]
    return Body(vertices if offsets_m is None else vertices + offsets_m, joints)


def target_shares(phenotype: Phenotype) -> dict[str, float]:
    """Target -> factor, without zeros. A factor is a product of linear interpolations along the phenotype's axes."""
    sexes = dict(zip(SEXES, (1 - phenotype.sex, phenotype.sex), strict=True))
    ages, weights = _corners(AGES, phenotype.age), _corners(WEIGHTS, phenotype.weight)
    heights = dict(zip(HEIGHTS, (max(0.0, 1 - 2 * phenotype.height), max(0.0, 2 * phenotype.height - 1)), strict=True))
    shares: dict[str, float] = {}
    for sex, a in sexes.items():
        for age, b in ages.items():
            shares |= {f"{race}-{sex}-{age}": a * b * c for race, c in zip(RACES, phenotype.race, strict=True)}
            for weight, c in weights.items():
                shares[f"{sex}-{age}-{weight}"] = a * b * c
                shares |= {f"{sex}-{age}-{weight}-{height}": a * b * c * d for height, d in heights.items()}
    return {name: share for name, share in shares.items() if share}


def _corners(names: Sequence[str], value: float) -> dict[str, float]:
    """Hat functions of three names, at 0, 0.5 and 1."""
    return {name: max(0.0, 1 - abs(2 * value - place)) for place, name in enumerate(names)}


class Retarget:
    """Poses bodies by a motion. Each bone is first turned from its direction in the body's rest pose to that in the
    motion's rest pose, and then gets the global rotation of the motion's joint of the same name. Bones that the motion
    lacks follow their parents. Raises UserError as check_motion does.
    """

    def __init__(self, shapes: Shapes, motion: Motion) -> None:
        check_motion(motion)
        self.motion, self._shapes = motion, shapes
        self.bones = [str(bone) for bone in shapes.bones]
        self._rest = _rest_places(motion)
        names = motion.names
        self._align = np.stack([self._aligned(bone) for bone in self.bones])
        self._motion_leg = sum(
            float(np.linalg.norm(self._motion_direction(side + begin, side + end))) / 2
            for side in SIDES
            for begin, end in (("UpLeg", "Leg"), ("Leg", "Foot"))
        )
        toes = [names[n] for n in ("LeftFoot", "RightFoot", "LeftToeBase", "RightToeBase") if n in names]
        sample = np.linspace(0, len(motion) - 1, min(len(motion), 500)).astype(int)
        self._floor = float(np.quantile(motion.pose(sample)[1][:, toes, 1].min(axis=1), 0.02))

    def pose(self, body: Body, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Vertices [N, V, 3] and joints [N, JOINTS, 3] of a body in `frames` [N]; the floor is at about y = 0."""
        rotations, hips = self._bone_rotations(frames)
        scale = self._leg(body) / self._motion_leg
        hips = (hips - [0.0, self._floor, 0.0]) * scale + [0.0, _sole_m(body), 0.0]
        heads = self._heads(body, rotations)
        legs = [
            self.bones.index(side + "UpLeg") for side in SIDES
        ]  # hip joints, because pelvis joints differ between rigs
        heads += (hips - heads[:, legs].mean(axis=1))[:, None]
        # v' = R (v - head) + head' = R v + (head' - R head), blended by the influences
        moved = heads - apply(rotations, body.joints[:, 0])
        matrices = np.concatenate([rotations, moved[..., None]], axis=-1)  # [N, B, 3, 4]
        blended = np.zeros((len(frames), len(body.vertices), 3, 4))
        for rank in range(self._shapes.influences.shape[1]):
            weight = self._shapes.influence_weights[:, rank, None, None]
            blended += matrices[:, self._shapes.influences[:, rank]] * weight
        v = body.vertices
        vertices = (
            blended[..., 0] * v[:, :1] + blended[..., 1] * v[:, 1:2] + blended[..., 2] * v[:, 2:] + blended[..., 3]
        )
        return vertices, self._joints(body, rotations, heads)

    def _bone_rotations(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rotations [N, B, 3, 3] of the bones, and the middle [N, 3] of the motion's hip joints."""
        rotations, places = self.motion.pose(frames)
        names = self.motion.names
        source: list[int] = []
        for bone, parent in zip(self.bones, self._shapes.parents, strict=True):
            name = bone if bone in names else _ALIASES.get(bone, bone)
            source.append(names[name] if name in names else source[parent])
        hips = places[:, [names[side + "UpLeg"] for side in SIDES]].mean(axis=1)
        return multiply(rotations[:, source], self._align), hips

    def _heads(self, body: Body, rotations: np.ndarray) -> np.ndarray:
        """Positions [N, B, 3] of the bones' heads, with the root's at 0."""
        heads = np.zeros(rotations.shape[:3])
        for bone, parent in enumerate(self._shapes.parents):
            if parent >= 0:
                arm = body.joints[bone, 0] - body.joints[parent, 0]
                heads[:, bone] = heads[:, parent] + apply(rotations[:, parent], arm)
        return heads

    def _joints(self, body: Body, rotations: np.ndarray, heads: np.ndarray) -> np.ndarray:
        head = self.bones.index("Head")
        top = heads[:, head] + apply(rotations[:, head], body.joints[head, 1] - body.joints[head, 0])
        kept = [heads[:, self.bones.index(name)] if name != _TIP else top for name in JOINTS]
        return np.stack(kept, axis=1)

    def _aligned(self, bone: str) -> np.ndarray:
        side = next((side for side in SIDES if bone.startswith(side)), "")
        limb = bone.removeprefix(side)
        if not side or (limb not in _NEXT and limb not in ("Hand", "ToeBase", *_AS_THE_HAND)):
            return np.eye(3)
        if limb == "Hand" or limb in _AS_THE_HAND:
            begin, end = side + "ForeArm", side + "Hand"  # a hand continues the direction of its forearm
            tip = self.motion.joints[self.motion.names[end]].end
            return _turn(self._direction(begin, end), self._motion_direction(begin, end) if tip is None else tip)
        if limb in ("Foot", "ToeBase"):  # flat in both rest poses: only its heading differs
            begin, end = side + "Foot", side + "ToeBase"
            level = np.array([1.0, 0.0, 1.0])
            ahead = self._motion_direction(begin, end) if end in self.motion.names else np.array([0.0, 0.0, 1.0])
            return _turn(self._direction(begin, end) * level, ahead * level)
        return _turn(self._direction(bone, side + _NEXT[limb]), self._motion_direction(bone, side + _NEXT[limb]))

    def _direction(self, begin: str, end: str) -> np.ndarray:
        joints = self._shapes.joints
        return joints[self.bones.index(end), 0] - joints[self.bones.index(begin), 0]

    def _motion_direction(self, begin: str, end: str) -> np.ndarray:
        names = self.motion.names
        return self._rest[names[end]] - self._rest[names[begin]]

    def _leg(self, body: Body) -> float:
        thigh, knee, ankle = (body.joints[self.bones.index("Left" + n), 0] for n in ("UpLeg", "Leg", "Foot"))
        return float(np.linalg.norm(knee - thigh) + np.linalg.norm(ankle - knee))


def check_motion(motion: Motion) -> None:
    """Raises UserError for a motion that lacks REQUIRED joints, has limbs of length 0, or has a rest pose that is not
    upright along +y."""
    if missing := [name for name in REQUIRED if name not in motion.names]:
        raise UserError(
            f"{motion.name}: a motion must have the joints {', '.join(REQUIRED)} (the names of CMU's files); missing "
            f"are {', '.join(missing)}. Rename its joints, or leave the file out."
        )
    rest, names = _rest_places(motion), motion.names
    for side in SIDES:
        for begin, end in _NEXT.items():
            pair = names.get(side + begin, -1), names.get(side + end, -1)
            if min(pair) >= 0 and np.allclose(rest[pair[0]], rest[pair[1]]):
                raise UserError(
                    f"{motion.name}: joint {side + end} must lie apart from {side + begin} in the rest pose; got the "
                    "same place. Correct its OFFSET."
                )
    if rest[names["Head"], 1] <= rest[names["Hips"], 1]:
        raise UserError(
            f"{motion.name}: the rest pose must stand upright along +y; got the head at "
            f"{rest[names['Head'], 1]:g}, the hips at {rest[names['Hips'], 1]:g}. Export it with y up."
        )


def _sole_m(body: Body) -> float:
    """The height of the ball of the foot, the lowest joint, above the ground."""
    return float(body.joints[:, 0, 1].min() - body.vertices[:, 1].min())


def _rest_places(motion: Motion) -> np.ndarray:
    places: list[np.ndarray] = []
    for joint in motion.joints:
        places.append(joint.offset + (places[joint.parent] if joint.parent >= 0 else 0.0))
    return np.stack(places)


def _turn(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The smallest rotation [3, 3] from direction a to direction b (Rodrigues). They must not be opposite."""
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    x, y, z = np.cross(a, b)
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + cross + multiply(cross, cross) / (1 + np.sum(a * b))
