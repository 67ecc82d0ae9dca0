"""Motion files in the BVH format (Biovision): a skeleton, and the rotations of its joints for each frame.

Axes are those of the file. experiments.people.body assumes y up and the front of the rest pose along +z, as in CMU's
files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from experiments.files import UserError

SUFFIX = ".bvh"
_ROTATIONS = {"Xrotation": 0, "Yrotation": 1, "Zrotation": 2}
_POSITIONS = {"Xposition": 0, "Yposition": 1, "Zposition": 2}
_MAX_DEPTH = 100


@dataclass
class Joint:
    """A joint of the skeleton. `offset` [3] is its offset from its parent in the rest pose; `end` [3] that of the tip
    from a joint without children."""

    name: str
    parent: int
    offset: np.ndarray
    channels: list[str] = field(default_factory=list)
    end: np.ndarray | None = None


@dataclass(frozen=True)
class Motion:
    """A skeleton in motion: `values` [frames, channels] as in the file, in degrees and the file's unit of length."""

    name: str
    joints: list[Joint]
    values: np.ndarray
    frame_s: float

    def __len__(self) -> int:
        return len(self.values)

    @property
    def names(self) -> dict[str, int]:
        return {joint.name: number for number, joint in enumerate(self.joints)}

    def pose(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Global rotations [N, J, 3, 3] and positions [N, J, 3] of the joints in `frames` [N].

        The matrix of a joint is the product of its channels from left to right, in the order of the file.
        """
        rotations = np.empty((len(frames), len(self.joints), 3, 3))
        places = np.empty((len(frames), len(self.joints), 3))
        column = 0
        for number, joint in enumerate(self.joints):
            local = np.broadcast_to(np.eye(3), (len(frames), 3, 3))
            moved = np.broadcast_to(joint.offset, (len(frames), 3)).copy()
            for channel in joint.channels:
                value = self.values[frames, column]
                column += 1
                if channel in _ROTATIONS:
                    local = multiply(local, axis_rotation(_ROTATIONS[channel], np.radians(value)))
                else:
                    moved[:, _POSITIONS[channel]] += value
            if joint.parent < 0:
                rotations[:, number], places[:, number] = local, moved
            else:
                above = rotations[:, joint.parent]
                rotations[:, number] = multiply(above, local)
                places[:, number] = places[:, joint.parent] + apply(above, moved)
        return rotations, places


def axis_rotation(axis: int, angle_rad: np.ndarray) -> np.ndarray:
    """Rotations [N, 3, 3] by the angles [N] about x, y or z (0, 1, 2), counter-clockwise seen from the axis's tip."""
    cos, sin = np.cos(angle_rad), np.sin(angle_rad)
    matrix = np.zeros((*np.shape(angle_rad), 3, 3))
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix[..., axis, axis] = 1.0
    matrix[..., i, i] = matrix[..., j, j] = cos
    matrix[..., j, i], matrix[..., i, j] = sin, -sin
    return matrix


def multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Matrix product of [..., 3, 3] stacks, without BLAS, so that rounding does not depend on threads."""
    return np.einsum("...ij,...jk->...ik", a, b)


def apply(matrix: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Applies matrices [..., 3, 3] to vectors [..., 3]."""
    return np.einsum("...ij,...j->...i", matrix, vector)


def read_bvh(path: Path) -> Motion:
    """Reads the motion of a file. Raises UserError, naming the file and the line of the error."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). Check the path.") from error
    return _Reader(path.name, text).motion()


class _Reader:
    def __init__(self, name: str, text: str) -> None:
        self.name, self.number = name, 0
        self._lines = text.splitlines()
        self.joints: list[Joint] = []

    def fail(self, rule: str, got: object) -> UserError:
        text = str(got)
        shown = text if len(text) < 60 else text[:60] + "..."
        return UserError(f"{self.name}, line {self.number}: {rule}; got {shown!r}. Correct the file, or leave it out.")

    def words(self) -> list[str]:
        """The words of the next non-empty line; empty at the end of the file."""
        while self.number < len(self._lines):
            self.number += 1
            if words := self._lines[self.number - 1].split():
                return words
        return []

    def expect(self, word: str) -> list[str]:
        """The rest of the next line, which must begin with `word`."""
        words = self.words()
        if not words or words[0] != word:
            raise self.fail(f"expected {word}", " ".join(words) or "the end of the file")
        return words[1:]

    def numbers(self, words: list[str], count: int) -> np.ndarray:
        try:
            values = [float(word) for word in words]
        except ValueError:
            values = []
        if len(values) != count or not all(map(math.isfinite, values)):
            raise self.fail(f"expected {count} finite numbers", " ".join(words))
        return np.array(values)

    def motion(self) -> Motion:
        self.expect("HIERARCHY")
        self._joint(self.expect("ROOT"), -1, 0)
        self.expect("MOTION")
        counted = self.expect("Frames:")
        if len(counted) != 1 or not counted[0].isdigit() or int(counted[0]) < 1:
            raise self.fail("expected a whole number of frames, at least 1", " ".join(counted))
        words = self.expect("Frame")
        frame_s = float(self.numbers(words[1:], 1)[0])
        if words[0] != "Time:" or frame_s <= 0:
            raise self.fail("expected Frame Time: and a number of seconds above 0", " ".join(words))
        return Motion(self.name, self.joints, self._values(int(counted[0])), frame_s)

    def _joint(self, words: list[str], parent: int, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise self.fail(f"joints must not nest deeper than {_MAX_DEPTH}", depth)
        name = " ".join(words)
        if not name or any(joint.name == name for joint in self.joints):
            raise self.fail("a joint must have a name of its own", name)
        self.expect("{")
        joint = Joint(name, parent, self.numbers(self.expect("OFFSET"), 3))
        joint.channels = self._channels(self.expect("CHANNELS"))
        number = len(self.joints)
        self.joints.append(joint)
        while (words := self.words()) and words[0] != "}":
            if words[0] == "JOINT":
                self._joint(words[1:], number, depth + 1)
            elif words == ["End", "Site"]:
                self.expect("{")
                joint.end = self.numbers(self.expect("OFFSET"), 3)
                self.expect("}")
            else:
                raise self.fail("expected JOINT, End Site or }", " ".join(words))
        if not words:
            raise self.fail(f"expected }} that ends joint {name}", "the end of the file")

    def _channels(self, words: list[str]) -> list[str]:
        names = words[1:]
        known = {**_ROTATIONS, **_POSITIONS}
        if not words or not words[0].isdigit() or int(words[0]) != len(names) or not set(names) <= set(known):
            raise self.fail(f"expected a number of channels, and as many of {', '.join(known)}", " ".join(words))
        return names

    def _values(self, count: int) -> np.ndarray:
        width = sum(len(joint.channels) for joint in self.joints)
        rows: list[np.ndarray] = []
        while words := self.words():
            if len(rows) == count:
                raise self.fail(f"expected the end of the file after {count} frames", " ".join(words))
            rows.append(self.numbers(words, width))
        if len(rows) < count:
            raise self.fail(f"expected {count} frames", f"the end of the file after {len(rows)}")
        return np.array(rows)
