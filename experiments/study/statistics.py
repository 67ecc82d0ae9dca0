"""Paired comparisons of a few seeds, and the study's rule for a verdict (docs/study.md).

A gain is positive if the row is better than its baseline. For n pairs this module gives the gains' mean, standard
deviation (divided by n - 1), 95 % interval and p of Student's paired t test, and the p of the exact sign-flip
permutation test. The smallest p of the latter is 2 / 2^n, which is 0.0625 for 5 pairs and so never below 0.05. That is
why the t test decides, and the permutation test is only shown beside it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.05
UPHELD, REFUTED, UNDECIDED, NOT_RUN = "upheld", "refuted", "undecided", "not run"


@dataclass(frozen=True)
class Summary:
    """Statistics of gains; None if there are too few gains."""

    n: int
    mean: float | None = None
    sd: float | None = None
    low: float | None = None
    high: float | None = None
    p_t: float | None = None
    p_flip: float | None = None


def summarise(gains: Sequence[float]) -> Summary:
    """The Summary of `gains`. Raises no error: a single gain has a mean only."""
    n = len(gains)
    if n == 0:
        return Summary(0)
    mean = float(np.mean(gains))
    if n == 1:
        return Summary(1, mean)
    from scipy import stats

    sd = float(np.std(gains, ddof=1))
    if sd == 0:
        return Summary(n, mean, 0.0, mean, mean, 1.0 if mean == 0 else 0.0, flip_p(gains))
    reach = float(stats.t.ppf(1 - LEVEL / 2, n - 1)) * sd / math.sqrt(n)
    p_t = float(2 * stats.t.sf(abs(mean) / (sd / math.sqrt(n)), n - 1))
    return Summary(n, mean, sd, mean - reach, mean + reach, p_t, flip_p(gains))


def flip_p(gains: Sequence[float]) -> float:
    """The exact p: the share of the 2^n sign combinations of these gains whose mean is at least as far from 0.

    >>> flip_p([1.0, 2.0, 3.0])
    0.25
    """
    observed = abs(sum(gains)) * (1 - 1e-12)
    signs = itertools.product((1, -1), repeat=len(gains))
    totals = [abs(sum(sign * gain for sign, gain in zip(some, gains, strict=True))) for some in signs]
    return sum(total >= observed for total in totals) / len(totals)


def holm(p_values: Sequence[float | None], count: int = 0) -> list[float | None]:
    """Holm's correction for `count` tests, or if `count` is 0, for those that are done. A p of None is a test that has
    not been done.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest, count = 0.0, max(count, len(known))
    for rank, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, p * (count - rank)))
        corrected[i] = round(largest, 12)
    return corrected


def verdict(summary: Summary, least: float, p_corrected: float | None) -> str:
    """Upheld: a gain whose corrected p is below 0.05. Refuted: a loss whose uncorrected p is below 0.05, or an interval
    below `least`. Otherwise undecided."""
    if summary.n == 0:
        return NOT_RUN
    if summary.mean is None or summary.high is None or p_corrected is None or summary.p_t is None:
        return UNDECIDED
    if summary.mean > 0 and p_corrected < LEVEL:
        return UPHELD
    if (summary.mean < 0 and summary.p_t < LEVEL) or summary.high < least:
        return REFUTED
    return UNDECIDED


def welch(first: Sequence[float], second: Sequence[float]) -> Summary:
    """The difference of two means of unpaired samples: mean, interval and p of Welch's t test."""
    n = min(len(first), len(second))
    if n == 0:
        return Summary(0)
    mean = float(np.mean(first) - np.mean(second))
    if n == 1:
        return Summary(1, mean)
    from scipy import stats

    variances = [float(np.var(x, ddof=1)) / len(x) for x in (first, second)]
    error = math.sqrt(sum(variances))
    if error == 0:
        return Summary(n, mean)
    freedom = error**4 / sum(v**2 / (len(x) - 1) for v, x in zip(variances, (first, second), strict=True))
    reach = float(stats.t.ppf(1 - LEVEL / 2, freedom)) * error
    return Summary(n, mean, None, mean - reach, mean + reach, float(2 * stats.t.sf(abs(mean) / error, freedom)))


def joint_verdict(verdicts: Sequence[str]) -> str:
    """The verdict on a claim with several comparisons: upheld if one is upheld and none refuted; refuted if one is
    refuted and none upheld; not run if none is run; else undecided."""
    if all(one == NOT_RUN for one in verdicts):
        return NOT_RUN
    if UPHELD in verdicts and REFUTED not in verdicts:
        return UPHELD
    return REFUTED if REFUTED in verdicts and UPHELD not in verdicts else UNDECIDED
