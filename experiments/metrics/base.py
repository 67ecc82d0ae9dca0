"""The class of metrics, and the classes of their arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from experiments.metrics.features import FeatureStats
    from experiments.metrics.moments import Moments

STAND_IN = "stand-in"  # value of a fingerprint's "weights" if they are seeded random ones


STAND_IN_MARK = f" ({STAND_IN} weights)"  # follows such a value wherever it is shown


@dataclass(frozen=True)
class Images:
    """Real or generated images. Each call of `batches()` yields the same images from the beginning, as uint8 tensors
    [B, 3, H, W]. `facts` says which images they are, for the fingerprint."""

    nimg: int
    batches: Callable[[], Iterator[Tensor]]
    facts: dict[str, Any]


@dataclass(frozen=True)
class How:
    """The user's choices for a comparison: `ddof` of covariances, and the seed of random subsets and projections."""

    ddof: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Features:
    """The features that a metric compares: an output (`tap`) of a network (`backbone`, an entry of
    experiments/weights.toml and of experiments.metrics.extractors), of images or of clips of `frames` frames. `keep`:
    the metric needs the features of every sample, not only moments."""

    backbone: str
    tap: str
    keep: bool = False
    frames: int = 0


Compared = tuple[float, dict[str, Any]]


@dataclass(frozen=True)
class Metric:
    """A metric, of one of three kinds. All raise UserError.

    With `features`, `compare(real, generated, how)` returns the value and facts for the fingerprint, from statistics of
    those features. With `compute`, `compute(real, generated)` returns them, from images. With neither, the host's
    calc_metrics.py computes the metric, under the same name.
    """

    name: str
    title: str
    compute: Callable[[Images, Images], Compared] | None = None
    lower_is_better: bool = True
    unit: str = ""
    features: Features | None = None
    compare: Callable[[FeatureStats | Moments, FeatureStats | Moments, How], Compared] | None = None

    @property
    def by_host(self) -> bool:
        return self.compute is None and self.compare is None

    @property
    def kind(self) -> str:
        """What the metric is for: "images" or "videos"."""
        return "videos" if self.features and self.features.frames else "images"


def is_stand_in(fingerprint: dict[str, Any]) -> bool:
    """Whether a value was computed with stand-in weights. Such a value tests the code and says nothing about the
    images."""
    return fingerprint.get("weights") == STAND_IN
