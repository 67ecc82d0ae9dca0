"""Metrics that take images (Metric.compute), not features of a registered network."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from experiments.data import remembered
from experiments.files import UserError
from experiments.metrics.base import Images, Metric
from experiments.metrics.generated import Generated
from experiments.metrics.sources import ImageFiles
from experiments.trainers.contract import Measured

BATCH_NIMG = 100


def measure_images(metric: Metric, real: ImageFiles, generated: ImageFiles | Generated) -> Measured:
    """The metric's value (None if it is not finite) with its fingerprint. Raises UserError if images have several sizes
    or cannot be read."""
    assert metric.compute
    fakes = _generated(generated) if isinstance(generated, Generated) else _files(generated)
    value, fingerprint = metric.compute(_files(real), fakes)
    return Measured(value=value if math.isfinite(value) else None, fingerprint=fingerprint)


def _generated(network: Generated) -> Images:
    return Images(network.count, network.tensors, network.drawn())


def _files(files: ImageFiles) -> Images:
    """The images of a folder or zip, with one batch in memory at a time."""

    def batches() -> Iterator[Tensor]:
        for batch in files.batches(BATCH_NIMG):
            if len({image.shape for image in batch}) > 1:
                raise UserError(
                    f"metrics: {files.path} must hold images of one size for this metric; got several. Resize them."
                )
            yield torch.stack(batch)

    nimg, facts = _looked_at(files)
    return Images(nimg, batches, facts)


def _looked_at(files: ImageFiles) -> tuple[int, dict[str, Any]]:
    """The number of readable images and the facts about them: from the runner's cached description of a data set if
    there is one, else from reading all images."""
    if files.role == "generated" and not files.skip_broken:
        return len(files), files.drawn
    known = remembered(files.path) if files.role == "real" and not files.drawn else None
    if known is not None and known.nimg == len(files):
        return known.nimg, {"data_sha256": known.content_sha256}
    nimg = sum(len(batch) for batch in files.batches(BATCH_NIMG))
    return nimg, {name: fact for name, fact in files.facts().items() if not name.endswith("_px")}
