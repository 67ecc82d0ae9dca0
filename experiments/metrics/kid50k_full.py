"""KID as the official codebases compute it themselves: calc_metrics.py --metrics=kid50k_full.

Their detector is downloaded, or taken from the folder in MTM_DETECTORS (mtm_hosts/metrics.py).
"""

from experiments.metrics.base import Metric

METRIC = Metric("kid50k_full", "KID (50k, full)")
