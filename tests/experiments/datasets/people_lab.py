"""A stand-in body made of boxes and hand-written motions, so that the people recipes need no download."""

from collections.abc import Mapping

import numpy as np

from experiments.people import anny
from experiments.people.anny import Shapes

# Bone -> its parent, its head and its tail, in metres. Right sides mirror left ones.
BONES: dict[str, tuple[str, tuple[float, float, float], tuple[float, float, float]]] = {
    "Hips": ("", (0, 0.05, 0), (0, 0.15, 0)),
    "Spine": ("Hips", (0, 0.15, 0), (0, 0.35, 0)),
    "Spine1": ("Spine", (0, 0.35, 0), (0, 0.58, 0)),
    "Neck": ("Spine1", (0, 0.58, 0), (0, 0.64, 0)),
    "Neck1": ("Neck", (0, 0.64, 0), (0, 0.68, 0)),
    "Head": ("Neck1", (0, 0.68, 0), (0, 0.85, 0)),
}
LEFT = {
    "UpLeg": ("Hips", (0.1, 0.03, 0), (0.1, -0.37, 0)),
    "Leg": ("UpLeg", (0.1, -0.37, 0), (0.1, -0.745, 0)),
    "Foot": ("Leg", (0.1, -0.745, 0), (0.1, -0.79, 0.1)),
    "ToeBase": ("Foot", (0.1, -0.79, 0.1), (0.1, -0.80, 0.17)),
    "Arm": ("Spine1", (0.17, 0.53, 0), (0.37, 0.33, 0)),
    "ForeArm": ("Arm", (0.37, 0.33, 0), (0.55, 0.15, 0)),
    "Hand": ("ForeArm", (0.55, 0.15, 0), (0.62, 0.08, 0)),
}
for _side, _sign in (("Left", 1), ("Right", -1)):
    for _name, (_parent, _head, _tail) in LEFT.items():
        _above = _side + _parent if _parent in LEFT else _parent
        BONES[_side + _name] = (_above, (_sign * _head[0], *_head[1:]), (_sign * _tail[0], *_tail[1:]))
_HALF_WIDTH_M = {"Hips": 0.13, "Spine": 0.13, "Spine1": 0.14, "Head": 0.08, "Neck": 0.05, "Neck1": 0.05}
_BOX = np.array([[x, y, z] for x in (-1, 1) for y in (0, 1) for z in (-1, 1)], dtype=float)
_SIDES = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))
_TRIANGLES = np.array([t for a, b, c, d in _SIDES for t in ((a, b, c), (a, c, d))])


def stand_in() -> Shapes:
    """One box per bone, which moves all of it. Only one target moves anything: "minheight" lowers the head."""
    names = list(BONES)
    vertices, faces, influences = [], [], []
    for number, (_, head, tail) in enumerate(BONES.values()):
        along = np.subtract(tail, head)
        across = (
            np.cross(along, [0.0, 0.0, 1.0]) if abs(along[2]) < 0.9 * np.linalg.norm(along) else np.array([1.0, 0, 0])
        )
        frame = np.stack([across / np.linalg.norm(across), along, np.cross(across, along)])
        frame[2] /= np.linalg.norm(frame[2])
        width = _HALF_WIDTH_M.get(names[number], 0.045)
        frame[0], frame[2] = frame[0] * width, frame[2] * width
        corners = head + _BOX @ frame
        turned = np.linalg.det(frame) > 0
        faces.append((_TRIANGLES if turned else _TRIANGLES[:, ::-1]) + 8 * number)
        vertices.append(corners)
        influences += [number] * 8
    targets = list(anny.target_files())
    joints = np.array([[head, tail] for _, head, tail in BONES.values()], dtype=float)
    points = np.concatenate(vertices)
    moved = np.zeros((len(targets), len(points), 3), dtype=np.float32)
    return Shapes(
        vertices=points,
        faces=np.concatenate(faces),
        parts=np.zeros(12 * len(names), dtype=int),
        vertex_targets=moved,
        targets=np.array(targets),
        joints=joints,
        joint_targets=np.zeros((len(targets), *joints.shape), dtype=np.float32),
        bones=np.array(names),
        parents=np.array([names.index(parent) if parent else -1 for parent, _, _ in BONES.values()]),
        influences=np.repeat(np.array(influences)[:, None], 4, axis=1),
        influence_weights=np.full((len(points), 4), 0.25),
        landmarks=np.array([[0.03, 0.78, 0.08], [-0.03, 0.78, 0.08], [0, 0.72, 0.08], [0, 0.85, 0]]),
    )


# The motions' rest pose: a T-pose, in a unit of its own.
OFFSETS: dict[str, tuple[str, tuple[float, float, float]]] = {
    "Hips": ("", (0, 0, 0)),
    "LeftUpLeg": ("Hips", (1.7, -1.7, 0)),
    "LeftLeg": ("LeftUpLeg", (0, -7, 0)),
    "LeftFoot": ("LeftLeg", (0, -7, 0)),
    "LeftToeBase": ("LeftFoot", (0, -0.4, 2.3)),
    "Spine": ("Hips", (0, 2, 0)),
    "Spine1": ("Spine", (0, 4, 0)),
    "Neck": ("Spine1", (0, 3, 0)),
    "Head": ("Neck", (0, 1.5, 0)),
    "LeftArm": ("Spine1", (3, 2, 0)),
    "LeftForeArm": ("LeftArm", (5, 0, 0)),
    "LeftHand": ("LeftForeArm", (3.5, 0, 0)),
}
for _name, (_parent, _offset) in list(OFFSETS.items()):
    if _name.startswith("Left"):
        OFFSETS[_name.replace("Left", "Right")] = (_parent.replace("Left", "Right"), (-_offset[0], *_offset[1:]))


def bvh(turns_deg: Mapping[str, tuple[float, float, float]] | None = None, frames: int = 40, left_out: str = "") -> str:
    """A motion at 120 frames per second. turns_deg: joint -> final rotation about z, y and x, at constant speed.

    The hips move ahead by 0.02 per frame, at a height of 16.
    """
    turns = turns_deg or {}
    order: list[str] = []

    def block(name: str, depth: int) -> list[str]:
        order.append(name)
        tab = "\t" * depth
        offset = " ".join(f"{value:g}" for value in OFFSETS[name][1])
        root = "6 Xposition Yposition Zposition" if name == "Hips" else "3"
        lines = [f"{tab}{'ROOT' if name == 'Hips' else 'JOINT'} {name}", tab + "{", f"{tab}\tOFFSET {offset}"]
        lines.append(f"{tab}\tCHANNELS {root} Zrotation Yrotation Xrotation")
        children = [child for child, (parent, _) in OFFSETS.items() if parent == name and child != left_out]
        for child in children:
            lines += block(child, depth + 1)
        if not children:
            lines += [f"{tab}\tEnd Site", tab + "\t{", f"{tab}\t\tOFFSET 0 0.5 0.5", tab + "\t}"]
        return [*lines, tab + "}"]

    lines = ["HIERARCHY", *block("Hips", 0), "MOTION", f"Frames: {frames}", "Frame Time: 0.0083333"]
    for frame in range(frames):
        share = frame / max(1, frames - 1)
        values = [0.0, 16.0, 0.02 * frame]
        for name in order:
            values += [share * turn for turn in turns.get(name, (0.0, 0.0, 0.0))]
        lines.append(" ".join(f"{value:g}" for value in values))
    return "\n".join(lines) + "\n"


WALK = {
    "LeftUpLeg": (0.0, 0.0, -35.0),
    "RightUpLeg": (0.0, 0.0, 30.0),
    "LeftArm": (-70.0, 0.0, 0.0),
    "RightArm": (40.0, 0.0, 0.0),
    "Hips": (0.0, 90.0, 0.0),
}
