"""Demodulation in one kernel (csrc/cuda_demodulate.h, run on the CPU) against plain torch, up to second order."""

import warnings
from dataclasses import replace

import pytest
import torch
from op_cases import assert_close, cotangent, first_order, sample_inputs, second_order
from torch.autograd import gradcheck, gradgradcheck

from mtm_ops import _demodulation

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def inputs(B: int = 3, O: int = 6, width: int = 5, n: int = 1, dtype: torch.dtype = torch.float64, **like):
    """weight [O, width, 3, 2] and style [B, n*width] for n weight groups, as leaves."""
    g = torch.Generator().manual_seed(3)
    weight, style = (
        torch.randn(*shape, generator=g, dtype=torch.float64) for shape in ((O, width, 3, 2), (B, n * width))
    )
    return weight.to(dtype, **like).requires_grad_(), style.to(dtype).requires_grad_()


def results(run, weight, style, rescale: bool, through=(0, 1, 2)) -> dict[str, torch.Tensor]:
    """Outputs, gradients and second-order gradients."""
    outputs = run(weight, style, weight.dtype, rescale)
    found = dict(zip(("weight", "style", "gain"), (t.detach() for t in outputs), strict=True))
    cotangents = [cotangent(outputs[i], 7 + i).requires_grad_() for i in through]
    ends = (weight, style)
    first = torch.autograd.grad([outputs[i] for i in through], ends, cotangents, create_graph=True)
    found |= {f"grad {i}": t.detach() for i, t in enumerate(first)}
    scalar = sum((t * cotangent(t, 20 + i)).sum() for i, t in enumerate(first))
    second = torch.autograd.grad(scalar, (*ends, *cotangents), allow_unused=True)
    return found | {f"second {i}": t for i, t in enumerate(second) if t is not None}


@DTYPES
@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize(
    "sizes", [{}, {"n": 3}, {"B": 0}, {"B": 9, "width": 300, "O": 2}, {"memory_format": torch.channels_last}], ids=str
)
def test_gives_what_plain_torch_gives_to_the_second_order(sizes, rescale, dtype, on_host):
    weight, style = inputs(dtype=dtype, **sizes)
    want = results(_demodulation.reference, weight, style, rescale)
    got = results(_demodulation.native, weight, style, rescale)
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert_close(got[name], value, dtype, name, 4)


@pytest.mark.parametrize("rescale", [False, True])
def test_of_a_bfloat16_weight_style_and_gain_are_bfloat16_and_the_sums_float32(rescale, on_host):
    weight, style = (t.detach() for t in inputs(B=9, width=70, dtype=torch.bfloat16))
    style = style.float()
    pair = weight.requires_grad_(), style.requires_grad_()
    got, want = (run(*pair, torch.float32, rescale) for run in (_demodulation.native, _demodulation.reference))
    assert {t.dtype for t in got} == {torch.bfloat16}
    grads = []
    for outputs in (got, want):
        cotangents = [cotangent(t.bfloat16(), i) for i, t in enumerate(outputs)]
        grads.append(torch.autograd.grad([t.bfloat16() for t in outputs], pair, cotangents))
    for name, a, b in zip(
        ("weight", "style", "gain", "grad 0", "grad 1"), (*got, *grads[0]), (*want, *grads[1]), strict=True
    ):
        assert_close(a, b, torch.bfloat16, name)


@pytest.mark.parametrize("through", [(0,), (1,), (2,), (0, 2), (1, 2)], ids=str)
def test_results_that_are_not_used_have_no_gradient(through, on_host):
    weight, style = inputs()
    if through in ((0,), (1,)):  # plain torch has no gradient for the other input; the kernel gives zeros
        outputs = _demodulation.native(weight, style, weight.dtype, True)
        grads = torch.autograd.grad(outputs[through[0]].sum(), (weight, style))
        assert not grads[1 - through[0]].any()
        return
    want = results(_demodulation.reference, weight, style, True, through)
    got = results(_demodulation.native, weight, style, True, through)
    for name, value in want.items():
        assert_close(got[name], value, torch.float64, name, 4)


@pytest.mark.parametrize("n", [1, 2])
def test_gradcheck_and_gradgradcheck(n, on_host):
    weight, style = inputs(B=2, O=4, width=2, n=n)

    def run(weight, style):
        return _demodulation.native(weight, style, torch.float64, False)

    assert gradcheck(run, (weight, style))
    assert gradgradcheck(run, (weight, style))


def test_zero_weights_and_styles_are_scaled_by_a_finite_factor(on_host):
    weight, style = inputs(dtype=torch.float32)
    with torch.no_grad():
        weight[1] = 0
        style[2] = 0
    found = results(_demodulation.native, weight, style, True)
    assert all(found[name].isfinite().all() for name in ("weight", "style", "gain", "grad 0", "grad 1"))
    want = results(_demodulation.reference, weight, style, True)
    assert_close(found["gain"], want["gain"], torch.float32)


def test_the_weight_comes_channels_last_and_its_gradient_as_the_weight_is(on_host):
    for memory_format in (torch.contiguous_format, torch.channels_last):
        weight, style = inputs(memory_format=memory_format)
        scaled, _, gain = _demodulation.native(weight, style, weight.dtype, True)
        assert scaled.is_contiguous(memory_format=torch.channels_last)
        (grad,) = torch.autograd.grad(gain.sum() + scaled.sum(), weight)
        assert grad.is_contiguous(memory_format=memory_format)


def test_opcheck(on_host):
    for rescale in (False, True):
        torch.library.opcheck(torch.ops.mtm_ops.demodulate.default, (*inputs(), rescale))


@DTYPES
def test_the_modulated_convolution_uses_it_on_cuda(dtype, host, on_host):
    case = sample_inputs(O=6, weight_groups=2, dtype=dtype)
    for order in (first_order, second_order):
        got, want = order(case, "native"), order(case, "reference")
        for name, value in want.items():
            assert_close(got[name], value, dtype, name, 8)


def test_launches(host, on_host):
    """One launch forward, one backward."""
    weight, style = inputs()
    before = host.count_launches()
    gain = _demodulation.native(weight, style, weight.dtype, True)[2]
    assert host.count_launches() == before + 1
    torch.autograd.grad(gain.sum(), (weight, style))
    assert host.count_launches() == before + 2


@pytest.mark.parametrize("rescale", [False, True])
def test_torch_compile_without_a_graph_break(rescale, on_host):
    weight, style = inputs(dtype=torch.float32)

    def layer(weight, style):
        scaled, styles, gain = _demodulation.native(weight * 2, style, torch.float32, rescale)
        return scaled.sum() + (styles.sum() * gain).sum()

    want = torch.autograd.grad(layer(weight, style), (weight, style))
    got = torch.autograd.grad(torch.compile(layer, fullgraph=True, backend="aot_eager")(weight, style), (weight, style))
    for a, b in zip(got, want, strict=True):
        assert_close(a, b, torch.float32)


def test_a_third_derivative_is_right(on_host):
    """It uses the reference, which is differentiable to any order."""
    weight, style = inputs(B=2, O=2, width=2)

    def third(run) -> torch.Tensor:
        t = run(weight, style, torch.float64, False)[2].sum()
        for _ in range(2):
            (g,) = torch.autograd.grad(t, style, create_graph=True)
            t = (g * cotangent(g)).sum()
        return torch.autograd.grad(t, weight)[0]

    assert_close(third(_demodulation.native), third(_demodulation.reference), torch.float64, "third", 4)


@pytest.mark.parametrize("further", [False, True])
def test_second_derivatives_have_a_graph_only_where_a_third_is_to_come(further, on_host):
    weight, style = inputs(B=2, O=2, width=2)
    (g,) = torch.autograd.grad(
        _demodulation.native(weight, style, weight.dtype, False)[2].sum(), style, create_graph=True
    )
    found = torch.autograd.grad(g.square().sum(), (weight, style), create_graph=further)
    assert [t.requires_grad for t in found] == [further, further]


@pytest.mark.parametrize("name", ["weight", "style"])
@pytest.mark.parametrize("view", ["every other", "transposed", "expanded"])
def test_the_modulated_convolution_takes_weight_and_style_in_any_strides(name, view, host, on_host):
    """Strided inputs are copied to dense ones, and the copy must outlive the kernel's launch."""
    case = sample_inputs(O=6, dtype=torch.float32)
    t = getattr(case, name)
    views = {
        "every other": torch.stack([t, t + 1], -1)[..., 0],
        "transposed": t.transpose(0, -1).contiguous().transpose(0, -1),
        "expanded": t[:1].expand_as(t),
    }
    case = replace(case, **{name: views[view]})
    for order in (first_order, second_order):
        got, want = order(case, "native"), order(case, "reference")
        for key, value in want.items():
            assert_close(got[key], value, torch.float32, key, 8)


def test_gradients_of_several_cotangents_at_once(on_host):
    """The is_grads_batched option of autograd.grad, which vectorised Jacobians use."""
    case = sample_inputs(O=6).leaves()
    y, ends = case.run("native"), list(case.tensors().values())
    cotangents = torch.stack([cotangent(y, seed) for seed in range(3)])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop")
        got = torch.autograd.grad(y, ends, cotangents, is_grads_batched=True, retain_graph=True)
    for i, c in enumerate(cotangents):
        for many, one in zip(got, torch.autograd.grad(y, ends, c, retain_graph=True), strict=True):
            assert_close(many[i], one, torch.float64)
