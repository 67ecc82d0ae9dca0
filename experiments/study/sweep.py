"""One latent moved to another, and back into view: a strip for each strength of the offsets, from off to on."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from experiments.images import grid
from experiments.snapshots import open_snapshot

STRENGTHS = (0.0, 0.5, 1.0)
STEPS = 12
PAIRS = 2


def sweep(snapshot_path: Path, seed: int = 7) -> Image.Image:
    """Rows: strength 0, 0.5 and 1 of a way between two latents, and the same of another way. Latents are drawn towards
    each other on the sphere, so that none on the way is unusually short."""
    with open_snapshot(snapshot_path) as snapshot:
        torch.manual_seed(seed)
        rows = []
        for first, last in torch.randn(PAIRS, 2, snapshot.facts.z_dim):
            at = torch.linspace(0, torch.pi / 2, STEPS)[:, None]
            z = first * at.cos() + last * at.sin()
            rows += [snapshot.generate(z, strength=strength) for strength in STRENGTHS]
        return grid(torch.cat(rows), STEPS)
