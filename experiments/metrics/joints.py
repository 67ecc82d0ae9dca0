"""Joints found by BlazePose, and the distance between two sets of them.

A pose is 13 joints (blazepose.JOINTS), 26 numbers, relative to their mean and divided by their root mean square
distance from it. This removes the position and size of the figure but keeps its orientation, because gravity matters.
The hips or the torso would be a poor unit of length: they appear short, and so noisy, if a figure bends towards the
camera.

The distance is sliced Wasserstein-1 (Bonneel et al. 2015): the mean, over random directions in those 26 numbers, of the
one-dimensional distance between sorted projections. It is not a Fréchet distance, because that assumes a Gaussian,
which has one mode, and poses of a few motions seen from all sides have many. It is W1 and not W2, because wrongly
detected joints are far off, and their squares would dominate. Every image counts, even if no person is detected in it:
otherwise a generator would gain from poses that are too bad to be detected.
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
    """[N]: the probability of a person in each image. Raises UserError for saved moments."""
    return _features(stats, name)[:, 0]


def places(stats: Any, name: str) -> np.ndarray:
    """[N, 13, 2]: x and y of each joint, in image sides. Raises UserError for saved moments."""
    features = _features(stats, name)
    return features[:, 1:].reshape(len(features), -1, 2)[:, list(JOINTS.values())].astype(np.float64)


def normalised(joints: np.ndarray) -> np.ndarray:
    """[N, J, 2] to [N, 2 J], normalised for position and size.

    >>> normalised(np.array([[[0.0, 0.0], [0.0, 2.0]]]))
    array([[ 0., -1.,  0.,  1.]])
    """
    centred = joints - joints.mean(axis=1, keepdims=True)
    size = np.sqrt(np.square(centred).sum(axis=2).mean(axis=1))
    return (centred / np.maximum(size, 1e-6)[:, None, None]).reshape(len(joints), -1)


def sliced_wasserstein(
    first: np.ndarray, second: np.ndarray, seed: int, projections: int = PROJECTIONS
) -> tuple[float, int]:
    """The distance of two sets [N, D] and [M, D], and the number of samples used of each. Both sets get the size of the
    smaller one, by a random subset from `seed`, because the distance of two samples of one distribution falls with
    their size.

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
