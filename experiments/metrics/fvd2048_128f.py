"""FVD of 128 frames as the official video codebases compute it themselves: calc_metrics.py --metrics=fvd2048_128f.

Their detector is downloaded, or taken from the folder in MTM_DETECTORS (mtm_hosts/metrics.py).
"""

from experiments.metrics.base import Metric

METRIC = Metric("fvd2048_128f", "FVD (128 frames)")
