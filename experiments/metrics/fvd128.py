"""FVD of 128 consecutive frames, by StyleGAN-V's protocol. StyleGAN-V's fvd2048_128f_subsample8f is another metric: of
16 frames at intervals of 8."""

from experiments.metrics.base import Features, Metric
from experiments.metrics.distances import frechet

METRIC = Metric(
    "fvd128", "FVD128", features=Features("i3d-kinetics-400", "before softmax", frames=128), compare=frechet
)
