"""First and second derivatives of both implementations against finite differences and against each other."""

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from op_cases import (
    NAMES,
    Case,
    assert_close,
    cotangent,
    first_order,
    offset_between_pixels,
    one_by_one,
    sample_inputs,
    second_order,
)
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from mtm_ops import ModulatedTransformation, _native, modulated_deform_conv2d

SUBSETS = [set(s) for n in range(1, 6) for s in itertools.combinations(NAMES, n)]


def small(**given) -> Case:
    """A case with few values, so that finite differences can cover every one of them."""
    return sample_inputs(**{"B": 2, "C": 2, "O": 2, **given})


def as_function(case: Case, impl: str):
    """(a function of the tensors alone, those tensors as leaves)."""
    leaves = case.leaves().tensors()

    def run(*tensors: Tensor) -> Tensor:
        given = dict(zip(leaves, tensors, strict=True))
        return case.map(lambda name, _: given[name]).run(impl)

    return run, tuple(leaves.values())


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"style": False, "mask": False},
    "mask": {"style": False},
    "demod": {"mask": False},
    "mod": {"demodulate": False, "mask": False},
    "all": {},
    "groups": {"groups": 2},
}


@pytest.mark.parametrize("impl", ["native", "reference"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_gradcheck(variant, impl):
    assert gradcheck(*as_function(small(**VARIANTS[variant]), impl))


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradgradcheck(variant):
    assert gradgradcheck(*as_function(small(**VARIANTS[variant]), "native"), fast_mode=variant != "all")


def test_gradgradcheck_of_the_reference():
    assert gradgradcheck(*as_function(small(), "reference"), fast_mode=True)


GEOMETRY = ((2, 1), (1, 0), (2, 1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("needs", list(itertools.product((False, True), repeat=4)), ids=str)
def test_a_gradient_is_the_same_to_the_bit_whatever_else_is_wanted(needs, dtype):
    case = sample_inputs(C=6, style=False, dtype=dtype)
    given = (case.x, case.weight, case.offset, case.mask, *GEOMETRY)
    grad_y = torch.randn(2, 3, 2, 3).to(dtype)
    together = _native.backward(grad_y, *given, [True] * 4)
    for need, alone, value in zip(needs, _native.backward(grad_y, *given, needs), together, strict=True):
        assert torch.equal(alone, value) if need else alone.numel() == 0
    cotangents = [torch.randn(t.shape).to(t.dtype) for t in together]
    for first in (True, False):
        wanted = [first, *needs]
        whole = _native.double_backward(*cotangents, grad_y, *given, [True] * 5)
        found = _native.double_backward(*cotangents, grad_y, *given, wanted)
        for need, alone, value in zip(wanted, found, whole, strict=True):
            assert torch.equal(alone, value) if need else alone.numel() == 0


@pytest.mark.parametrize("needs", SUBSETS, ids=lambda names: "+".join(sorted(names)))
def test_every_subset_of_requires_grad_gives_the_same_gradients(needs):
    case = small(groups=2)
    got, want = first_order(case, "native", needs), first_order(case, "reference", needs)
    assert set(got) == needs | {"y"}
    for name, value in want.items():
        assert_close(got[name], value, torch.float64, name)
    got2, want2 = second_order(case, "native", needs), second_order(case, "reference", needs)
    assert set(got2) == needs | {"grad_y"}
    for name, second in want2.items():
        first = got2[name]
        if second is None:
            assert first is None or not first.any(), name
        else:
            assert first is not None, name
            assert_close(first, second, torch.float64, f"second order of {name}", 4)


@pytest.mark.parametrize("through", SUBSETS, ids=lambda names: "+".join(sorted(names)))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_second_order_through_every_subset_of_the_gradients(through, dtype):
    case = small()
    got = second_order(case.to(dtype), "native", through=through)
    want = second_order(case.to(dtype).to(torch.float64), "reference", through=through)
    for name, value in want.items():
        first = got[name]
        if value is None:
            assert first is None or not first.any(), name
        else:
            assert first is not None, name
            assert first.dtype == dtype
            assert_close(first, value, dtype, f"second order of {name}", 4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_second_order_of_half_types_agrees_with_float64(dtype):
    case = sample_inputs(C=32, O=8, style=False, mask=True).to(dtype)
    got, want = second_order(case, "native"), second_order(case.to(torch.float64), "reference")
    for name, value in want.items():
        first = got[name]
        assert first is not None
        assert value is not None
        assert_close(first, value, dtype, f"second order of {name}", 4)


def test_second_order_with_more_channels_than_a_slice():
    case = sample_inputs(B=2, C=257, O=3)
    got, want = second_order(case, "native"), second_order(case, "reference")
    for name, value in want.items():
        first = got[name]
        assert first is not None
        assert value is not None
        assert_close(first, value, torch.float64, name, 4)


@pytest.mark.parametrize("end", ["x", "style", "offset", "weight", "mask"])
def test_second_order_of_a_gradient_norm_by_one_input_alone(end):
    """As in path-length regularisation: differentiate |d y / d end| while everything is trainable."""

    def norm_gradients(impl: str) -> dict[str, Tensor]:
        case = small().leaves()
        y = case.run(impl)
        (g,) = torch.autograd.grad(y, getattr(case, end), cotangent(y), create_graph=True)
        found = torch.autograd.grad(g.square().sum().sqrt(), list(case.tensors().values()), allow_unused=True)
        return {n: t for n, t in zip(case.tensors(), found, strict=True) if t is not None}

    got, want = norm_gradients("native"), norm_gradients("reference")
    for name, value in want.items():
        assert name in got or not value.any()
        if name in got:
            assert_close(got[name], value, torch.float64, name, 4)
    assert len(want) >= 4


def test_a_gradient_that_is_not_used_costs_no_weight_product(monkeypatch):
    """Second order through x alone: the op gets no cotangent for the weight's gradient."""
    asked = []
    inner = _native.weight_matrix

    def count(w: Tensor) -> Tensor:
        asked.append(1)
        return inner(w)

    monkeypatch.setattr(_native, "weight_matrix", count)
    case = small(style=False)  # demodulation would use the weight a second time
    second_order(case, "native", through={"x"})
    without = len(asked)
    asked.clear()
    second_order(case, "native", through={"x", "weight"})
    assert len(asked) == without + 1


def test_gradients_accumulate_over_two_backward_passes():
    case = small().leaves()
    y = case.run("native")
    y.sum().backward(retain_graph=True)
    assert case.x.grad is not None
    once = case.x.grad.clone()
    y.sum().backward()
    assert torch.equal(case.x.grad, 2 * once)


def test_first_order_gradients_carry_no_graph_unless_asked():
    case = small().leaves()
    (g,) = torch.autograd.grad(case.run("native").sum(), case.x)
    assert not g.requires_grad


def test_third_order_raises_and_names_the_way_out():
    case = small(style=False).leaves()
    (g,) = torch.autograd.grad(case.run("native").square().sum(), case.offset, create_graph=True)
    (g,) = torch.autograd.grad(g.square().sum(), case.offset, create_graph=True)
    with pytest.raises(
        RuntimeError, match=r"modulated_deform_conv2d: impl='native' is differentiable twice.*reference"
    ):
        torch.autograd.grad(g.square().sum(), case.offset)


@pytest.mark.parametrize("impl", ["native", "reference"])
@pytest.mark.parametrize(
    ("place", "slope_px"),
    [(0.0, 2.0), (1.0, 4.0), (2.0, -7.0), (-1.0, 0.0), (3.0, 0.0), (-0.5, 1.0)],
)
def test_at_whole_pixels_the_derivative_is_that_of_the_larger_side(place, slope_px, impl):
    # The profile 0 | 1 3 7 | 0 has slopes 1, 2, 4 and -7 to the right of -1, 0, 1 and 2. Position -1 is outside the
    # image, where the derivative is 0.
    x = torch.tensor([1.0, 3.0, 7.0], dtype=torch.float64)
    weight = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    for axis in (0, 1):
        image = x.view(1, 1, 3, 1) if axis == 0 else x.view(1, 1, 1, 3)
        offset = torch.zeros(1, 2, *image.shape[2:], dtype=torch.float64)
        offset[0, axis].view(-1)[0] = place
        offset.requires_grad_()
        y = modulated_deform_conv2d(image, weight, offset, impl=impl)
        (g,) = torch.autograd.grad(y.view(-1)[0], offset)
        assert g[0, axis].view(-1)[0].item() == slope_px


def test_offsets_of_exactly_zero_give_the_gradients_of_the_reference_to_second_order():
    """A fresh module has zero offsets, exactly on the kinks, so both implementations must use the same side."""
    case = one_by_one(size=(6, 5), kernel=(3, 3), padding=(1, 1))
    case = replace(case, offset=torch.zeros_like(case.offset))
    for order in (first_order, second_order):
        got, want = order(case, "native"), order(case, "reference")
        for name, value in want.items():
            found = got[name]
            assert found is not None
            assert value is not None
            assert_close(found, value, torch.float64, name, 4)


def test_gradient_of_the_offset_points_downhill():
    case = small(style=False, mask=False).leaves()
    (g,) = torch.autograd.grad(case.run("native").square().sum(), case.offset)
    step = 1e-3 / g.norm()
    moved = replace(case, offset=(case.offset - step * g).detach())
    assert moved.run("native").square().sum() < case.run("native").square().sum()


class TwoLayers(torch.nn.Module):
    """Two layers steered by latents: enough of a generator for path-length regularisation."""

    def __init__(self, impl: str) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(5)
        self.impl = impl
        self.const = torch.nn.Parameter(torch.randn(1, 6, 6, 5, generator=g, dtype=torch.float64))
        self.affine = torch.nn.Parameter(torch.randn(2, 6, 4, generator=g, dtype=torch.float64))
        self.weight = torch.nn.Parameter(torch.randn(2, 6, 6, 3, 3, generator=g, dtype=torch.float64))
        self.heads = torch.nn.ModuleList(ModulatedTransformation(6, 4, head="offset+mask").double() for _ in range(2))
        with torch.no_grad():
            for head in self.heads:
                assert isinstance(head, ModulatedTransformation)
                head.affine_weight.copy_(torch.randn(6, 4, generator=g))
                head.weight.copy_(torch.randn(head.weight.shape, generator=g))
                head.bias.copy_(offset_between_pixels(tuple(head.bias.shape), g, reach=0))

    def forward(self, w: Tensor) -> Tensor:
        x = self.const.expand(len(w), -1, -1, -1)
        for head, affine, weight in zip(self.heads, self.affine, self.weight, strict=True):
            offset, mask = head(x, w)
            style = w @ affine.t() + 1
            x = modulated_deform_conv2d(x, weight, offset, style, mask=mask, padding=1, impl=self.impl).tanh()
        return x


def path_length_penalty(net: TwoLayers, w: Tensor) -> Tensor:
    """Karras et al. 2020, section 3.2, with the target fixed at 1."""
    y = net(w)
    noise = cotangent(y) / (y.shape[2] * y.shape[3]) ** 0.5
    (by_w,) = torch.autograd.grad((y * noise).sum(), w, create_graph=True)
    return (by_w.square().sum(1).sqrt() - 1).square().mean()


def test_path_length_regularisation_end_to_end():
    gradients = {}
    for impl in ("native", "reference"):
        net = TwoLayers(impl)
        w = torch.randn(3, 4, generator=torch.Generator().manual_seed(6), dtype=torch.float64).requires_grad_()
        path_length_penalty(net, w).backward()
        gradients[impl] = {n: p.grad for n, p in net.named_parameters()}
    for name, want in gradients["reference"].items():
        got = gradients["native"][name]
        assert want is not None, f"{name} has no gradient"
        assert want.any(), f"{name} has no gradient"
        assert got is not None
        assert_close(got, want, torch.float64, name, 64)  # rounding errors add up over two layers


def test_path_length_regularisation_lowers_the_penalty():
    net = TwoLayers("native")
    w = torch.randn(3, 4, generator=torch.Generator().manual_seed(6), dtype=torch.float64).requires_grad_()
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    history = []
    for _ in range(12):
        optimiser.zero_grad()
        penalty = path_length_penalty(net, w)
        penalty.backward()
        optimiser.step()
        history.append(penalty.item())
    assert history[-1] < 0.8 * history[0]
