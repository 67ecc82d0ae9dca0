"""The runs of results.json by row and seed, and the pairs of runs for a comparison."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.metrics import METRICS
from experiments.study import TABLES
from experiments.study.claims import CLAIMS, Claim, Comparison
from experiments.study.statistics import Summary, holm, joint_verdict, summarise, verdict
from experiments.table import load_table


@dataclass(frozen=True)
class Pairs:
    """The values of the seeds that both rows have, and the gains, in the unit of the comparison's `least`."""

    comparison: Comparison
    seeds: tuple[int, ...]
    row: tuple[float, ...]
    baseline: tuple[float, ...]
    at_kimg: float | None = None  # kimg of the row's values, for a comparison at equal time

    @property
    def gains(self) -> tuple[float, ...]:
        sign = -1 if METRICS[self.comparison.metric].lower_is_better else 1
        pairs = zip(self.row, self.baseline, strict=True)
        return tuple(sign * (a - b) / (b if self.comparison.relative else 1) for a, b in pairs)


class Study:
    """The runs of results.json by row and seed: those that are done and have the current options of the tables."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.content = content
        self.planned = {row.id: row for name in TABLES for row in load_table(name, content["preset"] or "full").rows}
        self.rows: dict[str, dict[int, dict[str, Any]]] = {}
        for run in content["runs"]:
            if run["status"] == "done" and self.is_planned(run):
                self.rows.setdefault(run["row"], {}).setdefault(run["seed"], run)

    def is_planned(self, run: dict[str, Any]) -> bool:
        """Whether the tables have this run. A run with other options stays in the file, but is not compared."""
        row = self.planned.get(run["row"])
        return row is not None and run["options"] == row.options and run["seed"] in row.seeds

    def value(self, run: dict[str, Any], metric: str, kimg: float | None = None) -> float | None:
        """A metric of the final generator, or of the one that was kept at `kimg`."""
        return self.measured(run, metric, kimg)[0]

    def measured(self, run: dict[str, Any], metric: str, kimg: float | None = None) -> tuple[float | None, str]:
        """`value`, and the hash of its fingerprint."""
        found = run["metrics"] if kimg is None or kimg == run["kimg"] else run["kept"].get(f"{kimg:g}", {})
        value, fingerprint = found.get(metric, (None, ""))
        return value, fingerprint

    def cpu_s(self, run: dict[str, Any]) -> float:
        """Processor time of the whole training, seconds."""
        return run["times"][max(run["times"], key=float)][1]  # keys in the file are in alphabetical order

    def has_time(self, run: dict[str, Any]) -> bool:
        """Whether the run's times reach to its end; a copied run may lack some or all of them."""
        return max(map(float, run["times"]), default=-1.0) >= math.floor(run["kimg"])

    def time_ratio(self, row: str, baseline: str) -> float | None:
        """Processor time per kimg relative to the baseline's: the median over the seeds that both have."""
        both = self._both(row, baseline)
        ratios = [
            self.cpu_s(a) / a["kimg"] / (self.cpu_s(b) / b["kimg"])
            for a, b in both.values()
            if self.has_time(a) and self.has_time(b)
        ]
        return float(np.median(ratios)) if ratios else None

    def _both(self, row: str, baseline: str) -> dict[int, tuple[dict[str, Any], dict[str, Any]]]:
        first, second = self.rows.get(row, {}), self.rows.get(baseline, {})
        return {seed: (first[seed], second[seed]) for seed in sorted(first.keys() & second.keys())}

    def at_equal_time(self, row: str, baseline: str) -> float | None:
        """The last kimg at which a generator of the row was kept after no more time than the baseline's whole run."""
        ratio, both = self.time_ratio(row, baseline), self._both(row, baseline)
        if ratio is None:
            return None
        run, other = next(iter(both.values()))
        allowed = other["kimg"] / ratio
        found = [kimg for kimg in [*map(float, run["kept"]), float(run["kimg"])] if kimg <= allowed]
        return max(found, default=None)

    def pairs(self, comparison: Comparison) -> Pairs:
        """Values of the seeds that both rows have, except those whose fingerprints differ."""
        at = self.at_equal_time(comparison.row, comparison.baseline) if comparison.equal_time else None
        found = []
        for seed, (a, b) in self._both(comparison.row, comparison.baseline).items():
            if comparison.equal_time and at is None:
                continue
            both = self.measured(a, comparison.metric, at), self.measured(b, comparison.metric)
            values, fingerprints = zip(*both, strict=True)
            if None not in values and len(set(fingerprints)) == 1:
                found.append((seed, *values))
        seeds, row, baseline = zip(*found, strict=True) if found else ((), (), ())
        return Pairs(comparison, seeds, row, baseline, at)


@dataclass(frozen=True)
class Compared:
    """A comparison with its result. `p` is corrected within the claim's family, except for exploratory claims."""

    claim: Claim
    pairs: Pairs
    summary: Summary
    p: float | None
    verdict: str


def compare_all(study: Study) -> list[Compared]:
    """Every comparison of every claim, in order. The correction counts all comparisons of a family, including those
    that have not been run, so that results do not look more significant while others are missing."""
    found = []
    for family in dict.fromkeys(claim.family for claim in CLAIMS):
        claims = [claim for claim in CLAIMS if claim.family == family]
        asked = [(claim, comparison) for claim in claims for comparison in claim.comparisons]
        pairs = [study.pairs(comparison) for _, comparison in asked]
        summaries = [summarise(one.gains) for one in pairs]
        known = [one.p_t for one in summaries]
        corrected = known if family == "exploratory" else holm(known, len(asked))
        for (claim, comparison), pair, summary, p in zip(asked, pairs, summaries, corrected, strict=True):
            found.append(Compared(claim, pair, summary, p, verdict(summary, comparison.least, p)))
    return found


def claim_verdicts(compared: list[Compared]) -> dict[str, str]:
    """The verdict on each claim, by the claim's id."""
    return {
        claim.id: joint_verdict([one.verdict for one in compared if one.claim.id == claim.id])
        for claim in dict.fromkeys(one.claim for one in compared)
    }
