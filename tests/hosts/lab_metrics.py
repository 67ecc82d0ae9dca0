"""Loaded through MTM_METRICS by test_more_metrics.py: few images, no worker processes, and two metrics.

`draws` uses every random stream, so that the tests can see whether a metric changes the training's streams.
"""

import functools
import random
import sys

import numpy as np
import torch

from mtm_hosts import more_metrics


class Mean(torch.nn.Module):
    """A stand-in for a detector: uint8 [N, C, H, W] to features."""

    def forward(self, x, return_features=True):
        return torch.nn.functional.adaptive_avg_pool2d(x.float(), 2).flatten(1)


def register(register_metric):
    host = sys.modules[register_metric.__module__]
    utils, fid = host.metric_utils, host.frechet_inception_distance
    more_metrics.GENERATED_NIMG = 8
    of_data, of_generator = utils.compute_feature_stats_for_dataset, utils.compute_feature_stats_for_generator
    # Starting three worker processes takes longer than reading a few images.
    utils.compute_feature_stats_for_dataset = functools.partial(of_data, data_loader_kwargs={"num_workers": 0})
    utils.compute_feature_stats_for_generator = functools.partial(of_generator, batch_size=8)
    if hasattr(fid, "NUM_FRAMES_IN_BATCH"):
        fid.NUM_FRAMES_IN_BATCH = {128: 1}
    register_metric(draws)
    register_metric(functools.wraps(fid_few)(functools.partial(fid_few, fid)))


def draws(opts):
    """Draw a number from every random stream."""
    return {"draws": random.random() + np.random.rand() + torch.randn([]).item()}


def fid_few(fid, opts):
    """The host's own FID on few images."""
    return {"fid_few": fid.compute_fid(opts, max_real=None, num_gen=8)}
