"""sFID of images that the official codebases generate: --metrics=sfid50k_full of train.py and calc_metrics.py
(mtm_hosts/more_metrics.py)."""

from experiments.metrics.base import Features, Metric

METRIC = Metric("sfid50k_full", "sFID (50k, full)", features=Features("inception-2015-12-05", "mixed_6/conv"))
