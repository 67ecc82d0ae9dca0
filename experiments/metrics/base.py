"""What a metric is, and its arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from experiments.metrics.features import FeatureStats
    from experiments.metrics.moments import Moments

STAND_IN = "stand-in"  # what a fingerprint's "weights" says where the extractor's are seeded random ones


STAND_IN_MARK = f" ({STAND_IN} weights)"  # what follows such a value wherever it is shown


@dataclass(frozen=True)
class Images:
    """Real or generated images. `batches()` starts anew at every call and gives uint8 tensors [B, 3, H, W], the same
    images each time; `facts` says which images they are, for the fingerprint."""

    nimg: int
    batches: Callable[[], Iterator[Tensor]]
    facts: dict[str, Any]


@dataclass(frozen=True)
class How:
    """What the user may choose about a comparison: `ddof` of covariances, and the seed of what is drawn."""

    ddof: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Features:
    """What a metric compares: an output (`tap`) of a network (`backbone`, an entry of experiments/weights.toml and of
    experiments.metrics.extractors), of images or of clips of `frames`. `keep`: every sample, not only moments."""

    backbone: str
    tap: str
    keep: bool = False
    frames: int = 0


Compared = tuple[float, dict[str, Any]]


@dataclass(frozen=True)
class Metric:
    """One of three kinds; all raise UserError.

    With `features`, `compare(real, generated, how)` gives the value and what else decides it, from statistics of those
    features. With `compute`, `compute(real, generated)` does, from images. With neither, the host's calc_metrics.py
    computes it, under the same name.
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
        """Of what it is a metric: "images" or "videos"."""
        return "videos" if self.features and self.features.frames else "images"


def is_stand_in(fingerprint: dict[str, Any]) -> bool:
    """Whether a value was computed with stand-in weights: it tests the code, and says nothing about the images."""
    return fingerprint.get("weights") == STAND_IN
