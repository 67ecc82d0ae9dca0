"""Grouped convolution: weight groups (n) with and without offset groups (G), style, demodulation and mask."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from op_cases import Case, assert_close, first_order, one_by_one, oracle, sample_inputs, second_order
from torch.autograd import gradcheck, gradgradcheck

from mtm_ops import _chunks, modulated_deform_conv2d

STYLES = {"plain": {"style": False}, "mod": {"demodulate": False}, "demod": {}}
# (C, O, weight groups, offset groups): one nested in the other either way, overlapping, and depthwise.
GROUPS = [(4, 6, 2, 1), (12, 6, 2, 6), (12, 6, 6, 2), (12, 4, 4, 3), (6, 6, 6, 1), (6, 12, 6, 6)]
IMPLS = pytest.mark.parametrize("impl", ["native", "reference"])


def grouped(C: int, O: int, n: int, G: int, **given) -> Case:
    return sample_inputs(C=C, O=O, weight_groups=n, groups=G, **given)


@IMPLS
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("groups", GROUPS, ids=str)
def test_equals_the_oracle(groups, style, impl):
    case = grouped(*groups, **STYLES[style])
    assert_close(case.run(impl), torch.from_numpy(oracle(case)), torch.float64)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("groups", GROUPS, ids=str)
def test_native_equals_reference_at_both_orders(groups, style, dtype):
    if style == "demod" and groups[2] == groups[0]:
        pytest.skip("a group of one channel: demodulation cancels its style, whose gradient is nothing but rounding")
    case = grouped(*groups, **STYLES[style]).to(dtype)
    half = dtype in (torch.float16, torch.bfloat16)
    wide = case.to(torch.float64)
    pairs = [(first_order(case, "native"), first_order(wide, "reference"))]
    if not half:
        pairs.append((second_order(case, "native"), second_order(wide, "reference")))  # type: ignore[arg-type]
    for got, want in pairs:
        for name, value in want.items():
            assert_close(got[name], value, dtype, name, 4)


@pytest.mark.parametrize("style", STYLES)
def test_gradcheck_and_gradgradcheck(style):
    case = grouped(4, 4, 2, 2, B=1, size=(3, 3), kernel=(2, 1), padding=(1, 1), **STYLES[style])
    leaves = case.leaves().tensors()

    def run(*tensors: torch.Tensor) -> torch.Tensor:
        given = dict(zip(leaves, tensors, strict=True))
        return case.map(lambda name, _: given[name]).run("native")

    assert gradcheck(run, tuple(leaves.values()))
    assert gradgradcheck(run, tuple(leaves.values()), fast_mode=True)


@IMPLS
@pytest.mark.parametrize("style", STYLES)
def test_equals_one_call_per_group(style, impl):
    """Defines a group: its channels see only each other. That includes the norm in demodulation."""
    case = grouped(12, 6, 3, 6, **STYLES[style])
    y = case.run(impl)
    for i in range(3):
        channels, groups = slice(4 * i, 4 * i + 4), slice(2 * i, 2 * i + 2)
        taps = case.weight.shape[2] * case.weight.shape[3]
        steering = case.offset.unflatten(1, (6, 2 * taps))[:, groups].flatten(1, 2)
        assert case.mask is not None
        part = replace(
            case,
            x=case.x[:, channels],
            weight=case.weight[2 * i : 2 * i + 2],
            offset=steering,
            style=None if case.style is None else case.style[:, channels],
            mask=case.mask.unflatten(1, (6, taps))[:, groups].flatten(1, 2),
        )
        assert_close(y[:, 2 * i : 2 * i + 2], part.run(impl), torch.float64)


@IMPLS
def test_offsets_of_zero_give_torchs_grouped_convolution(impl):
    case = one_by_one(C=6, O=4, weight_groups=2, kernel=(3, 3), padding=(1, 1), style=False, mask=False)
    y = replace(case, offset=torch.zeros_like(case.offset)).run(impl)
    assert_close(y, F.conv2d(case.x, case.weight, padding=1, groups=2), torch.float64)


@IMPLS
@pytest.mark.parametrize("demodulate", [False, True])
def test_stylegans_batch_folded_into_groups_is_the_modulated_call(demodulate, impl):
    """x [1, B*C, H, W] with a modulated weight per sample [B*O, C, kh, kw]: n = G = B, without a style."""
    case = one_by_one(B=3, C=4, O=5, size=(6, 5), kernel=(3, 3), padding=(1, 1), demodulate=demodulate)
    assert case.style is not None
    assert case.mask is not None
    weight = case.weight * case.style[:, None, :, None, None]
    if demodulate:
        weight = weight * (weight.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    x, offset, mask = (t.flatten(0, 1).unsqueeze(0) for t in (case.x, case.offset, case.mask))
    y = modulated_deform_conv2d(x, weight.flatten(0, 1), offset, mask=mask, padding=1, impl=impl)
    assert_close(y.view(3, 5, 6, 5), case.run(impl), torch.float64)


@IMPLS
def test_an_empty_batch(impl):
    case = grouped(12, 6, 3, 2, B=0)
    found = first_order(case, impl)
    assert found["y"].shape == (0, 6, 2, 3)
    assert torch.equal(found["weight"], torch.zeros_like(case.weight))


@pytest.mark.parametrize("rows", [1, 5, 7])
def test_chunks_may_cut_images_anywhere(rows, monkeypatch):
    case = grouped(12, 6, 3, 2, B=3)
    want = {**first_order(case, "reference"), "second": second_order(case, "reference")["weight"]}
    monkeypatch.setitem(_chunks.CHUNK_ROWS, "cpu", rows)
    got = {**first_order(case, "native"), "second": second_order(case, "native")["weight"]}
    for name, value in want.items():
        assert_close(got[name], value, torch.float64, name, 4)  # type: ignore[arg-type]


@IMPLS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_autocast(dtype, impl):
    case = grouped(12, 6, 3, 2, dtype=torch.float32)
    with torch.autocast("cpu", dtype):
        found = first_order(case, impl)
    assert found["y"].dtype == dtype
    for name, value in first_order(case, "reference").items():
        assert_close(found[name], value, dtype, name, 2)


def test_float16_does_not_overflow_where_float32_does_not():
    g = torch.Generator().manual_seed(0)
    x, style = 256 * torch.randn(2, 512, 8, 8, generator=g), 30 + 10 * torch.randn(2, 512, generator=g)
    case = Case(x, 10 * torch.randn(16, 256, 3, 3, generator=g), torch.randn(2, 18, 8, 8, generator=g), style)
    half = replace(case, options={"padding": 1}).to(torch.float16)
    y = half.run("native")
    assert y.isfinite().all()
    assert_close(y, half.to(torch.float32).run("reference"), torch.float16)


@pytest.mark.parametrize("style", [False, True])
def test_compile_does_not_break_the_graph(style):
    torch._dynamo.reset()
    case = grouped(12, 6, 3, 2, style=style, dtype=torch.float32)
    compiled = torch.compile(modulated_deform_conv2d, backend="aot_eager", fullgraph=True)
    y = compiled(case.x, case.weight, case.offset, case.style, mask=case.mask, **case.options)
    assert_close(y, case.run("reference"), torch.float32)
