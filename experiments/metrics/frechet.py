"""The Fréchet distance between two sets of features, each modelled as a Gaussian.

    d^2 = |mu1 - mu2|^2 + tr(S1) + tr(S2) - 2 tr((S1 S2)^(1/2))

(Dowson and Landau 1982; Heusel et al. 2017, arXiv 1706.08500, eq. 6). The functions return d^2, as all implementations
do. With S1 = A A^T and S2 = B B^T, the eigenvalues of S1 S2 are the squares of the singular values of A^T B. So the
last trace is a sum of singular values, real and non-negative by construction, and scipy's sqrtm is not needed.
"""

import warnings
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Statistics:
    """Mean [D] and covariance [D, D] of n features, float64."""

    mean: np.ndarray
    covariance: np.ndarray
    n: int


def frechet_distance(real: np.ndarray, fake: np.ndarray, ddof: int = 0) -> float:
    """Squared Fréchet distance between real [N, D] and fake [M, D] features (any real dtype), in float64.

    ddof 0 divides covariances by N, as StyleGAN's FeatureStats does; 1 divides by N - 1, as pytorch-fid does. Report
    which one you use. Raises ValueError for shapes that do not fit, fewer than 2 samples, or non-finite values. Warns
    if a set has fewer samples than dimensions, because then its covariance is singular and the distance biased upwards.

    >>> frechet_distance(np.array([[0.0], [2.0]]), np.array([[3.0], [5.0]]))
    9.0
    """
    return distance_of_statistics(statistics(real, ddof, "real"), statistics(fake, ddof, "fake"))


def statistics(features: np.ndarray, ddof: int = 0, name: str = "features") -> Statistics:
    """Mean and covariance of features [N, D], which errors call `name`."""
    features = np.asarray(features)
    if features.ndim != 2 or features.shape[1] == 0:
        raise ValueError(
            f"frechet_distance: {name} must be a matrix; expected [samples, dimensions], got shape "
            f"{list(features.shape)}. Flatten each feature to a row."
        )
    n, dimensions = features.shape
    if n < 2 or n <= ddof:
        raise ValueError(
            f"frechet_distance: {name} must have enough samples; expected at least {max(2, ddof + 1)}, got {n}. "
            "Evaluate more images."
        )
    features = features.astype(np.float64)
    if not np.isfinite(features).all():
        bad = int((~np.isfinite(features)).any(axis=1).sum())
        raise ValueError(
            f"frechet_distance: {name} must be finite; expected no NaN or infinity, got them in {bad} of {n} samples. "
            "Look at the images: a diverged generator gives such values."
        )
    if n < dimensions:
        warnings.warn(
            f"frechet_distance: {name} has {n} samples of {dimensions} dimensions; its covariance is singular and the "
            "distance biased upwards. Use more samples than dimensions.",
            stacklevel=3,
        )
    mean = features.mean(axis=0)
    centred = features - mean
    return Statistics(mean, centred.T @ centred / (n - ddof), n)


def distance_of_statistics(real: Statistics, fake: Statistics) -> float:
    """Squared Fréchet distance from means and covariances. Raises ValueError if their sizes differ."""
    if real.mean.shape != fake.mean.shape:
        raise ValueError(
            f"frechet_distance: fake must have the real features' dimensions; expected {real.mean.size}, "
            f"got {fake.mean.size}. Use the same extractor for both."
        )
    cross = np.linalg.svd(_root(real.covariance).T @ _root(fake.covariance), compute_uv=False).sum()
    squared = np.square(real.mean - fake.mean).sum()
    # If the distance is 0, rounding can give about -1e-15 times the traces.
    return float(max(0.0, squared + np.trace(real.covariance) + np.trace(fake.covariance) - 2 * cross))


def _root(covariance: np.ndarray) -> np.ndarray:
    """A with A A^T = covariance [D, D]: its Cholesky factor or, if it is singular, the scaled eigenvectors [D, rank] of
    the eigenvalues above rounding error, which takes ten times as long."""
    try:
        return np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(covariance)
    kept = values > values[-1] * values.size * np.finfo(values.dtype).eps
    return vectors[:, kept] * np.sqrt(values[kept])
