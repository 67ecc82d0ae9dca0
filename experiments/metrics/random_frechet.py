"""The Fréchet distance between real and generated images in the features of a random embedding. It is not FID."""

from __future__ import annotations

from typing import Any

from experiments.files import UserError
from experiments.metrics.base import Images, Metric

DDOF = 0


def compute(real: Images, generated: Images) -> tuple[float, dict[str, Any]]:
    """The squared distance between all real and all generated images, and its fingerprint."""
    import numpy as np

    from experiments.metrics.embedding import RandomEmbedding
    from experiments.metrics.frechet import frechet_distance

    embedding = RandomEmbedding()
    real_features, generated_features = (
        np.concatenate([embedding(batch).numpy() for batch in images.batches()]) for images in (real, generated)
    )
    try:
        value = frechet_distance(real_features, generated_features, ddof=DDOF)
    except ValueError as error:
        raise UserError(str(error)) from error
    return value, embedding.fingerprint() | real.facts | generated.facts | {
        "real_nimg": real.nimg,
        "generated_nimg": generated.nimg,
        "ddof": DDOF,
    }


METRIC = Metric("frechet", "Fréchet distance, random embedding", compute)
