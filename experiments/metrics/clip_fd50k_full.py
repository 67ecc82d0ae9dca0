"""CLIP-FD of images that the official codebases generate: --metrics=clip_fd50k_full of train.py and calc_metrics.py
(mtm_hosts/more_metrics.py)."""

from experiments.metrics.base import Features, Metric

METRIC = Metric("clip_fd50k_full", "CLIP-FD (50k, full)", features=Features("clip-vit-b-32", "image embedding"))
