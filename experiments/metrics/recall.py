"""Recall (Kynkäänniemi et al. 2019, arXiv 1904.06991) in Inception's pool3; see precision.py."""

from experiments.metrics.base import Features, Metric
from experiments.metrics.distances import recall

METRIC = Metric(
    "recall",
    "Recall",
    lower_is_better=False,
    features=Features("inception-2015-12-05", "pool3", keep=True),
    compare=recall,
)
