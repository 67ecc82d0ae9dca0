"""The losses of StyleGAN2 (Karras et al. 2020, arXiv 1912.04958)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.mini.networks import Generator


def generator_loss(fake_logits: Tensor) -> Tensor:
    """Non-saturating logistic loss: -log sigmoid(D(G(z)))."""
    return F.softplus(-fake_logits).mean()


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def r1_penalty(discriminator: nn.Module, real: Tensor) -> Tensor:
    """Mean squared norm of the discriminator's gradient at real images (Mescheder et al. 2018), without gamma / 2."""
    real = real.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(discriminator(real)[0].sum(), real, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean()


def mix_styles(generator: Generator, z: Tensor, probability: float) -> Tensor:
    """ws [B, num_latents, w_dim] of z; with `probability`, layers from a random one on use the latents of another z."""
    w = generator.mapping(z)
    generator.mapping.track(w.detach())
    ws = w[:, None].expand(-1, generator.num_latents, -1)
    if torch.rand([]).item() >= probability:
        return ws
    first = int(torch.randint(1, generator.num_latents, []))
    other = generator.mapping(torch.randn_like(z))[:, None].expand(-1, generator.num_latents - first, -1)
    return torch.cat([ws[:, :first], other], dim=1)


def path_lengths(generator: Generator, ws: Tensor) -> Tensor:
    """[B]: how far a random direction in image space moves per unit of w, |J_w^T y| (section 3.2).

    Differentiable: its gradient needs the second derivative of the synthesis, including deformable convolutions.
    """
    images = generator.synthesis(ws)
    direction = torch.randn_like(images) / math.sqrt(images[0, 0].numel())
    (gradient,) = torch.autograd.grad(images, ws, grad_outputs=direction, create_graph=True)
    return gradient.flatten(1).norm(dim=1) / math.sqrt(generator.num_latents)


def path_penalty(lengths: Tensor, mean_length: Tensor, calls_before: int, decay: float = 0.99) -> Tensor:
    """Mean squared difference between the lengths and their running mean, which is updated in place.

    For the first calls the mean is a plain average. If it started at 0, it would need about a hundred calls to catch
    up. In a short run the penalty would then push the lengths towards 0: latents would have no effect, and all images
    would be the same.
    """
    mean_length.lerp_(lengths.detach().mean(), max(1 - decay, 1 / (calls_before + 1)))
    return (lengths - mean_length).square().mean()
