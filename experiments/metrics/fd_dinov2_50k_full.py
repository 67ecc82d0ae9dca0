"""FD-DINOv2 of images that the official codebases generate: --metrics=fd_dinov2_50k_full of train.py and
calc_metrics.py (mtm_hosts/more_metrics.py)."""

from experiments.metrics.base import Features, Metric

METRIC = Metric("fd_dinov2_50k_full", "FD-DINOv2 (50k, full)", features=Features("dinov2-vit-l-14", "class token"))
