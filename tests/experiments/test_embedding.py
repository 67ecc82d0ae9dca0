"""The random embedding ranks image changes as people would, and gives the same numbers on every machine."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from experiments.datasets.openmoji import render_images
from experiments.metrics.embedding import RandomEmbedding
from experiments.metrics.frechet import frechet_distance

# Pinned: a change makes all earlier distances incomparable. If you change it, raise the name in fingerprint(), too.
WEIGHTS_SHA256 = "3814bef3652096b635c9f07b03ef76d7da04fe6720a9517f3d571aadb990fc86"


@pytest.fixture(scope="module")
def faces() -> torch.Tensor:
    images = np.stack([np.asarray(image) for image in render_images("faces", 32, 1200, 0)])
    return torch.from_numpy(images).permute(0, 3, 1, 2)[torch.randperm(1200, generator=torch.manual_seed(0))]


def wave(images: torch.Tensor, amplitude: float) -> torch.Tensor:
    """Shift rows sideways along a sine by up to `amplitude` half images: warped shapes, same colours."""
    place = F.affine_grid(torch.eye(2, 3).expand(len(images), 2, 3), list(images.shape), align_corners=False)
    place = place + torch.stack([amplitude * torch.sin(6 * place[..., 1]), torch.zeros(place.shape[:3])], dim=-1)
    return F.grid_sample(images, place, padding_mode="border", align_corners=False)


def blur(images: torch.Tensor, radius: int) -> torch.Tensor:
    padded = F.pad(images, (radius,) * 4, mode="replicate")
    return F.avg_pool2d(padded, 2 * radius + 1, 1)


def test_real_images_are_far_nearer_to_real_ones_than_any_distorted_ones(faces: torch.Tensor) -> None:
    embed = RandomEmbedding()
    first, second = faces[:600], faces[600:].float()
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(second.shape, generator=generator)
    ladders = {
        "blurred": [blur(second, 1), blur(second, 2)],
        "noisy": [second + 25 * noise, second + 60 * noise],
        "bent": [wave(second, 0.12), wave(second, 0.25)],
        "few shapes": [second[:20].repeat(30, 1, 1, 1), second[:2].repeat(300, 1, 1, 1)],
    }
    real = embed(first).numpy()

    def distance(images: torch.Tensor) -> float:
        return frechet_distance(real, embed(images.clamp(0, 255).to(torch.uint8)).numpy())

    same = distance(second)
    for name, (mild, strong) in ladders.items():
        assert distance(mild) > 3 * same, name
        assert distance(strong) > 1.5 * distance(mild), name


def test_features_neither_depend_on_nor_move_torchs_random_stream(faces: torch.Tensor) -> None:
    torch.manual_seed(1)
    first = RandomEmbedding()(faces[:4])
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = RandomEmbedding()(faces[:4])
    assert torch.equal(first, second)
    assert torch.equal(before, torch.get_rng_state())


def test_the_weights_are_the_pinned_ones_and_the_fingerprint_does_not_say_fid() -> None:
    fingerprint = RandomEmbedding().fingerprint()
    assert fingerprint["weights_sha256"] == WEIGHTS_SHA256
    assert {"backbone", "size_px", "resize_filter", "quantisation", "dimensions"} <= set(fingerprint)
    assert "not FID" in fingerprint["backbone"]


def test_features_of_a_image_do_not_depend_on_its_batch(faces: torch.Tensor) -> None:
    whole, chunked = RandomEmbedding()(faces[:7]), RandomEmbedding(chunk_nimg=3)(faces[:7])
    assert whole.shape == (7, RandomEmbedding.dimensions)
    assert whole.dtype == torch.float32
    torch.testing.assert_close(whole, chunked, rtol=1e-5, atol=1e-5)
    assert RandomEmbedding()(faces[:0]).shape == (0, RandomEmbedding.dimensions)


def test_other_sizes_are_resampled_to_nearly_the_same_features(faces: torch.Tensor) -> None:
    embed = RandomEmbedding()
    small = embed(faces[:50])
    large = embed(faces[:50].repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))
    assert (large - small).norm() < 0.3 * (small - small.mean(dim=0)).norm()


@pytest.mark.parametrize(
    "images", [torch.zeros(2, 3, 32, 32), torch.zeros(3, 32, 32, dtype=torch.uint8), torch.zeros(2, 1, 8, 8).byte()]
)
def test_anything_but_uint8_rgb_is_refused(images: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"images must be uint8 \[N, 3, H, W\]; got torch"):
        RandomEmbedding()(images)
