"""The distance between the poses of people in generated and in real images (experiments.metrics.joints)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from experiments.metrics.base import Compared, Features, How, Metric

if TYPE_CHECKING:
    from experiments.metrics.features import FeatureStats
    from experiments.metrics.moments import Moments


def compare(real: FeatureStats | Moments, generated: FeatureStats | Moments, how: How) -> Compared:
    """100 times the sliced Wasserstein distance of normalised joints; the unit is a hundredth of a figure's size."""
    from experiments.metrics.joints import PROJECTIONS, normalised, places, sliced_wasserstein

    joints = [normalised(places(one, "joint_distance")) for one in (real, generated)]
    value, count = sliced_wasserstein(joints[0], joints[1], how.seed)
    return 100 * value, {
        "distance": "sliced Wasserstein-1 of normalised joints, times 100",
        "projections": PROJECTIONS,
        "nimg_of_each": count,
        "projection_seed": how.seed,
    }


METRIC = Metric(
    "joint_distance",
    "Joint distance",
    features=Features("blazepose-full", "pose", keep=True),
    compare=compare,
)
