"""Files of means and covariances: our and pytorch-fid's .npz, and the statistics that official codebases cache.

A codebase's pickle is read by an unpickler that builds only dictionaries and numpy arrays, so nothing in it can run.
"""

from __future__ import annotations

import json
import pickle
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from experiments.files import UserError, atomic_output
from experiments.metrics.features import FeatureStats
from experiments.metrics.frechet import Statistics

SUFFIXES = (".npz", ".pkl")
TOLERANCE = 1e-3  # relative to the largest entry; some tools sum covariances in float32
_ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy.core.numeric", "_frombuffer"),
    ("_codecs", "encode"),
}

_UNREADABLE = (
    *(OSError, ValueError, TypeError, LookupError, EOFError, AttributeError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error, pickle.UnpicklingError),
)


@dataclass(frozen=True)
class Moments:
    """Mean [D] and covariance [D, D] from a file; `n` and `ddof` are None if the file does not record them."""

    mean: np.ndarray
    covariance: np.ndarray
    n: int | None = None
    ddof: int | None = None
    fingerprint: dict[str, Any] = field(default_factory=dict)

    @property
    def dimensions(self) -> int:
        return len(self.mean)

    def statistics(self, ddof: int = 0) -> Statistics:
        """Mean and covariance. The covariance is rescaled to the divisor n - ddof if the file records its own divisor,
        and else unchanged."""
        factor = 1.0
        if self.n is not None and self.ddof is not None:
            factor = (self.n - self.ddof) / (self.n - ddof)
        return Statistics(self.mean, self.covariance * factor, self.n or 0)


def load_moments(path: Path, metric: str) -> Moments:
    """The moments in a file, for a metric of that name (edm2's files hold several). Raises UserError, naming the file,
    if it holds none, or if they are not finite or have wrong shapes."""
    try:
        found = _from_npz(path) if path.suffix == ".npz" else _from_pickle(path, metric)
    except _UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path}: must hold saved moments (mu and sigma, or a codebase's cached statistics); got: {reason}. "
            "Make it anew: --save-stats."
        ) from error
    mean, covariance = found.mean, found.covariance
    if mean.ndim != 1 or covariance.shape != (len(mean),) * 2 or len(mean) == 0:
        raise UserError(
            f"{path}: mu must be [D] and sigma [D, D]; got {list(mean.shape)} and {list(covariance.shape)}. "
            "Make it anew: --save-stats."
        )
    if wrong := _wrong(found):
        raise UserError(f"{path}: {wrong}. Make it anew: --save-stats.")
    return found


def _wrong(found: Moments) -> str:
    """What is wrong with the moments, as text; "" if they are valid."""
    mean, covariance = found.mean, found.covariance
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        return "moments must be finite; got NaN or infinity"
    # Tools that subtract mean mean^T lose digits if the mean is large. For a collapsed generator, the whole covariance
    # may be such rounding noise.
    allowed = TOLERANCE * np.abs(covariance).max() + 1e-9 * np.square(mean).max()
    if np.abs(covariance - covariance.T).max() > allowed:
        return "sigma must be symmetric; got a matrix that is not"
    if (least := np.linalg.eigvalsh(covariance)[0]) < -allowed:
        return f"sigma must have no negative eigenvalue; got {least:.6g}"
    if found.n is not None and found.n < 2:
        return f"n must be at least 2; got {found.n}"
    if not isinstance(found.fingerprint, dict):
        return f"the fingerprint must be names and values; got {str(found.fingerprint)[:60]}"
    return ""


def _from_npz(path: Path) -> Moments:
    with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
        mean, covariance = _float64(file["mu"], file["sigma"])
        n, ddof = (int(file[name]) if name in file else None for name in ("n", "ddof"))
        facts = json.loads(str(file["fingerprint"])) if "fingerprint" in file else {}
        return Moments(mean, covariance, n, ddof, facts)


def _from_pickle(path: Path, metric: str) -> Moments:
    with path.open("rb") as file:
        content = _Plain(file).load()
    if not isinstance(content, dict):
        raise ValueError(f"a pickle of {type(content).__name__}")
    if content.get("raw_mean") is not None:  # FeatureStats of the official codebases
        n = int(content["num_items"])
        raw_mean, raw_cov = _float64(content["raw_mean"], content["raw_cov"])
        mean = raw_mean / n
        return Moments(mean, raw_cov / n - np.outer(mean, mean), n, 0)
    if metric in content:  # edm2's: moments by metric, covariances divided by n - 1
        mean, covariance = _float64(content[metric]["mu"], content[metric]["sigma"])
        return Moments(mean, covariance, int(content["num_images"]) if "num_images" in content else None, 1)
    raise ValueError(f"a dictionary of {', '.join(map(str, content)) or 'nothing'}")


def _float64(*arrays: Any) -> list[np.ndarray]:
    return [np.asarray(array, dtype=np.float64) for array in arrays]


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"a pickle with {module}.{name}, which is not statistics")
        return super().find_class(module, name)


def holds_moments(path: Path) -> bool:
    """Whether the file holds saved moments, not a network: by its name, and for a pickle by the globals it uses."""
    if path.suffix == ".npz":
        return True
    if path.suffix != ".pkl" or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return isinstance(_Plain(file).load(), dict)
    except Exception:  # a foreign pickle may cause any error
        return False


def save_moments(path: Path, stats: FeatureStats, ddof: int, fingerprint: dict[str, Any]) -> None:
    """Writes mu and sigma as pytorch-fid does, and also n, ddof and the fingerprint. Raises UserError if the file
    cannot be written."""
    taken = stats.statistics(ddof)
    with atomic_output(path) as partial, partial.open("wb") as file:
        np.savez(
            file,
            mu=taken.mean,
            sigma=taken.covariance,
            n=np.array(taken.n),
            ddof=np.array(ddof),
            fingerprint=np.array(json.dumps(fingerprint)),
        )
