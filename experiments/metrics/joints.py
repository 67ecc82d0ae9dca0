"""Joints that BlazePose found, and the distance between two sets of them.

A pose is 13 joints (blazepose.JOINTS), 26 numbers, taken relative to their mean and divided by their root mean square
distance from it: place and size of the figure are out, its orientation stays, because gravity matters. A hip or a torso
as the unit would be short, and so noisy, where a figure bends towards the camera.

The distance is sliced Wasserstein-1 (Bonneel et al. 2015): the mean, over random directions in those 26 numbers, of the
one-dimensional distance between sorted projections. Poses of a few motions seen from all sides have many modes, and a
Gaussian, which a Fréchet distance takes them for, has one; W1 rather than W2, because a wrongly found joint is far off
and a square would let a few of them decide. Every image counts, also where no person is seen: leaving those out would
reward a generator whose bad poses are past recognising.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.files import UserError
from experiments.metrics.blazepose import JOINTS

PROJECTIONS = 512


def _features(stats: Any, name: str) -> np.ndarray:
    if not hasattr(stats, "features"):
        raise UserError(f"{name}: must have the images; got saved moments, which are not enough. Give the images.")
    return stats.features


def presence(stats: Any, name: str) -> np.ndarray:
    """[N], the probability of a person in each image. Raises UserError for saved moments."""
    return _features(stats, name)[:, 0]


def places(stats: Any, name: str) -> np.ndarray:
    """[N, 13, 2]: x and y of each joint, in sides of the image. Raises UserError for saved moments."""
    features = _features(stats, name)
    return features[:, 1:].reshape(len(features), -1, 2)[:, list(JOINTS.values())].astype(np.float64)


def normalised(joints: np.ndarray) -> np.ndarray:
    """[N, J, 2] to [N, 2 J], without place and size.

    >>> normalised(np.array([[[0.0, 0.0], [0.0, 2.0]]]))
    array([[ 0., -1.,  0.,  1.]])
    """
    centred = joints - joints.mean(axis=1, keepdims=True)
    size = np.sqrt(np.square(centred).sum(axis=2).mean(axis=1))
    return (centred / np.maximum(size, 1e-6)[:, None, None]).reshape(len(joints), -1)


def sliced_wasserstein(
    first: np.ndarray, second: np.ndarray, seed: int, projections: int = PROJECTIONS
) -> tuple[float, int]:
    """The distance of two sets [N, D] and [M, D], and how many of each it takes: the smaller number, of the larger set
    drawn from `seed`, because the distance of two samples of one distribution falls with their number.

    >>> sliced_wasserstein(np.zeros((4, 1)), np.full((9, 1), 2.0), seed=0)
    (2.0, 4)
    """
    rng = np.random.default_rng(seed)
    count = min(len(first), len(second))
    first, second = (x if len(x) == count else x[rng.choice(len(x), count, replace=False)] for x in (first, second))
    directions = rng.standard_normal((first.shape[1], projections))
    directions /= np.linalg.norm(directions, axis=0)
    sorted_ = [np.sort(x @ directions, axis=0) for x in (first, second)]
    return float(np.abs(sorted_[0] - sorted_[1]).mean()), count
