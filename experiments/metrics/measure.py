"""Computes the features of both sides, running each network once for all metrics that need it, and compares them."""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from experiments.files import UserError
from experiments.metrics.base import Features, How, Metric
from experiments.metrics.cache import Entry
from experiments.metrics.extractors import FIELDS, Extractor, build_extractor, extractor_class
from experiments.metrics.features import FeatureStats
from experiments.metrics.moments import Moments
from experiments.metrics.ranks import Ranks
from experiments.metrics.sources import FileSamples, Samples
from experiments.trainers.contract import Measured

BATCH = {"cpu": 16, "cuda": 64}
BATCH_CLIPS = 2

Taken = tuple[FeatureStats | Moments, dict[str, Any]]


@dataclass
class Measurement:
    """Settings for computing features. `folder`: of the weights; `cached`: whether to cache statistics of real data
    (cache.py). With several `ranks`, each processes a share of the samples, and all get the statistics of all."""

    how: How = field(default_factory=How)
    folder: Path | None = None
    device: str = "cpu"
    batch: int | None = None
    cached: bool = True
    progress: bool = True
    ranks: Ranks = field(default_factory=Ranks)
    _extractors: dict[str, Extractor] = field(default_factory=dict)

    def extractor(self, backbone: str) -> Extractor:
        """The extractor, built at first use. Raises UserError if its weights are missing."""
        if backbone not in self._extractors:
            self._extractors[backbone] = build_extractor(backbone, self.folder, self.device)
        return self._extractors[backbone]

    def take(self, samples: Samples, wanted: Iterable[Features]) -> dict[str, Taken]:
        """Statistics and facts of `samples` for each tap in `wanted`, which must have one backbone. From the cache, or
        computed in one pass."""
        wanted = list(wanted)
        keep = {f.tap: any(g.keep for g in wanted if g.tap == f.tap) for f in wanted}
        extractor = self.extractor(wanted[0].backbone)
        entries = self._entries(samples, extractor, keep)
        found: dict[str, Taken] = {tap: kept for tap, entry in entries.items() if (kept := entry.load())}
        found = {tap: found.get(tap) for tap in entries if self.ranks.all(tap in found)}  # type: ignore[misc]
        missing = {tap: keep[tap] for tap in keep if tap not in found}
        if missing:
            stats = self._extract(samples, extractor, missing)
            facts = samples.facts() | {f"{samples.role}_n{samples.unit}": next(iter(stats.values())).n}
            for tap, taken in stats.items():
                found[tap] = taken, facts
                if tap in entries and self.ranks.first:
                    entries[tap].save(taken, facts)
        return found

    def _entries(self, samples: Samples, extractor: Extractor, keep: dict[str, bool]) -> dict[str, Entry]:
        if not (self.cached and samples.role == "real" and isinstance(samples, FileSamples)):
            return {}
        identity = samples.identity()
        return {
            tap: Entry(
                samples.path,
                {
                    "about": [extractor.backbone, tap, kept, samples.unit, identity.get("frames", 0)],
                    "samples": identity,
                    "xflip": False,
                    "features": extractor.fingerprint(tap),
                },
            )
            for tap, kept in keep.items()
        }

    def _extract(self, samples: Samples, extractor: Extractor, keep: dict[str, bool]) -> dict[str, FeatureStats]:
        stats = {tap: FeatureStats(extractor.taps[tap], kept) for tap, kept in keep.items()}
        size = self.batch or (BATCH_CLIPS if extractor.ndim == 5 else BATCH.get(self.device.split(":")[0], 16))
        begun = time.monotonic()
        told = self.progress and self.ranks.first
        label = f"{samples.role}, {extractor.backbone.split(' (')[0]}"
        with tqdm(total=len(samples), desc=label, unit=samples.unit, disable=not told) as bar:
            for batch in samples.share(size, self.ranks.rank, self.ranks.count):
                for tap, features in extractor(batch, keep).items():
                    _append(stats[tap], features, samples.role)
                bar.update(min(len(batch) * self.ranks.count, len(samples) - bar.n))
        stats = {tap: one.gather(self.ranks.device) for tap, one in stats.items()}
        if told:
            count, took_s = next(iter(stats.values())).n, time.monotonic() - begun
            speed = f"{count / took_s:.2f} {samples.unit}/s"
            print(f"{samples.role}: {count} {samples.unit} in {took_s:.1f} s, {speed}", file=sys.stderr)
        return stats

    def compare(self, metric: Metric, real: Taken, generated: Taken) -> Measured:
        """The metric's value (None if it is not finite) with its fingerprint. Raises UserError if the features do not
        fit, or if the metric needs images but has moments."""
        assert metric.features
        assert metric.compare
        expected = extractor_class(metric.features.backbone).taps[metric.features.tap]
        own = self._made_by(metric.features, real[0], generated[0])
        for one, role in ((real[0], "real"), (generated[0], "generated")):
            if one.dimensions != expected:
                raise UserError(
                    f"{metric.name}: {role} moments must be of {expected} dimensions; got {one.dimensions}. Give those "
                    "of the same features."
                )
            if isinstance(one, Moments):
                _check_made_alike(metric, role, one, own)
        _note_sizes(real[1], generated[1])
        value, facts = metric.compare(real[0], generated[0], self.how)
        fingerprint = {"metric": metric.name, **own, **real[1], **generated[1], **facts}
        return Measured(value=value if math.isfinite(value) else None, fingerprint=fingerprint)

    def _made_by(self, features: Features, *sides: FeatureStats | Moments) -> dict[str, Any]:
        """The extractor's part of the fingerprint: from the extractor in use, or as recorded in files of moments."""
        if any(isinstance(one, FeatureStats) for one in sides):
            return self.extractor(features.backbone).fingerprint(features.tap)
        told = [one.fingerprint for one in sides if isinstance(one, Moments) and one.fingerprint]
        return {name: told[0][name] for name in FIELDS if name in told[0]} if told else {}


def _note_sizes(real: dict[str, Any], generated: dict[str, Any]) -> None:
    sizes = real.get("real_px"), generated.get("generated_px")
    if None not in sizes and sizes[0] != sizes[1]:
        warnings.warn(
            f"real images have {sizes[0]} px and generated ones {sizes[1]}: resizing affects them differently, and "
            "the value includes that. Compare images of one size if you can.",
            stacklevel=3,
        )


def _append(stats: FeatureStats, features: Any, role: str) -> None:
    try:
        stats.append(features)
    except ValueError as error:
        raise UserError(f"metrics: {role}: {error}") from error


def _check_made_alike(metric: Metric, role: str, moments: Moments, own: dict[str, Any]) -> None:
    """Raises UserError if saved moments were made with other weights, features or resizing, as far as they record
    it."""
    frames = {"frames": metric.features.frames} if metric.features and metric.features.frames else {}
    for name, ours in {**own, **frames}.items():
        theirs = moments.fingerprint.get(name)
        if theirs is not None and ours != theirs:
            raise UserError(
                f"{metric.name}: {role} moments must be of {name} {ours}; got {theirs}. Make them anew: --save-stats."
            )


def from_moments(moments: Moments, role: str) -> Taken:
    """A file's moments as one side of a comparison, with the facts about the samples that the file records."""
    told = moments.fingerprint
    facts = {f"{role}_{name.removeprefix('real_')}": told[name] for name in told if name.startswith("real_")}
    if role == "real":
        facts |= {name: told[name] for name in ("data_sha256", "clips_sha256", "clip_seed") if name in told}
    if moments.n is not None and f"{role}_nclip" not in facts:
        facts[f"{role}_nimg"] = moments.n
    if moments.ddof is None:
        facts[f"{role}_ddof"] = "as the file has it"
    return moments, facts
