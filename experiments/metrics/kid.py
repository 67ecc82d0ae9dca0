"""KID (Bińkowski et al. 2018, arXiv 1801.01401) in Inception's pool3; not multiplied by 1000."""

from experiments.metrics.base import Features, Metric
from experiments.metrics.distances import kernel_distance

METRIC = Metric("kid", "KID", features=Features("inception-2015-12-05", "pool3", keep=True), compare=kernel_distance)
