"""The share of generated images in which BlazePose detects a person. The share of real images is in the fingerprint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from experiments.metrics.base import Compared, Features, How, Metric

if TYPE_CHECKING:
    from experiments.metrics.features import FeatureStats
    from experiments.metrics.moments import Moments

PRESENCE = 0.5  # MediaPipe's own threshold


def compare(real: FeatureStats | Moments, generated: FeatureStats | Moments, how: How) -> Compared:
    """The share of images whose presence is at least PRESENCE."""
    from experiments.metrics.joints import presence

    rates = [float((presence(one, "person_rate") >= PRESENCE).mean()) for one in (generated, real)]
    return rates[0], {"presence": PRESENCE, "real_rate": round(rates[1], 4)}


METRIC = Metric(
    "person_rate",
    "Person rate",
    lower_is_better=False,
    features=Features("blazepose-full", "pose", keep=True),
    compare=compare,
)
