"""The registry of metrics. To add one: one module with a Metric, and one line in METRICS here.

A metric compares generated images with real ones and gives a value, with the fingerprint of how it was taken: what
decides the value, such as the extractor's weights and the numbers of images. Values with different fingerprints are
never compared. `tools/metrics.py` computes what has a function here; a metric without one is computed by the host's
own calc_metrics.py (experiments/trainers/official.py). Modules here import torch inside their functions only, so that
the runner starts at once.
"""

from experiments.metrics import official, random_frechet
from experiments.metrics.base import Metric

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in [
        random_frechet.METRIC,
        official.FID50K_FULL,
        official.KID50K_FULL,
    ]
}
