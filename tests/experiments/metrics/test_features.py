"""FeatureStats: its sums are correct for any batch size and any number of processes."""

import doctest
import os
import socket
from pathlib import Path

import forked
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from metrics_lab import gaussian

from experiments.metrics import features
from experiments.metrics.features import CHUNK, FeatureStats
from experiments.metrics.frechet import distance_of_statistics, statistics

ROOT = Path(__file__).resolve().parents[3]


def stats_of(rows: np.ndarray, sizes: list[int], keep: bool = False) -> FeatureStats:
    stats, start = FeatureStats(rows.shape[1], keep), 0
    for size in sizes:
        stats.append(rows[start : start + size])
        start += size
    stats.append(torch.from_numpy(rows[start:]))
    return stats


def test_mean_and_covariance_are_numpys():
    rows = gaussian(0, 3 * CHUNK + 77, 5)
    taken = stats_of(rows, [100, 900]).statistics(ddof=1)
    np.testing.assert_allclose(taken.mean, rows.astype(np.float64).mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(taken.covariance, np.cov(rows.astype(np.float64).T), rtol=1e-11)
    assert taken.n == len(rows)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 700), max_size=6))
def test_batches_of_any_size_give_the_same_bits(sizes):
    rows = gaussian(1, 1500, 3)
    whole, cut = stats_of(rows, []).statistics(), stats_of(rows, sizes).statistics()
    assert np.array_equal(whole.mean, cut.mean)
    assert np.array_equal(whole.covariance, cut.covariance)


def test_a_large_mean_costs_no_digits():
    rows = (gaussian(2, 2000, 3).astype(np.float64) * 0.01 + 4096).astype(np.float32)
    exact = np.cov(rows.astype(np.float64).T, ddof=0)
    np.testing.assert_allclose(stats_of(rows, []).statistics().covariance, exact, rtol=1e-9)
    squares = rows.astype(np.float64).T @ rows / len(rows) - np.outer(rows.mean(0), rows.mean(0)).astype(np.float64)
    assert not np.allclose(squares, exact, rtol=1e-3)  # naive sums of squares lose these digits


def test_merged_parts_are_the_whole():
    rows = gaussian(3, 1200, 4)
    merged = stats_of(rows[:500], [], keep=True).merge(stats_of(rows[500:], [], keep=True))
    np.testing.assert_allclose(merged.statistics().covariance, statistics(rows).covariance, rtol=1e-10)
    assert np.array_equal(merged.features, rows)
    empty = FeatureStats(4, keep=True)
    assert empty.merge(merged).statistics().mean == pytest.approx(merged.statistics().mean)


def test_a_state_makes_the_same_object():
    stats = stats_of(gaussian(4, 700, 3), [], keep=True)
    again = FeatureStats.from_state(stats.state())
    assert np.array_equal(again.statistics().covariance, stats.statistics().covariance)
    assert np.array_equal(again.features, stats.features)
    with pytest.raises(ValueError, match="finite arrays of fitting shapes"):
        FeatureStats.from_state(stats.state() | {"scatter": np.zeros((2, 3))})


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros((4, 2)), r"must be \[N, 3\]; got \[4, 2\]"),
        (np.zeros(3), r"must be \[N, 3\]; got \[3\]"),
        (np.array([[0, np.nan, 0], [0, 0, 0]]), "must be finite; got NaN or infinity in 1 of 2 samples"),
    ],
)
def test_unusable_features_are_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        FeatureStats(3).append(rows)


def test_too_few_samples_other_dimensions_and_features_not_kept_are_refused():
    with pytest.raises(ValueError, match="at least 2 samples; got 0"):
        FeatureStats(3).statistics()
    with pytest.raises(ValueError, match="must have 3 dimensions and keep=False; got 2"):
        FeatureStats(3).merge(FeatureStats(2))
    with pytest.raises(ValueError, match="got keep=False"):
        _ = FeatureStats(3).features


RANK = """
import sys, torch.distributed as dist, numpy as np
sys.path.insert(0, sys.argv[1])
from metrics_lab import gaussian
from experiments.metrics.features import FeatureStats
dist.init_process_group("gloo")
rows, rank, ranks = gaussian(5, 1001, 6), dist.get_rank(), dist.get_world_size()
stats = FeatureStats(6, keep=True)
stats.append(rows[rank::ranks])
whole = stats.gather()
np.savez(f"{sys.argv[2]}/{rank}.npz", **whole.state())
dist.destroy_process_group()
"""


def test_two_ranks_give_what_one_gives(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    lab = str(Path(__file__).parent)
    base = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    base["PYTHONPATH"] = str(ROOT)
    ranks = [forked.start("-c", RANK, lab, str(tmp_path), env=base | {"RANK": str(rank)}) for rank in range(2)]
    said = [rank.communicate(120) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said
    rows = gaussian(5, 1001, 6)
    found = [FeatureStats.from_state(np.load(tmp_path / f"{rank}.npz")) for rank in range(2)]
    for one in found:
        assert np.array_equal(one.features, rows)  # in the source's order
        np.testing.assert_allclose(one.statistics().covariance, statistics(rows).covariance, rtol=1e-10)
    assert distance_of_statistics(found[0].statistics(), statistics(rows)) < 1e-9


def test_the_docstrings_example_runs():
    assert doctest.testmod(features).attempted > 0
    assert doctest.testmod(features).failed == 0
