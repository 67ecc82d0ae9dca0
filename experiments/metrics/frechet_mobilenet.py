"""The Fréchet distance in MobileNetV2's features (trained local features) of images at 128 px. It is not FID."""

from experiments.metrics.base import Features, Metric
from experiments.metrics.distances import frechet

METRIC = Metric(
    "frechet_mobilenet",
    "Fréchet distance, MobileNetV2",
    features=Features("mobilenet-v2", "features.17"),
    compare=frechet,
)
