"""Moments in files: ours, pytorch-fid's, and the caches of official codebases."""

import pickle
import re

import numpy as np
import pytest
from metrics_lab import gaussian

from experiments.files import UserError
from experiments.metrics.features import FeatureStats
from experiments.metrics.frechet import statistics
from experiments.metrics.moments import holds_moments, load_moments, save_moments

ROWS = gaussian(0, 200, 5)


def test_ours_come_back_with_either_divisor(tmp_path):
    stats = FeatureStats(5)
    stats.append(ROWS)
    save_moments(tmp_path / "real.npz", stats, 1, {"weights": "stand-in"})
    found = load_moments(tmp_path / "real.npz", "fid")
    assert (found.n, found.ddof, found.fingerprint) == (200, 1, {"weights": "stand-in"})
    for ddof in (0, 1):
        np.testing.assert_allclose(found.statistics(ddof).covariance, statistics(ROWS, ddof).covariance, rtol=1e-12)
    with np.load(tmp_path / "real.npz") as file:  # as pytorch-fid reads it
        np.testing.assert_allclose(file["sigma"], np.cov(ROWS.astype(np.float64), rowvar=False), rtol=1e-10)


def test_pytorch_fids_stand_as_they_are(tmp_path):
    sigma = np.cov(ROWS, rowvar=False)
    np.savez(tmp_path / "p.npz", mu=ROWS.mean(axis=0), sigma=sigma)
    found = load_moments(tmp_path / "p.npz", "fid")
    assert (found.n, found.ddof) == (None, None)
    for ddof in (0, 1):
        assert np.array_equal(found.statistics(ddof).covariance, sigma.astype(np.float64))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_the_official_codebases_cache_is_read(tmp_path, protocol):
    rows = ROWS.astype(np.float64)
    state = {
        "capture_all": False,
        "capture_mean_cov": True,
        "max_items": np.int64(200),
        "num_items": 200,
        "num_features": 5,
        "all_features": [],
        "raw_mean": rows.sum(axis=0),
        "raw_cov": rows.T @ rows,
    }
    (tmp_path / "c.pkl").write_bytes(pickle.dumps(state, protocol))
    assert holds_moments(tmp_path / "c.pkl")
    found = load_moments(tmp_path / "c.pkl", "fid").statistics(0)
    np.testing.assert_allclose(found.mean, rows.mean(axis=0))
    np.testing.assert_allclose(found.covariance, np.cov(rows.T, ddof=0), rtol=1e-8)


def test_edm2s_references_are_read_by_metric(tmp_path):
    one = {"mu": ROWS.mean(axis=0), "sigma": np.cov(ROWS, rowvar=False)}
    (tmp_path / "e.pkl").write_bytes(pickle.dumps({"fid": one, "num_images": 200}))
    assert load_moments(tmp_path / "e.pkl", "fid").ddof == 1
    with pytest.raises(UserError, match="a dictionary of fid, num_images"):
        load_moments(tmp_path / "e.pkl", "fd_dinov2")


class Evil:
    def __reduce__(self):
        return (re.compile, ("executed",))  # stands for any library function


def test_nothing_in_a_pickle_runs(tmp_path):
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps({"raw_mean": Evil()}))
    assert not holds_moments(path)
    with pytest.raises(UserError, match=r"evil.pkl: must hold saved moments.*re\._compile|re\.compile"):
        load_moments(path, "fid")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mu": np.zeros(3)}, "sigma is not a file"),
        ({"mu": np.zeros(3), "sigma": np.zeros((2, 2))}, r"must be \[D\] and sigma \[D, D\]; got \[3\] and \[2, 2\]"),
        ({"mu": np.full(2, np.nan), "sigma": np.eye(2)}, "moments must be finite; got NaN or infinity"),
        ({"mu": np.array([{}]), "sigma": np.eye(1)}, "Object arrays cannot be loaded"),
    ],
)
def test_a_file_without_moments_is_named(tmp_path, arrays, message):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(UserError, match=r"bad.npz.*" + message):
        load_moments(tmp_path / "bad.npz", "fid")


def test_a_truncated_file_is_named(tmp_path):
    np.savez(tmp_path / "cut.npz", mu=np.zeros(300), sigma=np.eye(300))
    data = (tmp_path / "cut.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"cut\.npz: must hold saved moments"):
        load_moments(tmp_path / "cut.npz", "fid")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sigma": np.triu(np.ones((3, 3)))}, "sigma must be symmetric"),
        ({"sigma": -np.eye(3)}, "sigma must have no negative eigenvalue; got -1"),
        ({"sigma": np.eye(3) + 3 * np.eye(3)[::-1]}, "sigma must have no negative eigenvalue; got -2"),
        ({"n": 1, "ddof": 0}, "n must be at least 2; got 1"),
        ({"fingerprint": "[1]"}, "the fingerprint must be names and values; got"),
    ],
)
def test_what_no_images_can_have_is_named(tmp_path, changed, message):
    np.savez(tmp_path / "m.npz", **{"mu": np.zeros(3), "sigma": np.eye(3)} | changed)
    with pytest.raises(UserError, match=f"m.npz: {re.escape(message)}"):
        load_moments(tmp_path / "m.npz", "fid")


def test_a_collapsed_generators_moments_with_rounding_noise_are_taken(tmp_path):
    mean = np.full(3, 100.0)
    noise = 1e-10 * np.array([[1.0, 3.0, 0.0], [3.0, 1.0, 0.0], [0.0, 0.0, -1.0]])
    np.savez(tmp_path / "m.npz", mu=mean, sigma=noise)
    assert load_moments(tmp_path / "m.npz", "fid").dimensions == 3
