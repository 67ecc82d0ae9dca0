"""FVD of 16 frames as the official video codebases compute it themselves: calc_metrics.py --metrics=fvd2048_16f.

Their detector is downloaded, or taken from the folder in MTM_DETECTORS (mtm_hosts/metrics.py).
"""

from experiments.metrics.base import Metric

METRIC = Metric("fvd2048_16f", "FVD (16 frames)")
