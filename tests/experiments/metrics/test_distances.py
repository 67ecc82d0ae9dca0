"""Distances against closed forms, and against torch-fidelity, clean-fid and scipy on the same features."""

import warnings

import numpy as np
import pytest
import torch
from metrics_lab import gaussian

from experiments.files import UserError
from experiments.metrics import distances
from experiments.metrics.base import How
from experiments.metrics.distances import frechet, kernel_distance, precision, recall
from experiments.metrics.features import FeatureStats
from experiments.metrics.moments import Moments

HOW = How()


def stats_of(rows: np.ndarray, keep: bool = True) -> FeatureStats:
    stats = FeatureStats(rows.shape[1], keep)
    stats.append(rows)
    return stats


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray]:
    return gaussian(0, 1300, 24), gaussian(1, 1100, 24, shift=0.3) * 1.2


def test_gaussians_of_known_distance():
    mean, spread = np.array([3.0, 0.0, 4.0]), np.array([1.0, 4.0, 9.0])
    one = Moments(np.zeros(3), np.diag(spread), 100, 0)
    other = Moments(mean, np.diag(4 * spread), 100, 0)
    assert frechet(one, other, HOW)[0] == pytest.approx(25.0 + spread.sum(), rel=1e-12)


def test_frechet_is_torch_fidelitys_and_clean_fids(pair, clean_fid, fidelity):
    real, fake = pair
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy warns about sqrtm
        theirs_of = fidelity("metric_fid")
        both = [theirs_of.fid_features_to_statistics(torch.from_numpy(rows)) for rows in pair]
        theirs = theirs_of.fid_statistics_to_metric(*both, verbose=False)["frechet_inception_distance"]
        cleans = clean_fid.fid_from_feats(real, fake)
    ours = frechet(stats_of(real), stats_of(fake), How(ddof=1))[0]
    assert ours == pytest.approx(theirs, rel=1e-6)
    assert ours == pytest.approx(cleans, rel=1e-6)
    assert frechet(stats_of(real), stats_of(fake), HOW)[0] != pytest.approx(theirs, rel=1e-6)  # ddof matters


def test_near_singular_covariances_stay_exact():
    directions = np.linalg.qr(np.random.default_rng(0).normal(size=(40, 40)))[0]
    spread = np.logspace(0, -14, 40)
    one = Moments(np.zeros(40), directions * spread @ directions.T, 100, 0)
    other = Moments(np.zeros(40), directions * (4 * spread) @ directions.T, 100, 0)
    assert frechet(one, other, HOW)[0] == pytest.approx(spread.sum(), rel=1e-6)


def test_fewer_samples_than_dimensions_warn_and_are_compared():
    few = stats_of(gaussian(2, 10, 24))
    with pytest.warns(UserWarning, match="10 generated samples of 24 dimensions"):
        value, facts = frechet(stats_of(gaussian(3, 100, 24)), few, HOW)
    assert 0 < value < 1000
    assert facts == {"ddof": 0}


def test_kid_is_torch_fidelitys_on_the_same_subsets(pair, fidelity):
    real, fake = pair
    options = {"kid_subsets": distances.KID_SUBSETS, "kid_subset_size": 1000, "rng_seed": 7, "verbose": False}
    theirs = fidelity("metric_kid").kid_features_to_metric(torch.from_numpy(fake), torch.from_numpy(real), **options)
    value, facts = kernel_distance(stats_of(real), stats_of(fake), How(seed=7))
    assert value == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-4)
    assert (facts["subsets"], facts["subset_nimg"], facts["subset_seed"]) == (100, 1000, 7)


def test_kid_is_clean_fids_up_to_the_choice_of_subsets(pair, clean_fid):
    real, fake = pair
    theirs = clean_fid.kernel_distance(real, fake)
    assert kernel_distance(stats_of(real), stats_of(fake), HOW)[0] == pytest.approx(theirs, rel=0.05)


def test_kid_of_one_distribution_is_about_zero_on_both_sides():
    values = [
        kernel_distance(stats_of(gaussian(seed, 300, 24)), stats_of(gaussian(seed + 50, 300, 24)), HOW)[0]
        for seed in range(6)
    ]
    assert min(values) < 0 < max(values)
    assert (
        abs(np.mean(values))
        < 0.1 * kernel_distance(stats_of(gaussian(0, 300, 24)), stats_of(gaussian(1, 300, 24, 1.0)), HOW)[0]
    )


def test_precision_and_recall_are_torch_fidelitys(pair, fidelity, monkeypatch):
    real, fake = pair
    theirs = fidelity("metric_prc").calculate_precision_recall_full(torch.from_numpy(fake), torch.from_numpy(real))
    both = stats_of(real), stats_of(fake)
    assert (precision(*both, HOW)[0], recall(*both, HOW)[0]) == pytest.approx(theirs, abs=2e-3)
    assert 0 < theirs[0] < 1
    whole = precision(*both, HOW)[0]
    monkeypatch.setattr(distances, "BLOCK_NUMBERS", 7 * len(real))  # few rows at a time
    assert precision(*both, HOW)[0] == pytest.approx(whole, abs=2e-3)


def test_a_collapsed_generator_has_precision_and_no_recall():
    real = gaussian(4, 400, 8)
    collapsed = np.repeat(real[:1], 100, axis=0) + 1e-3 * gaussian(5, 100, 8)
    both = stats_of(real), stats_of(collapsed)
    assert precision(*both, HOW)[0] == 1.0
    assert recall(*both, HOW)[0] <= 0.01


@pytest.mark.parametrize("function", [kernel_distance, precision, recall])
def test_what_needs_every_image_refuses_moments_and_too_few(function):
    moments = Moments(np.zeros(3), np.eye(3), 10, 0)
    with pytest.raises(UserError, match="saved moments, which are not enough"):
        function(moments, moments, HOW)
    one = stats_of(gaussian(0, 1, 3))
    with pytest.raises(UserError, match=r"must have (at least 2|more than 3) images; got"):
        function(one, one, HOW)
