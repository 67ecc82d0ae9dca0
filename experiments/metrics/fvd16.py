"""FVD of 16 consecutive frames (Unterthiner et al. 2018, arXiv 1812.01717), by StyleGAN-V's protocol."""

from experiments.metrics.base import Features, Metric
from experiments.metrics.distances import frechet

METRIC = Metric("fvd16", "FVD16", features=Features("i3d-kinetics-400", "before softmax", frames=16), compare=frechet)
