"""Metrics that the official codebases compute themselves, by their own names: calc_metrics.py --metrics=NAME.

Their detectors are downloaded, or stand in a folder that MTM_DETECTORS names (mtm_hosts/metrics.py).
"""

from experiments.metrics.base import Metric

FID50K_FULL = Metric("fid50k_full", "FID (50k, full)", None)
KID50K_FULL = Metric("kid50k_full", "KID (50k, full)", None)
