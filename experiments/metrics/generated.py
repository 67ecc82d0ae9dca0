"""Images and clips of a trained generator, drawn from a seed and measured without being written to disk."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.datasets.images import Source
from experiments.files import UserError
from experiments.metrics.sources import Samples
from experiments.snapshots import Snapshot

BATCH_NIMG = 100  # fixed, because with noise per pixel the images depend on it
BATCH_FRAMES = 128


class Generated(Samples):
    """`count` images of latents drawn from `seed`, or clips of frames 0 to `frames` - 1, with noise and no truncation.

    Labels of a conditional network are drawn, with the same seed, from those of the real data. If the data has none,
    they are the network's defaults (the classes in turn, or the camera in front). Uses torch's global random stream.
    Raises UserError for clips of a network that generates images, and for labels that do not fit.
    """

    role = "generated"

    def __init__(self, snapshot: Snapshot, count: int, seed: int, real: Source | None = None, frames: int = 0) -> None:
        if frames and not snapshot.facts.frames:
            raise UserError(
                f"{snapshot.path}: FVD must have a network that makes videos; got {snapshot.facts.trainer}'s, which "
                "makes images. Use fid, clip_fd or another metric of images."
            )
        self.snapshot, self.count, self.seed, self.frames = snapshot, count, seed, frames
        self.unit = "clip" if frames else "img"
        self._ranks = 1
        self._labels, self._labels_from = self._draw_labels(real)

    def __len__(self) -> int:
        return self.count

    def tensors(self, rank: int = 0, ranks: int = 1) -> Iterator[Tensor]:
        """uint8 [B, 3, H, W], or [B, 3, T, H, W], of this rank's latents. Each rank draws noise from its own stream."""
        torch.manual_seed(self.seed)
        z = torch.randn(self.count, self.snapshot.facts.z_dim)
        if ranks > 1:
            torch.manual_seed(int(torch.randint(2**62, (ranks,))[rank]))
        self._ranks = ranks
        size = max(1, BATCH_FRAMES // self.frames) if self.frames else BATCH_NIMG
        times = list(range(self.frames)) or None
        mine = slice(rank, None, ranks)
        for some, c in zip(z[mine].split(size), self._labels[mine].split(size), strict=True):
            if len(some) == 0:
                return
            made = self.snapshot.generate(some, c, frames=times, noise=True)
            yield made.transpose(1, 2) if times else made

    def batches(self, size: int) -> Iterator[list[Tensor]]:
        return self.share(size, 0, 1)

    def share(self, size: int, rank: int, ranks: int) -> Iterator[list[Tensor]]:
        for tensor in self.tensors(rank, ranks):
            yield from (list(part) for part in tensor.split(size))

    def facts(self) -> dict[str, Any]:
        return {"generated_px": str(self.snapshot.facts.resolution), **self.drawn()}

    def drawn(self) -> dict[str, Any]:
        """The seed and settings with which samples are drawn."""
        facts: dict[str, Any] = {"seed": self.seed, "truncation": 1.0}
        facts |= {"labels": self._labels_from} if self._labels_from else {}
        return facts | ({"ranks": self._ranks} if self._ranks > 1 else {})  # the noise depends on it

    def _draw_labels(self, real: Source | None) -> tuple[Tensor, str]:
        width = self.snapshot.facts.c_dim
        if width == 0:
            return self.snapshot.labels(self.count), ""
        known = list(real.labels.values()) if real else []
        if not known:
            return self.snapshot.labels(self.count), "the network's default"
        drawn = np.random.default_rng(self.seed).integers(len(known), size=self.count)
        return torch.stack([self._label(known[i], width) for i in drawn]), "drawn as the real data's"

    def _label(self, label: Any, width: int) -> Tensor:
        if isinstance(label, int) and 0 <= label < width:
            return torch.nn.functional.one_hot(torch.tensor(label), width).float()
        if isinstance(label, list) and len(label) == width:
            return torch.tensor([float(x) for x in label])
        raise UserError(
            f"{self.snapshot.path}: labels of the data must fit the network's {width} numbers; got {str(label)[:60]}. "
            "Give the data that it was trained on."
        )
