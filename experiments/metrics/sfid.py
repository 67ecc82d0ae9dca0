"""sFID (Nash et al. 2021, arXiv 2103.03841): the Fréchet distance in spatial features of Inception."""

from experiments.metrics.base import Features, Metric
from experiments.metrics.distances import frechet

METRIC = Metric("sfid", "sFID", features=Features("inception-2015-12-05", "mixed_6/conv"), compare=frechet)
