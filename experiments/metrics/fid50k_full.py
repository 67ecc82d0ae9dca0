"""FID as the official codebases compute it themselves: calc_metrics.py --metrics=fid50k_full.

Their detector is downloaded, or taken from the folder in MTM_DETECTORS (mtm_hosts/metrics.py).
"""

from experiments.metrics.base import Metric

METRIC = Metric("fid50k_full", "FID (50k, full)")
