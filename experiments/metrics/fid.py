"""FID (Heusel et al. 2017, arXiv 1706.08500): the Fréchet distance in Inception's pool3. fid50k_full is computed by the
official codebases."""

from experiments.metrics.base import Features, Metric
from experiments.metrics.distances import frechet

METRIC = Metric("fid", "FID", features=Features("inception-2015-12-05", "pool3"), compare=frechet)
