"""experiments.metrics.frechet against closed forms and the properties of a distance."""

import doctest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.metrics import frechet
from experiments.metrics.frechet import Statistics, distance_of_statistics, frechet_distance, statistics

seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 6)


def features(rng: np.random.Generator, dimensions: int) -> np.ndarray:
    mix = rng.normal(size=(dimensions, dimensions)) * 10.0 ** rng.uniform(-2, 2)
    return rng.normal(size=(rng.integers(dimensions + 2, 40), dimensions)) @ mix + rng.normal(size=dimensions)


def test_diagonal_gaussians_match_the_closed_form():
    mean1, mean2 = np.array([1.0, -2.0, 0.5]), np.array([0.0, 1.0, 0.5])
    s1, s2 = np.array([4.0, 9.0, 0.25]), np.array([1.0, 16.0, 0.0])
    expected = 10.0 + ((np.sqrt(s1) - np.sqrt(s2)) ** 2).sum()
    got = distance_of_statistics(Statistics(mean1, np.diag(s1), 9), Statistics(mean2, np.diag(s2), 9))
    assert got == pytest.approx(expected, rel=1e-12)


def test_correlated_gaussians_match_scipys_matrix_square_root():
    linalg = pytest.importorskip("scipy.linalg")
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(50, 7)) @ rng.normal(size=(7, 7)), rng.normal(size=(60, 7)) @ rng.normal(size=(7, 7))
    s1, s2 = np.cov(a.T, ddof=0), np.cov(b.T, ddof=0)
    root = np.real(linalg.sqrtm(s1 @ s2))
    expected = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(s1 + s2 - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_identical_sets_are_at_distance_zero():
    a = np.random.default_rng(1).normal(size=(300, 40))
    assert frechet_distance(a, a) < 1e-10


def test_a_shift_counts_as_its_squared_length():
    a = np.random.default_rng(2).normal(size=(300, 5))
    assert frechet_distance(a, a + np.array([3.0, 0, 0, -4.0, 0])) == pytest.approx(25.0, rel=1e-10)


def test_ddof_divides_by_n_minus_ddof():
    a = np.array([[0.0], [2.0]])
    assert statistics(a, ddof=0).covariance.item() == 1.0
    assert statistics(a, ddof=1).covariance.item() == 2.0


def test_half_precision_features_are_summed_in_float64():
    a = np.full((5000, 2), 300.0, dtype=np.float16)
    a[::2] += 1
    assert frechet_distance(a, a.astype(np.float64)) < 1e-9
    assert statistics(a).covariance[0, 0] == pytest.approx(0.25)


@settings(max_examples=40, deadline=None)
@given(seeds, sizes)
def test_it_is_symmetric_and_not_negative(seed, dimensions):
    rng = np.random.default_rng(seed)
    a, b = features(rng, dimensions), features(rng, dimensions)
    there, back = frechet_distance(a, b), frechet_distance(b, a)
    assert there >= 0
    assert there == pytest.approx(back, rel=1e-6, abs=1e-9 * (a.var() + b.var()))


@settings(max_examples=40, deadline=None)
@given(seeds, sizes)
def test_a_rotation_of_both_sets_changes_nothing(seed, dimensions):
    rng = np.random.default_rng(seed)
    a, b = features(rng, dimensions), features(rng, dimensions)
    turn, _ = np.linalg.qr(rng.normal(size=(dimensions, dimensions)))
    tolerance = 1e-7 * (np.square(a).mean() + np.square(b).mean()) * dimensions
    assert frechet_distance(a @ turn, b @ turn) == pytest.approx(frechet_distance(a, b), rel=1e-6, abs=tolerance)


def test_fewer_samples_than_dimensions_warns_and_stays_real():
    rng = np.random.default_rng(3)
    with pytest.warns(UserWarning, match="has 4 samples of 30 dimensions"):
        distance = frechet_distance(rng.normal(size=(4, 30)), rng.normal(size=(50, 30)))
    assert isinstance(distance, float)
    assert np.isfinite(distance)


@pytest.mark.filterwarnings("ignore:frechet_distance")
def test_few_samples_close_together_are_measured_as_exactly_as_many():
    """Expected value from the samples: with A = X^T / sqrt(n), the trace is the sum of the singular values of A^T B."""
    rng = np.random.default_rng(0)
    real = rng.standard_normal((7, 300))
    fake = real[:6] + 1e-4 * rng.standard_normal((6, 300))
    (a, b), shift = (
        [(x - x.mean(axis=0)) / np.sqrt(len(x)) for x in (real, fake)],
        real.mean(axis=0) - fake.mean(axis=0),
    )
    cross = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    expected = np.square(shift).sum() + np.square(a).sum() + np.square(b).sum() - 2 * cross
    assert frechet_distance(real, fake) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused_with_its_count(bad):
    fake = np.zeros((9, 2))
    fake[4, 1] = bad
    with pytest.raises(ValueError, match=r"fake must be finite; .* in 1 of 9 samples"):
        frechet_distance(np.zeros((9, 2)), fake)


@pytest.mark.parametrize(
    ("real", "message"),
    [
        (np.zeros((1, 2)), "real must have enough samples; expected at least 2, got 1"),
        (np.zeros((0, 2)), "expected at least 2, got 0"),
        (np.zeros(5), r"real must be a matrix; .* got shape \[5\]"),
        (np.zeros((9, 3)), "fake must have the real features' dimensions; expected 3, got 2"),
    ],
)
def test_unusable_features_are_refused(real, message):
    with pytest.raises(ValueError, match=message):
        frechet_distance(real, np.zeros((9, 2)))


def test_the_docstrings_example_runs():
    assert doctest.testmod(frechet).attempted > 0
    assert doctest.testmod(frechet).failed == 0
