"""FVD of 128 consecutive frames, by StyleGAN-V's protocol. Its fvd2048_128f_subsample8f is another metric: 16 frames
that are 8 apart."""

from experiments.metrics.base import Features, Metric
from experiments.metrics.distances import frechet

METRIC = Metric(
    "fvd128", "FVD128", features=Features("i3d-kinetics-400", "before softmax", frames=128), compare=frechet
)
