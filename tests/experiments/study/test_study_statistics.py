"""The study's statistics against closed forms and scipy, and its rule for a verdict."""

import itertools

import numpy as np
import pytest
from scipy import stats
from study_lab import run, study

from experiments.study.claims import CLAIMS, CONTRAST, Comparison
from experiments.study.compare import claim_verdicts, compare_all
from experiments.study.run import chosen
from experiments.study.statistics import (
    NOT_RUN,
    REFUTED,
    UNDECIDED,
    UPHELD,
    Summary,
    flip_p,
    holm,
    joint_verdict,
    summarise,
    verdict,
    welch,
)
from experiments.table import load_table

GAINS = [0.04, 0.07, 0.02, 0.05, 0.06]


def test_a_summary_is_students_of_the_pairs():
    found = summarise(GAINS)
    expected = stats.ttest_1samp(GAINS, 0)
    interval = expected.confidence_interval()
    assert found.n == 5
    assert found.p_t == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_sign_flips_are_all_counted():
    rng = np.random.default_rng(0)
    for n in (2, 5, 7):
        gains = rng.standard_normal(n)
        means = [abs(np.mean(np.array(signs) * gains)) for signs in itertools.product((-1, 1), repeat=n)]
        assert flip_p(gains) == pytest.approx(np.mean(np.array(means) >= abs(gains.mean()) - 1e-12))
    assert flip_p(GAINS) == 2 / 2**5  # the smallest p that five pairs can give


def test_holm_is_the_step_down_correction_and_counts_what_is_not_run():
    assert holm([0.01, 0.04, 0.03]) == [0.03, 0.06, 0.06]
    assert holm([0.01, None, 0.03]) == [0.02, None, 0.03]
    assert holm([0.01, None, 0.03], count=3) == [0.03, None, 0.06]
    assert holm([0.9, 0.8]) == [1.0, 1.0]


@pytest.mark.parametrize(
    ("gains", "p", "expected"),
    [
        ([], None, NOT_RUN),
        ([0.2], None, UNDECIDED),
        (GAINS, 0.01, UPHELD),
        (GAINS, 0.2, UNDECIDED),  # not significant after the correction
        ([-g for g in GAINS], 0.01, REFUTED),
        ([0.001, -0.001, 0.002, 0.0, -0.002], 0.9, REFUTED),  # precise, and rules out a gain of 0.03
        ([0.2, -0.15, 0.1, 0.3, -0.2], 0.6, UNDECIDED),
    ],
)
def test_the_rule_for_a_verdict(gains, p, expected):
    assert verdict(summarise(gains), 0.03, p) == expected


def test_a_claim_of_two_comparisons_needs_one_and_none_against_it():
    assert joint_verdict([UPHELD, UNDECIDED]) == UPHELD
    assert joint_verdict([UPHELD, REFUTED]) == UNDECIDED
    assert joint_verdict([REFUTED, UNDECIDED]) == REFUTED
    assert joint_verdict([NOT_RUN, NOT_RUN]) == NOT_RUN


def test_equal_gains_have_no_spread_and_one_gain_no_test():
    assert summarise([0.1, 0.1]) == Summary(
        2, pytest.approx(0.1), 0.0, pytest.approx(0.1), pytest.approx(0.1), 0.0, 0.5
    )
    assert summarise([0.3]) == Summary(1, 0.3)


def test_welch_is_scipys():
    rng = np.random.default_rng(1)
    first, second = rng.normal(0.2, 0.1, 5), rng.normal(0.0, 0.3, 5)
    expected = stats.ttest_ind(first, second, equal_var=False)
    interval = expected.confidence_interval()
    found = welch(first, second)
    assert (found.p_t, found.low, found.high) == pytest.approx((expected.pvalue, interval.low, interval.high))


def test_runs_are_paired_by_seed_and_unfinished_ones_left_out():
    failed = run("people-low", 2, 0.9) | {"status": "failed"}
    rows = study(*[run("people-plain", s, 0.5) for s in (0, 1, 2)], run("people-low", 1, 0.6), failed)
    pairs = rows.pairs(Comparison("people-low", "people-plain", "person_rate", 0.03, relative=False))
    assert pairs.seeds == (1,)
    assert pairs.gains == (pytest.approx(0.1),)
    lower = rows.pairs(Comparison("people-low", "people-plain", "joint_distance", 0.05))
    assert lower.gains == (pytest.approx(0.2),)  # from 5 to 4: a fifth of the baseline, and lower is better


def test_a_run_of_other_options_is_kept_and_not_compared():
    other = run("people-low", 0, 0.9)
    other |= {"options": other["options"] | {"r1-gamma": 10}, "identity": "00000000"}
    rows = study(other, run("people-plain", 0, 0.5), run("people-low", 0, 0.6))
    assert rows.pairs(Comparison("people-low", "people-plain", "person_rate", 0.03)).row == (0.6,)
    assert len(rows.content["runs"]) == 3


def test_values_taken_in_different_ways_are_not_compared():
    rows = study(run("people-plain", 0, 0.5), run("people-low", 0, 0.6, print_="b"))
    assert rows.pairs(Comparison("people-low", "people-plain", "person_rate", 0.03)).seeds == ()


def test_at_equal_time_the_row_is_taken_where_it_had_the_baselines_time():
    comparison = Comparison("people-low", "people-plain", "person_rate", 0.03, relative=False, equal_time=True)
    kept = {"10": 0.1, "30": 0.3, "35": 0.55}
    rows = study(run("people-plain", 0, 0.5, 400), run("people-low", 0, 0.6, 450, kept))
    assert rows.time_ratio("people-low", "people-plain") == pytest.approx(1.125)
    assert rows.pairs(comparison).at_kimg == 35  # 40 / 1.125 = 35.6
    assert rows.pairs(comparison).gains == (pytest.approx(0.05),)
    slower = study(run("people-plain", 0, 0.5, 400), run("people-low", 0, 0.6, 480, kept))
    assert slower.pairs(comparison).at_kimg == 30
    assert slower.pairs(comparison).gains == (pytest.approx(-0.2),)


def test_a_generator_on_the_way_that_was_measured_differently_is_not_compared():
    comparison = Comparison("people-low", "people-plain", "person_rate", 0.03, relative=False, equal_time=True)
    low = run("people-low", 0, 0.6, 450, {"35": 0.55})
    assert study(run("people-plain", 0, 0.5, 400), low).pairs(comparison).seeds == (0,)
    low["kept"]["35"]["person_rate"][1] = "b"
    assert study(run("people-plain", 0, 0.5, 400), low).pairs(comparison).seeds == ()


def test_a_run_whose_times_stop_early_decides_no_equal_time():
    low = [run("people-low", seed, 0.6, 450) for seed in (0, 1, 2)]
    for one in low[1:]:
        one["times"] = {"9": [30.0, 20.0]}  # an incomplete copy
    rows = study(*[run("people-plain", seed, 0.5, 400) for seed in (0, 1, 2)], *low)
    assert rows.time_ratio("people-low", "people-plain") == pytest.approx(1.125)


def test_a_clear_gain_on_people_is_upheld_and_the_rest_is_not_run():
    runs = [run("people-plain", s, 0.5 + 0.01 * s) for s in range(5)]
    runs += [run("people-low", s, 0.62 + 0.012 * s) for s in range(5)]
    found = claim_verdicts(compare_all(study(*runs)))
    assert found["people"] == UPHELD
    assert found["openmoji"] == NOT_RUN
    assert claim_verdicts(compare_all(study()))["people"] == NOT_RUN


def test_every_row_that_is_compared_is_a_row_of_a_table_and_takes_the_metric():
    rows = {row.id: row for name in chosen(()) for row in load_table(name).rows}
    compared = [comparison for claim in CLAIMS for comparison in claim.comparisons] + list(CONTRAST)
    for comparison in compared:
        for name in (comparison.row, comparison.baseline):
            assert comparison.metric in rows[name].metrics, (comparison, name)
        least = 2 if comparison.row == "official-low" else 3
        assert len(set(rows[comparison.row].seeds) & set(rows[comparison.baseline].seeds)) >= least
    for comparison in [one for one in compared if one.equal_time]:
        assert rows[comparison.row].options["keep-kimg"].endswith("32,34,36")


def test_rows_that_are_compared_differ_in_what_the_comparison_is_about_alone():
    rows = {row.id: row for name in chosen(()) for row in load_table(name).rows}
    known = {"mtm", "mtm-sees", "mtm-head", "mtm-start-kimg", "g-channels", "keep-kimg"}
    for comparison in [comparison for claim in CLAIMS for comparison in claim.comparisons]:
        a, b = rows[comparison.row], rows[comparison.baseline]
        assert {k for k in a.options.keys() | b.options.keys() if a.options.get(k) != b.options.get(k)} <= known
        assert a.dataset == b.dataset
