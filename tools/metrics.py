"""Metrics of a trained generator, for every trainer alike.

    python -m tools.metrics runs/low/final.pt --data faces.zip --metrics frechet --outdir runs/low/metrics

Writes <name>.json for each metric: {"value", "fingerprint"}. What there is: experiments/metrics/__init__.py. A pickle
runs code of its own when it is opened: only open files that you trust.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor

from experiments.data import described
from experiments.datasets.images import decode_rgb, open_source
from experiments.files import UserError, atomic_output
from experiments.metrics import METRICS
from experiments.metrics.base import Images, Metric
from experiments.snapshots import Snapshot, open_snapshot
from experiments.trainers.contract import Measured

BATCH_NIMG = 100
MAX_MPX = 100.0


def real_images(path: Path) -> Images:
    """All images of a data set's zip, a batch in memory at a time. Raises UserError, naming the file, where it is
    none or an image cannot be read."""
    info = described(path)

    def batches() -> Iterator[Tensor]:
        source = open_source(path)
        for start in range(0, len(source.names), BATCH_NIMG):
            names = source.names[start : start + BATCH_NIMG]
            pixels = np.stack([np.asarray(decode_rgb(source.read(name), MAX_MPX)) for name in names])
            yield torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()

    return Images(info.nimg, batches, {"data_sha256": info.content_sha256})


def generated_images(snapshot: Snapshot, nimg: int, seed: int) -> Images:
    """Images of latents drawn from `seed`, with noise; for a conditional network the classes in turn."""

    def batches() -> Iterator[Tensor]:
        torch.manual_seed(seed)
        z = torch.randn(nimg, snapshot.facts.z_dim)
        labels = snapshot.labels(nimg)
        for some, c in zip(z.split(BATCH_NIMG), labels.split(BATCH_NIMG), strict=True):
            yield snapshot.generate(some, c, noise=True)

    return Images(nimg, batches, {"seed": seed, "truncation": 1.0})


def measure(metric: Metric, real: Images, generated: Images) -> Measured:
    """The metric's value, None where it is not finite, with its fingerprint. Raises UserError for one that the host
    computes itself."""
    if metric.compute is None:
        raise UserError(f"metrics: {metric.name} is computed by the official code: its calc_metrics.py.")
    value, fingerprint = metric.compute(real, generated)
    return Measured(value=value if math.isfinite(value) else None, fingerprint=fingerprint)


def choose(_context: click.Context, _parameter: click.Parameter, text: str) -> list[Metric]:
    for name in text.split(","):
        if name not in METRICS:
            raise click.BadParameter(f"expected some of {', '.join(METRICS)}; got {name!r}")
    return [METRICS[name] for name in text.split(",")]


@click.command()
@click.argument("snapshot", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), required=True, help="The zip it was trained on.")
@click.option("--metrics", callback=choose, required=True, help="Names, separated by commas.")
@click.option("--outdir", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder to write to.")
@click.option("--samples", type=click.IntRange(min=2), default=50_000, show_default=True, help="Images to generate.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the latents.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: torch's]")
def main(
    snapshot: Path, data: Path, metrics: list[Metric], outdir: Path, samples: int, seed: int, threads: int | None
) -> None:
    """Compute metrics of SNAPSHOT: final.pt of experiments.mini, or a pickle of an official codebase."""
    if threads:
        torch.set_num_threads(threads)
    try:
        real = real_images(data)
        with open_snapshot(snapshot) as opened:
            for metric in metrics:
                measured = measure(metric, real, generated_images(opened, samples, seed))
                with atomic_output(outdir / f"{metric.name}.json") as partial:
                    partial.write_text(json.dumps(measured.model_dump(), indent=2) + "\n", encoding="utf-8")
                click.echo(f"{metric.title}: {measured.value}")
    except UserError as error:
        raise click.ClickException(str(error)) from None


if __name__ == "__main__":
    main()
