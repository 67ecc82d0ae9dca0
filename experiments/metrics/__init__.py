"""The registry of metrics. To add one: one module here with a METRIC, and one line in MODULES.

A metric compares generated images with real ones and returns a value and a fingerprint. The fingerprint holds
everything that decides the value, such as the extractor's weights and the numbers of images. Values with different
fingerprints are never compared. `python -m experiments.metrics` computes the metrics, except those whose names end as
in the official codebases (fid50k_full): the host's own calc_metrics.py computes these
(experiments/trainers/official.py). Modules of metrics import torch inside functions only, so that the runner starts
quickly; extractors import it at the top.
"""

from collections.abc import Iterable
from importlib import import_module

from experiments.metrics.base import Metric

MODULES = (
    "random_frechet",
    "fid",
    "clip_fd",
    "sfid",
    "kid",
    "precision",
    "recall",
    "fd_dinov2",
    "frechet_mobilenet",
    "person_rate",
    "joint_distance",
    "fvd16",
    "fvd128",
    "fid50k_full",
    "kid50k_full",
    "clip_fd50k_full",
    "sfid50k_full",
    "fd_dinov2_50k_full",
    "fvd2048_16f",
    "fvd2048_128f",
)
METRICS: dict[str, Metric] = {
    metric.name: metric for metric in (import_module(f"{__name__}.{module}").METRIC for module in MODULES)
}
GROUPS = {"pr": ("precision", "recall")}  # names on the command line that stand for several metrics


def weights_of(names: Iterable[str]) -> list[str]:
    """The entries of experiments/weights.toml that these metrics need, each once."""
    features = [METRICS[name].features for name in names]
    return list(dict.fromkeys(one.backbone for one in features if one))
