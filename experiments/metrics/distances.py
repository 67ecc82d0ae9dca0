"""Computations of metrics from two sets of features. Importing this module does not import torch."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.files import UserError
from experiments.metrics.base import Compared, How
from experiments.metrics.frechet import distance_of_statistics

if TYPE_CHECKING:
    from torch import Tensor

    from experiments.metrics.features import FeatureStats
    from experiments.metrics.moments import Moments

KID_SUBSETS, KID_SUBSET_NIMG = 100, 1000
NEIGHBOUR = 3
BLOCK_NUMBERS = 1 << 24  # distances in memory at once: 64 MB


def frechet(real: FeatureStats | Moments, generated: FeatureStats | Moments, how: How) -> Compared:
    """The squared Fréchet distance (experiments.metrics.frechet). Warns if a set has fewer samples than dimensions."""
    for name, one in (("real", real), ("generated", generated)):
        if one.n is not None and one.n < one.dimensions:
            warnings.warn(
                f"{one.n} {name} samples of {one.dimensions} dimensions: the covariance is singular and the distance "
                "biased upwards. Compare it with equal numbers of samples only.",
                stacklevel=2,
            )
    try:
        value = distance_of_statistics(real.statistics(how.ddof), generated.statistics(how.ddof))
    except ValueError as error:
        raise UserError(str(error)) from error
    return value, {"ddof": how.ddof}


def kernel_distance(real: FeatureStats | Moments, generated: FeatureStats | Moments, how: How) -> Compared:
    """KID (Bińkowski et al. 2018, arXiv 1801.01401): the squared maximum mean discrepancy with the kernel
    (x . y / D + 1)^3. Unbiased estimator, mean over random subsets. It can be slightly below 0."""
    reals, fakes = _kept(real, "kid"), _kept(generated, "kid")
    size = min(KID_SUBSET_NIMG, len(reals), len(fakes))
    if size < 2:
        raise UserError(f"kid: each set must have at least 2 images; got {len(reals)} and {len(fakes)}.")
    rng = np.random.RandomState(how.seed)
    values = []
    for _ in range(KID_SUBSETS):
        y = fakes[rng.choice(len(fakes), size, replace=False)]
        x = reals[rng.choice(len(reals), size, replace=False)]
        within = _kernel_sum(x, x, diagonal=False) + _kernel_sum(y, y, diagonal=False)
        values.append(within / (size * (size - 1)) - 2 * _kernel_sum(x, y) / size**2)
    return float(np.mean(values)), {
        "kernel": "(x.y/D + 1)^3, unbiased",
        "subsets": KID_SUBSETS,
        "subset_nimg": size,
        "subset_seed": how.seed,
    }


def _kernel_sum(x: np.ndarray, y: np.ndarray, diagonal: bool = True) -> float:
    kernel = (x @ y.T / x.shape[1] + 1).astype(np.float64) ** 3
    return float(kernel.sum() - (0 if diagonal else np.trace(kernel)))


def precision(real: FeatureStats | Moments, generated: FeatureStats | Moments, how: How) -> Compared:
    """The share of generated images within the manifold of the real ones (Kynkäänniemi et al. 2019, arXiv 1904.06991,
    eq. 2). An image is within it if it is no farther from some real image than that image's third nearest real
    neighbour."""
    return _covered(_kept(generated, "precision"), _kept(real, "precision")), {"neighbour": NEIGHBOUR}


def recall(real: FeatureStats | Moments, generated: FeatureStats | Moments, how: How) -> Compared:
    """The share of real images within the manifold of the generated ones; see `precision`."""
    return _covered(_kept(real, "recall"), _kept(generated, "recall")), {"neighbour": NEIGHBOUR}


def _kept(stats: Any, name: str) -> np.ndarray:
    if not hasattr(stats, "features"):
        raise UserError(f"{name}: must have the images; got saved moments, which are not enough. Give the images.")
    return stats.features


def _covered(points: np.ndarray, manifold: np.ndarray) -> float:
    """The share of `points` [N, D] that lie in a ball around some point of `manifold` [M, D]."""
    import torch

    if len(manifold) <= NEIGHBOUR or len(points) == 0:
        raise UserError(
            f"precision, recall: each set must have more than {NEIGHBOUR} images; got {len(manifold)}. Give more."
        )
    centre = torch.from_numpy(manifold.mean(axis=0))  # centred, |a|^2 + |b|^2 - 2 a.b loses fewer digits
    of, around = torch.from_numpy(points) - centre, torch.from_numpy(manifold) - centre
    radii = torch.cat([block.kthvalue(NEIGHBOUR + 1, dim=1).values for block in _distances(around, around)])
    inside = [(block <= radii).any(dim=1) for block in _distances(of, around)]
    return float(torch.cat(inside).float().mean())


def _distances(rows: Tensor, columns: Tensor) -> Iterator[Tensor]:
    """Squared distances [block, M] for consecutive blocks of rows, with about BLOCK_NUMBERS in memory at once."""
    squares = columns.square().sum(dim=1)
    for block in rows.split(max(1, BLOCK_NUMBERS // len(columns))):
        products = block @ columns.t()
        yield (block.square().sum(dim=1, keepdim=True) + squares - 2 * products).clamp_(min=0)
