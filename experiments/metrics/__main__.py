"""Metrics of images, videos and trained generators.

    python -m experiments.metrics fid,kid,pr REAL FAKE
    python -m experiments.metrics fvd16 clips.zip runs/stylegan-v/.../network-snapshot-001000.pkl
    python -m experiments.metrics fid REAL --save-stats real.npz
    torchrun --nproc-per-node=8 -m experiments.metrics fid REAL FAKE

REAL and FAKE: a folder or zip of images; of videos (folders of frames, or files) for fvd16 and fvd128; moments saved
before (.npz of this tool or of pytorch-fid, or the statistics that an official codebase cached, .pkl) for Fréchet
distances; for FAKE also a trained generator (.pkl of an official codebase, .pt of experiments/mini). Images of any size
are resized by each metric's own filter, without cropping. What is computed exactly: docs/metrics.md.
"""

from __future__ import annotations

import json
import re
import sys
import warnings
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from experiments.files import UserError, atomic_output
from experiments.metrics import GROUPS, METRICS, weights_of
from experiments.metrics.base import STAND_IN_MARK, How, Metric, is_stand_in

DEFAULT_NIMG, DEFAULT_NCLIPS = 50_000, 2048
NETWORKS = (".pkl", ".pt")


@dataclass
class Job:
    """What the command line asks for."""

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
        """Statistics and facts of REAL or FAKE by tap, for metrics of one network and kind."""
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
        """Images (`frames` 0) or clips of a side that is no file of moments; listed once."""
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
        """Opens both sides for every metric, so that what cannot be is an error before hours of computing."""
        from experiments.metrics.moments import holds_moments

        for frames in dict.fromkeys(metric.features.frames if metric.features else 0 for metric in metrics):
            for role, path in (("real", self.real), ("generated", self.fake)):
                if path is not None and not holds_moments(path):
                    self.samples(role, frames)

    def generated(self, path: Path, frames: int = 0) -> Any:
        """What a trained generator makes."""
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
        """A metric that compares images itself."""
        from experiments.metrics.plain import measure_images

        return measure_images(metric, self.samples("real", 0), self.samples("generated", 0))


def measure_all(job: Job, metrics: list[Metric], save_stats: Path | None = None) -> dict[str, Any]:
    """Name to Measured of each metric, in their order. Each network sees each side once."""
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


def choose(_context: click.Context, _parameter: click.Parameter, text: str) -> list[Metric]:
    names = [name for word in text.split(",") for name in GROUPS.get(word, (word,))]
    for name in names:
        if name not in METRICS:
            raise click.BadParameter(f"must be some of {NAMES}; got {name!r}.")
        if METRICS[name].by_host:
            raise click.BadParameter(f"{name} is computed by the official code: its calc_metrics.py.")
    return [METRICS[name] for name in dict.fromkeys(names)]


def check_sides(metrics: list[Metric], real: Path, fake: Path | None, save_stats: Path | None, ddof: int = 0) -> None:
    """Raises UserError, before anything is computed, for what cannot be."""
    from experiments.metrics.moments import holds_moments

    for path in (real, fake):
        if path is not None and not path.exists():
            raise UserError(f"metrics: REAL and FAKE must exist; got {str(path)!r}. Check the spelling.")
    if real.suffix in NETWORKS and not holds_moments(real):
        raise UserError(f"metrics: REAL must be images, clips or moments; got {str(real)!r}. A network is FAKE.")
    if fake is None and save_stats is None:
        raise UserError("metrics: FAKE must be given; got REAL only. Without it, use --save-stats.")
    if save_stats:
        if save_stats.suffix != ".npz":
            raise UserError(f"metrics: --save-stats must end in .npz; got {str(save_stats)!r}. Correct the name.")
        if holds_moments(real):
            raise UserError(f"metrics: --save-stats must have the images of REAL; got the moments {real}.")
        taps = {(m.features.backbone, m.features.tap) for m in metrics if m.features}
        if len(taps) != 1 or len(metrics) != len([m for m in metrics if m.features]):
            raise UserError(f"metrics: --save-stats must have metrics of one feature; got {len(taps)} features.")
    if fake is None:
        return
    for metric in metrics:
        if metric.compute and ddof:
            raise UserError(f"{metric.name}: --ddof must be 0 for it; got {ddof}. Take it in a command of its own.")
        keeps = metric.compute is not None or (metric.features is not None and metric.features.keep)
        for path in (real, fake):
            if keeps and holds_moments(path):
                raise UserError(f"{metric.name}: must have the images; got the moments {path}. Give the images.")


def check_weights(metrics: list[Metric], real: Path, fake: Path | None, folder: Path | None) -> None:
    """Raises UserError with one list of all weights that are missing, unless both sides are moments: they need none."""
    from experiments.metrics.moments import holds_moments
    from experiments.weights import locate

    if fake is None or not (holds_moments(real) and holds_moments(fake)):
        locate(weights_of(metric.name for metric in metrics), folder)


NAMES = ", ".join([*(name for name, metric in METRICS.items() if not metric.by_host), *GROUPS])


@click.command(
    epilog=f"NAMEs: {NAMES}. What is computed: docs/metrics.md. A pickle runs code of its own when it is opened: only "
    "give networks that you trust."
)
@click.argument("metrics", metavar="NAME[,NAME...]", callback=choose)
@click.argument("real", type=click.Path(path_type=Path))
@click.argument("fake", type=click.Path(path_type=Path), required=False)
@click.option(
    "--nimg", type=click.IntRange(min=2), help=f"Images of FAKE: to generate [{DEFAULT_NIMG}], or at most [all]."
)
@click.option(
    "--real-nimg", type=click.IntRange(min=2), help="At most so many images of REAL, drawn from --seed.  [all]"
)
@click.option("--nclips", type=click.IntRange(min=2), default=DEFAULT_NCLIPS, show_default=True, help="Clips for FVD.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of all that is drawn.")
@click.option("--ddof", type=click.IntRange(0, 1), default=0, show_default=True, help="Covariances are over N - ddof.")
@click.option("--device", help="cpu or cuda.  [default: a GPU where there is one]")
@click.option("--batch", type=click.IntRange(min=1), help="Images at once.  [16 on a CPU, 64 on a GPU; 2 clips]")
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True, help="Threads that decode.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads that compute.  [default: torch's]")
@click.option("--weights", "folder", type=click.Path(path_type=Path), help="Their folder.  [$MTM_WEIGHTS, or weights]")
@click.option("--skip-broken", is_flag=True, help="Leave out images that cannot be read.")
@click.option("--no-cache", is_flag=True, help="Neither read nor keep statistics of REAL.")
@click.option("--save-stats", type=click.Path(path_type=Path), help="Write the moments of REAL to this .npz.")
@click.option("--outdir", type=click.Path(file_okay=False, path_type=Path), help="Write NAME.json for each metric.")
@click.option("--json", "as_json", is_flag=True, help="Print values and fingerprints as JSON.")
@click.option("--host", help="Whose pickle FAKE is, where the file does not tell.")
@click.option("--quiet", is_flag=True, help="No progress.")
def main(
    metrics: list[Metric],
    real: Path,
    fake: Path | None,
    ddof: int,
    seed: int,
    device: str | None,
    batch: int | None,
    threads: int | None,
    folder: Path | None,
    no_cache: bool,
    save_stats: Path | None,
    outdir: Path | None,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Compute metrics of FAKE against REAL: folders or zips, saved moments, or for FAKE a trained generator."""
    import torch

    from experiments.metrics.measure import Measurement
    from experiments.metrics.ranks import joined

    if threads:
        torch.set_num_threads(threads)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise click.BadParameter(f"must be cpu or cuda; got {device!r}.", param_hint="--device")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise click.BadParameter(f"must be there; got {device!r}, and torch sees no GPU.", param_hint="--device")
    try:
        check_sides(metrics, real, fake, save_stats, ddof)
        check_weights(metrics, real, fake, folder)
        with ExitStack() as opened, warnings.catch_warnings(record=True) as notes:
            warnings.filterwarnings("always", category=UserWarning, module=r"experiments\.")
            ranks, device = opened.enter_context(joined(device))
            measurement = Measurement(How(ddof, seed), folder, device, batch, not no_cache, not quiet, ranks)
            job = Job(real, fake, measurement=measurement, snapshots=opened, **options)
            measured = measure_all(job, metrics, save_stats)
        if not ranks.first:
            return
        for note in dict.fromkeys(str(note.message) for note in notes if issubclass(note.category, UserWarning)):
            click.echo(f"note: {note}", err=True)
        show(measured, as_json)
        if outdir:
            write(measured, outdir)
    except UserError as error:
        raise click.ClickException(str(error)) from None


def write(measured: dict[str, Any], outdir: Path) -> None:
    """NAME.json of each: {"value", "fingerprint"}."""
    for name, one in measured.items():
        with atomic_output(outdir / f"{name}.json") as partial:
            partial.write_text(json.dumps(one.model_dump(), indent=2) + "\n", encoding="utf-8")


def show(measured: dict[str, Any], as_json: bool) -> None:
    """Prints the values; those of stand-in weights say so."""
    if as_json:
        click.echo(json.dumps({name: one.model_dump() for name, one in measured.items()}, indent=2))
        return
    for name, one in measured.items():
        label = STAND_IN_MARK if is_stand_in(one.fingerprint) else ""
        click.echo(f"{METRICS[name].title}: {_text(one.value)}{label}")


def _text(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.6g}"


if __name__ == "__main__":
    sys.exit(main())
