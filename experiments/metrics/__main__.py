"""Computes metrics of images, videos and trained generators.

    python -m experiments.metrics fid,kid,pr REAL FAKE
    python -m experiments.metrics fvd16 clips.zip runs/stylegan-v/.../network-snapshot-001000.pkl
    python -m experiments.metrics fid REAL --save-stats real.npz
    torchrun --nproc-per-node=8 -m experiments.metrics fid REAL FAKE

REAL and FAKE are each a folder or zip of images, or, for fvd16 and fvd128, of videos (folders of frames, or video
files). For Fréchet distances they may be saved moments: an .npz of this tool or of pytorch-fid, or the .pkl of
statistics that an official codebase cached. FAKE may be a trained generator (.pkl of an official codebase, .pt of
experiments/mini). Images of any size are resized by each metric's own filter, without cropping. docs/metrics.md says
exactly what is computed.
"""

from __future__ import annotations

import json
import re
import sys
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from experiments.files import UserError, atomic_output
from experiments.metrics import GROUPS, METRICS, weights_of
from experiments.metrics.base import STAND_IN_MARK, How, Metric, is_stand_in
from experiments.metrics.job import DEFAULT_NCLIPS, DEFAULT_NIMG, NETWORKS, Job, measure_all


def choose(_context: click.Context, _parameter: click.Parameter, text: str) -> list[Metric]:
    names = [name for word in text.split(",") for name in GROUPS.get(word, (word,))]
    for name in names:
        if name not in METRICS:
            raise click.BadParameter(f"must be some of {NAMES}; got {name!r}.")
        if METRICS[name].by_host:
            raise click.BadParameter(f"{name} is computed by the official code: its calc_metrics.py.")
    return [METRICS[name] for name in dict.fromkeys(names)]


def check_sides(metrics: list[Metric], real: Path, fake: Path | None, save_stats: Path | None, ddof: int = 0) -> None:
    """Raises UserError, before anything is computed, for combinations of arguments that are impossible."""
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
            raise UserError(f"{metric.name}: --ddof must be 0 for it; got {ddof}. Compute it in a separate command.")
        keeps = metric.compute is not None or (metric.features is not None and metric.features.keep)
        for path in (real, fake):
            if keeps and holds_moments(path):
                raise UserError(f"{metric.name}: must have the images; got the moments {path}. Give the images.")


def check_weights(metrics: list[Metric], real: Path, fake: Path | None, folder: Path | None) -> None:
    """Raises UserError with a list of all missing weights. If both sides are moments, none are needed."""
    from experiments.metrics.moments import holds_moments
    from experiments.weights import locate

    if fake is None or not (holds_moments(real) and holds_moments(fake)):
        locate(weights_of(metric.name for metric in metrics), folder)


NAMES = ", ".join([*(name for name, metric in METRICS.items() if not metric.by_host), *GROUPS])


@click.command(
    epilog=f"NAMEs: {NAMES}. What is computed: docs/metrics.md. Opening a pickle runs the code in it: only give "
    "networks that you trust."
)
@click.argument("metrics", metavar="NAME[,NAME...]", callback=choose)
@click.argument("real", type=click.Path(path_type=Path))
@click.argument("fake", type=click.Path(path_type=Path), required=False)
@click.option(
    "--nimg",
    type=click.IntRange(min=2),
    help=f"Number of images if FAKE is a network [{DEFAULT_NIMG}]; at most this many of its files otherwise [all].",
)
@click.option(
    "--real-nimg", type=click.IntRange(min=2), help="At most this many images of REAL, drawn at random.  [all]"
)
@click.option(
    "--nclips", type=click.IntRange(min=2), default=DEFAULT_NCLIPS, show_default=True, help="Number of clips for FVD."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of all random choices.")
@click.option("--ddof", type=click.IntRange(0, 1), default=0, show_default=True, help="Divide covariances by N - ddof.")
@click.option("--device", help="cpu or cuda.  [default: a GPU if there is one]")
@click.option("--batch", type=click.IntRange(min=1), help="Batch size.  [16 on a CPU, 64 on a GPU; 2 clips]")
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True, help="Threads to decode images.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads to compute with.  [default: torch's]")
@click.option(
    "--weights",
    "folder",
    type=click.Path(path_type=Path),
    help="Folder of the weights.  [default: $MTM_WEIGHTS, or weights]",
)
@click.option("--skip-broken", is_flag=True, help="Leave out images that cannot be read.")
@click.option("--no-cache", is_flag=True, help="Do not use cached statistics of REAL.")
@click.option("--save-stats", type=click.Path(path_type=Path), help="Write the moments of REAL to this .npz.")
@click.option(
    "--outdir", type=click.Path(file_okay=False, path_type=Path), help="Write NAME.json for each metric to this folder."
)
@click.option("--json", "as_json", is_flag=True, help="Print values and fingerprints as JSON.")
@click.option("--host", help="The codebase of FAKE's pickle, if it cannot be told from the file.")
@click.option("--quiet", is_flag=True, help="Do not show progress.")
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
    """Compute metrics of FAKE against REAL. Both are folders or zips of images or videos, or saved moments (.npz); FAKE
    may also be a trained generator."""
    import torch

    from experiments.metrics.measure import Measurement
    from experiments.metrics.ranks import joined

    if threads:
        torch.set_num_threads(threads)
    device = chosen_device(device)
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


def chosen_device(name: str | None) -> str:
    """The device of that name; if None, a GPU if there is one. Raises click.BadParameter."""
    import torch

    there = torch.cuda.is_available()
    if name is None:
        return "cuda" if there else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise click.BadParameter(f"must be cpu or cuda; got {name!r}.", param_hint="--device")
    if name.startswith("cuda") and not there:
        raise click.BadParameter(f"must be available; got {name!r}, but torch sees no GPU.", param_hint="--device")
    return name


def write(measured: dict[str, Any], outdir: Path) -> None:
    """Writes NAME.json for each metric: {"value", "fingerprint"}."""
    for name, one in measured.items():
        with atomic_output(outdir / f"{name}.json") as partial:
            partial.write_text(json.dumps(one.model_dump(), indent=2) + "\n", encoding="utf-8")


def show(measured: dict[str, Any], as_json: bool) -> None:
    """Prints the values; those computed with stand-in weights are marked."""
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
