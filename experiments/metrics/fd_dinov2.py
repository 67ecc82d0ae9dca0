"""FD-DINOv2 (Stein et al. 2023, arXiv 2306.04675): the Fréchet distance in DINOv2 ViT-L/14's class token."""

from experiments.metrics.base import Features, Metric
from experiments.metrics.distances import frechet

METRIC = Metric("fd_dinov2", "FD-DINOv2", features=Features("dinov2-vit-l-14", "class token"), compare=frechet)
