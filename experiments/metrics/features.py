"""Statistics of streamed features: mean, covariance and, if a metric needs them, the features themselves.

Batches are summed in chunks of a fixed size and joined by the parallel update of Chan, Golub and LeVeque (1979): with
delta = mean_b - mean_a,

    M = M_a + M_b + delta delta^T n_a n_b / (n_a + n_b),     M = sum (x - mean)(x - mean)^T.

Unlike with sums of squares, no terms of the size n mean^2 are subtracted, so a large mean costs no digits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.metrics.frechet import Statistics

CHUNK = 512  # samples summed at once; fixed, so that the result does not depend on the batches


class FeatureStats:
    """Mean and scatter of features [N, dimensions] in float64, merged over batches and over processes.

    Memory: dimensions^2 + CHUNK * dimensions numbers and, with `keep`, the features as float32.

    >>> stats = FeatureStats(1)
    >>> stats.append(np.array([[0.0], [2.0]]))
    >>> stats.statistics().mean, stats.statistics().covariance
    (array([1.]), array([[1.]]))
    """

    def __init__(self, dimensions: int, keep: bool = False) -> None:
        self.dimensions, self.keep = dimensions, keep
        self._count = 0
        self._mean = np.zeros(dimensions)
        self._scatter = np.zeros((dimensions, dimensions))
        self._pending: list[np.ndarray] = []
        self._pending_n = 0
        self._kept: list[np.ndarray] = []

    @property
    def n(self) -> int:
        """Samples seen."""
        return self._count + self._pending_n

    def append(self, features: Any) -> None:
        """Adds features [N, dimensions], a tensor or an array of any real dtype. Raises ValueError for another shape or
        non-finite values."""
        rows = np.asarray(features.detach().cpu() if hasattr(features, "detach") else features, dtype=np.float32)
        if rows.ndim != 2 or rows.shape[1] != self.dimensions:
            raise ValueError(
                f"FeatureStats: features must be [N, {self.dimensions}]; got {list(rows.shape)}. "
                "Use one extractor for all of them."
            )
        if not np.isfinite(rows).all():
            bad = int((~np.isfinite(rows)).any(axis=1).sum())
            raise ValueError(
                f"FeatureStats: features must be finite; got NaN or infinity in {bad} of {len(rows)} samples, after "
                f"{self.n} good ones. Look at the images: a diverged generator gives such values."
            )
        if self.keep:
            self._kept.append(rows.copy())
        while len(rows):
            some, rows = np.split(rows, [CHUNK - self._pending_n])
            self._pending.append(some.copy())
            self._pending_n += len(some)
            if self._pending_n == CHUNK:
                self._flush()

    def _flush(self) -> None:
        if not self._pending:
            return
        rows = np.concatenate(self._pending).astype(np.float64)
        self._pending, self._pending_n = [], 0
        mean = rows.mean(axis=0)
        centred = rows - mean
        self._join(len(rows), mean, centred.T @ centred)

    def _join(self, count: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        total = self._count + count
        if count == 0:
            return
        delta = mean - self._mean
        self._mean = self._mean + delta * (count / total)
        self._scatter += scatter + np.outer(delta, delta) * (self._count * count / total)
        self._count = total

    def merge(self, other: FeatureStats) -> FeatureStats:
        """The statistics of both, as a new object, with kept features in this order. Raises ValueError if the two do
        not fit."""
        if (self.dimensions, self.keep) != (other.dimensions, other.keep):
            raise ValueError(
                f"FeatureStats.merge: both must have {self.dimensions} dimensions and keep={self.keep}; got "
                f"{other.dimensions} and keep={other.keep}."
            )
        both = FeatureStats(self.dimensions, self.keep)
        for one in (self, other):
            one._flush()
            both._join(one._count, one._mean, one._scatter)
            both._kept += one._kept
        return both

    def gather(self, device: str = "cpu") -> FeatureStats:
        """The statistics of all ranks of torch.distributed, the same on every rank; this object if there is one rank.

        Kept features are interleaved: sample i of rank r becomes sample i * ranks + r. That is the order in the source
        if rank r takes samples r, r + ranks, ... `device` is the one on which the backend communicates.
        """
        import torch
        import torch.distributed as dist

        if not dist.is_initialized() or dist.get_world_size() == 1:
            return self
        self._flush()
        counts = [int(count[0]) for count in _all_gather(torch.tensor([self._count], device=device))]
        means = _all_gather(torch.from_numpy(self._mean).to(device))
        scatters = _all_gather(torch.from_numpy(self._scatter).to(device))
        whole = FeatureStats(self.dimensions, self.keep)
        for count, mean, scatter in zip(counts, means, scatters, strict=True):
            whole._join(count, mean, scatter)
        if self.keep:
            longest = max(counts)
            padded = torch.zeros(longest, self.dimensions, device=device)
            padded[: self._count] = torch.from_numpy(self.features).to(device)
            parts = np.stack(_all_gather(padded), axis=1)  # [longest, ranks, dimensions]
            there = np.arange(longest)[:, None] < np.array(counts)[None]
            whole._kept = [parts[there]]
        return whole

    @property
    def features(self) -> np.ndarray:
        """The kept features [N, dimensions], float32, in order. Raises ValueError if they were not kept."""
        if not self.keep:
            raise ValueError("FeatureStats: features must be kept to be read; got keep=False. Pass keep=True.")
        if len(self._kept) != 1:
            self._kept = [np.concatenate(self._kept) if self._kept else np.zeros((0, self.dimensions), np.float32)]
        return self._kept[0]

    def statistics(self, ddof: int = 0) -> Statistics:
        """Mean, and covariance divided by n - ddof. Raises ValueError for fewer than 2 samples."""
        self._flush()
        if self._count < 2:
            raise ValueError(
                f"FeatureStats: statistics must have at least 2 samples; got {self._count}. Evaluate more images."
            )
        return Statistics(self._mean.copy(), self._scatter / (self._count - ddof), self._count)

    def state(self) -> dict[str, np.ndarray]:
        """The state as arrays, for `from_state`."""
        self._flush()
        state = {"count": np.array(self._count), "mean": self._mean, "scatter": self._scatter}
        return state | ({"features": self.features} if self.keep else {})

    @classmethod
    def from_state(cls, state: Any) -> FeatureStats:
        """The object whose `state` this is. Raises ValueError or KeyError for anything else."""
        mean, scatter, keep = np.asarray(state["mean"]), np.asarray(state["scatter"]), "features" in state
        stats = cls(len(mean), keep)
        stats._count, stats._mean, stats._scatter = int(state["count"]), mean, scatter
        shapes = [mean.ndim == 1, scatter.shape == (len(mean),) * 2, stats._count >= 0]
        if keep:
            stats._kept = [np.asarray(state["features"], dtype=np.float32)]
            shapes.append(stats._kept[0].shape == (stats._count, len(mean)))
        if not (all(shapes) and np.isfinite(mean).all() and np.isfinite(scatter).all()):
            raise ValueError("FeatureStats: state must hold finite arrays of fitting shapes; it does not.")
        return stats


def _all_gather(tensor: Any) -> list[np.ndarray]:
    import torch
    import torch.distributed as dist

    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return [part.cpu().numpy() for part in parts]
