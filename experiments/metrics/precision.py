"""Precision (Kynkäänniemi et al. 2019, arXiv 1904.06991) in Inception's pool3, as in guided-diffusion and others. The
paper and the official pr50k3_full use VGG16's features, which give other numbers."""

from experiments.metrics.base import Features, Metric
from experiments.metrics.distances import precision

METRIC = Metric(
    "precision",
    "Precision",
    lower_is_better=False,
    features=Features("inception-2015-12-05", "pool3", keep=True),
    compare=precision,
)
