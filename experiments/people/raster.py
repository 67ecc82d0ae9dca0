"""Rasterises all triangles of a mesh at once with a depth buffer, in numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Fragments:
    """The P pixels that show the mesh. `pixel` [P]: index, row by row; `face` [P]: the visible triangle; `share`
    [P, 3]: barycentric weights of its corners; `depth` [P]: its distance."""

    pixel: np.ndarray
    face: np.ndarray
    share: np.ndarray
    depth: np.ndarray

    def interpolate(self, faces: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Interpolates values [V, C] at the vertices linearly over triangles, to [P, C]."""
        corners, share = values[faces[self.face]], self.share[..., None]
        return corners[:, 0] * share[:, 0] + corners[:, 1] * share[:, 1] + corners[:, 2] * share[:, 2]


def rasterise(xy_px: np.ndarray, depth: np.ndarray, faces: np.ndarray, cut: np.ndarray, side_px: int) -> Fragments:
    """The visible pixels of triangles `faces` [F, 3] in a square image of `side_px`. Vertices are at xy_px [V, 2] (x
    right, y down; pixel centres at halves) and `depth` [V]. Omits triangles that face away (clockwise on the screen)
    and points where `cut` [V], interpolated linearly, is below 0."""
    corners = xy_px[faces]
    (ax, ay), (bx, by), (cx, cy) = (corners[:, i].T for i in range(3))
    area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
    low = np.clip(np.ceil(corners.min(axis=1) - 0.5), 0, side_px).astype(np.int64)
    high = np.clip(np.floor(corners.max(axis=1) - 0.5) + 1, 0, side_px).astype(np.int64)
    width, height = np.maximum(high - low, 0).T
    shown = np.flatnonzero((area < 0) & (width * height > 0))

    count = (width * height)[shown]
    face = np.repeat(shown, count)
    inside = np.arange(len(face)) - np.repeat(np.cumsum(count) - count, count)
    row, column = np.divmod(inside, width[face])
    row, column = row + low[face, 1], column + low[face, 0]
    x, y = column + 0.5, row + 0.5
    one = ((bx[face] - x) * (cy[face] - y) - (by[face] - y) * (cx[face] - x)) / area[face]
    two = ((cx[face] - x) * (ay[face] - y) - (cy[face] - y) * (ax[face] - x)) / area[face]
    three = 1 - one - two
    a, b, c = faces[face].T
    held = one * cut[a] + two * cut[b] + three * cut[c]
    within = np.flatnonzero((one >= 0) & (two >= 0) & (three >= 0) & (held >= 0))

    far = (one * depth[a] + two * depth[b] + three * depth[c])[within]
    face, pixel = face[within], (row * side_px + column)[within]
    order = np.lexsort((face, far, pixel))  # per pixel, the nearest first; ties by index
    first = order[np.flatnonzero(np.diff(pixel[order], prepend=-1))]
    kept = within[first]
    return Fragments(pixel[first], face[first], np.stack([one[kept], two[kept], three[kept]], axis=1), far[first])


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Unit normals [V, 3], each the area-weighted mean of the normals of its triangles."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    normal = np.cross(b - a, c - a)
    total = np.stack(
        [np.bincount(faces.ravel(), np.repeat(normal[:, axis], 3), len(vertices)) for axis in range(3)], axis=1
    )
    return total / np.maximum(np.sqrt((total**2).sum(axis=1, keepdims=True)), 1e-12)
