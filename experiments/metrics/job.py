"""The job of a command line: opens its two sides once and computes all metrics of them."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from experiments.metrics.base import Metric

DEFAULT_NIMG, DEFAULT_NCLIPS = 50_000, 2048
NETWORKS = (".pkl", ".pt")


@dataclass
class Job:
    """The arguments of the command line."""

    real: Path
    fake: Path | None
    nimg: int | None
    real_nimg: int | None
    nclips: int
    workers: int
    skip_broken: bool
    host: str | None
    measurement: Any
    snapshots: ExitStack
    _opened: dict[Path, Any] = field(default_factory=dict)
    _samples: dict[tuple[str, int], Any] = field(default_factory=dict)

    @property
    def seed(self) -> int:
        return self.measurement.how.seed

    def side(self, role: str, metrics: list[Metric]) -> dict[str, Any]:
        """Statistics and facts of REAL or FAKE by tap, for metrics that use the same network and kind of sample."""
        from experiments.metrics.measure import from_moments
        from experiments.metrics.moments import holds_moments, load_moments

        path = self.real if role == "real" else self.fake
        assert path is not None
        if holds_moments(path):
            features = [(metric.features.tap, metric.name) for metric in metrics if metric.features]
            return {tap: from_moments(load_moments(path, name), role) for tap, name in features}
        frames = metrics[0].features.frames if metrics[0].features else 0
        samples = self.samples(role, frames)
        return self.measurement.take(samples, [metric.features for metric in metrics])

    def samples(self, role: str, frames: int) -> Any:
        """Images (`frames` 0) or clips of a side that is not a file of moments. They are listed only once."""
        if (role, frames) not in self._samples:
            self._samples[role, frames] = self._open(role, frames)
        return self._samples[role, frames]

    def _open(self, role: str, frames: int) -> Any:
        from experiments.metrics.clips import Clips
        from experiments.metrics.sources import ImageFiles

        path = self.real if role == "real" else self.fake
        assert path is not None
        if role == "generated" and path.suffix in NETWORKS:
            return self.generated(path, frames)
        if frames:
            return Clips(path, role, frames, self.nclips, self.seed, self.workers, first=role == "generated")
        nimg = self.real_nimg if role == "real" else self.nimg
        return ImageFiles(path, role, nimg, self.seed, self.workers, self.skip_broken)

    def open_all(self, metrics: list[Metric]) -> None:
        """Opens both sides for every metric, so that errors are raised before hours of computation."""
        from experiments.metrics.moments import holds_moments

        for frames in dict.fromkeys(metric.features.frames if metric.features else 0 for metric in metrics):
            for role, path in (("real", self.real), ("generated", self.fake)):
                if path is not None and not holds_moments(path):
                    self.samples(role, frames)

    def generated(self, path: Path, frames: int = 0) -> Any:
        """The samples of a trained generator."""
        from experiments.datasets.images import open_source
        from experiments.metrics.generated import Generated
        from experiments.metrics.moments import holds_moments
        from experiments.snapshots import TRUST, open_snapshot

        if path not in self._opened:
            if path.suffix == ".pkl":
                click.echo(TRUST, err=True)
            opened = open_snapshot(path, self.measurement.device, self.host)
            self._opened[path] = self.snapshots.enter_context(opened)
        count = self.nclips if frames else self.nimg or DEFAULT_NIMG
        snapshot = self._opened[path]
        real = None
        if snapshot.facts.c_dim and not holds_moments(self.real):
            real = open_source(self.real)
        return Generated(snapshot, count, self.seed, real, frames)

    def of_images(self, metric: Metric) -> Any:
        """The value of a metric that compares images itself."""
        from experiments.metrics.plain import measure_images

        return measure_images(metric, self.samples("real", 0), self.samples("generated", 0))


def measure_all(job: Job, metrics: list[Metric], save_stats: Path | None = None) -> dict[str, Any]:
    """The Measured of each metric by name, in the order of `metrics`. Each network processes each side once."""
    from experiments.metrics.moments import save_moments

    job.open_all(metrics)
    groups: dict[tuple[str, int], list[Metric]] = {}
    for metric in metrics:
        if metric.features:
            groups.setdefault((metric.features.backbone, metric.features.frames), []).append(metric)
    first = job.measurement.ranks.first
    measured = {metric.name: job.of_images(metric) for metric in metrics if metric.compute and first}
    for group in groups.values():
        real = job.side("real", group)
        if save_stats and first:
            features = group[0].features
            assert features
            stats, facts = real[features.tap]
            own = job.measurement.extractor(features.backbone).fingerprint(features.tap)
            own |= {"frames": features.frames} if features.frames else {}
            save_moments(save_stats, stats, job.measurement.how.ddof, own | facts)
        if job.fake is None:
            continue
        generated = job.side("generated", group)
        for metric in group if first else []:
            assert metric.features
            tap = metric.features.tap
            measured[metric.name] = job.measurement.compare(metric, real[tap], generated[tap])
    return {metric.name: measured[metric.name] for metric in metrics if metric.name in measured}
