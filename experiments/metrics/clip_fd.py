"""CLIP-FD (Kynkäänniemi et al. 2023, arXiv 2203.06026): the Fréchet distance in CLIP ViT-B/32's image embedding."""

from experiments.metrics.base import Features, Metric
from experiments.metrics.distances import frechet

METRIC = Metric("clip_fd", "CLIP-FD", features=Features("clip-vit-b-32", "image embedding"), compare=frechet)
