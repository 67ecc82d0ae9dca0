"""grid_sample for the video hosts' augmentation: torch's if torch can differentiate it twice, otherwise our own."""

import pytest
import torch

from mtm_hosts import grid_sample as ours


@pytest.fixture
def old_torch(monkeypatch):
    """A torch that cannot differentiate grid_sample twice."""
    monkeypatch.setattr(ours, "_torch_differentiates_twice", lambda: False)


def values():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    return x, torch.rand(2, 6, 7, 2, dtype=torch.float64, generator=generator) * 2.4 - 1.2


def test_ours_equals_torchs_with_first_and_second_gradients(old_torch):
    x, grid = values()
    theirs = torch.nn.functional.grid_sample(x, grid, align_corners=False)
    assert torch.equal(ours.grid_sample(x, grid), theirs)
    torch.autograd.gradcheck(ours.grid_sample, (x, grid))
    torch.autograd.gradgradcheck(ours.grid_sample, (x, grid))


def test_the_grid_has_a_first_gradient_and_a_second_one_is_refused(old_torch):
    x, grid = values()
    grid.requires_grad_(True)
    grads = [
        torch.autograd.grad(y.square().sum(), (x, grid))
        for y in (ours.grid_sample(x, grid), torch.nn.functional.grid_sample(x, grid, align_corners=False))
    ]
    assert [torch.equal(a, b) for a, b in zip(*grads, strict=True)] == [True, True]
    (grad_x,) = torch.autograd.grad(ours.grid_sample(x, grid).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="grid must not require a gradient"):
        torch.autograd.grad(grad_x.sum(), x)


def test_what_this_torch_does_is_found_out(monkeypatch):
    x, grid = values()
    (grad_x,) = torch.autograd.grad(
        torch.nn.functional.grid_sample(x, grid, align_corners=False).square().sum(), x, create_graph=True
    )
    try:
        torch.autograd.grad(grad_x.sum(), x)
        able = True
    except RuntimeError:
        able = False
    ours._torch_differentiates_twice.cache_clear()
    assert ours._torch_differentiates_twice() is able
