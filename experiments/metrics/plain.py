"""Metrics that take images themselves (Metric.compute), rather than features of a registered network."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.data import described
from experiments.files import UserError
from experiments.metrics.base import Images, Metric
from experiments.metrics.generated import Generated
from experiments.metrics.sources import ImageFiles
from experiments.trainers.contract import Measured

BATCH_NIMG = 100


def measure_images(metric: Metric, real: Path, fake: Path, network: Generated | None) -> Measured:
    """The metric's value, None where it is not finite, with its fingerprint. `network`: what FAKE generates, if it is
    a network. Raises UserError for images of several sizes and whatever cannot be read."""
    assert metric.compute
    generated = _files(fake, "generated") if network is None else _generated(network)
    value, fingerprint = metric.compute(_files(real, "real"), generated)
    return Measured(value=value if math.isfinite(value) else None, fingerprint=fingerprint)


def _generated(network: Generated) -> Images:
    return Images(network.count, network.tensors, network.drawn())


def _files(path: Path, role: str) -> Images:
    """All images of a folder or zip, a batch in memory at a time."""
    files = ImageFiles(path, role)

    def batches() -> Iterator[Tensor]:
        for batch in files.batches(BATCH_NIMG):
            if len({image.shape for image in batch}) > 1:
                raise UserError(
                    f"metrics: {path} must hold images of one size for this metric; got several. Resize them."
                )
            yield torch.stack(batch)

    return Images(len(files), batches, _facts(path, files) if role == "real" else {})


def _facts(path: Path, files: ImageFiles) -> dict[str, Any]:
    """The hash of the data's content: remembered where the runner made the data set, else from reading all of it."""
    if path.is_file() and path.with_suffix(".json").exists():
        return {"data_sha256": described(path).content_sha256}
    for _ in files.batches(BATCH_NIMG):
        pass
    return {"data_sha256": files.facts()["data_sha256"]}
