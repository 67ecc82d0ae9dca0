"""The compiled kernels against the reference, across dtypes, layouts, batches, groups, heads, channels and chunks."""

import ctypes
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from op_cases import (
    Case,
    assert_close,
    first_order,
    one_by_one,
    oracle,
    relative_error,
    sample_inputs,
    second_order,
)

from mtm_ops import _build, _chunks, _matrix, _native, modulated_deform_conv2d
from mtm_ops.reference import sample_columns

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
FULL = [torch.float64, torch.float32]


def hold_equal(case: Case, dtype: torch.dtype, factor: float = 1, order: int = 1) -> None:
    """Compare native in `dtype` with the reference in float64 on the same rounded values: y and all gradients."""
    rounded = case.to(dtype)
    got, want = first_order(rounded, "native"), first_order(rounded.to(torch.float64), "reference")
    for name, value in want.items():
        assert_close(got[name], value, dtype, name, factor)
    if order == 2:
        got2, want2 = second_order(rounded, "native"), second_order(rounded.to(torch.float64), "reference")
        for name, second in want2.items():
            first = got2[name]
            assert first is not None, f"{name} has no second-order gradient"
            assert second is not None
            assert_close(first, second, dtype, f"second order of {name}", 2 * factor)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("modulation", ["plain", "mod", "demod"])
@pytest.mark.parametrize("mask", [False, True], ids=["no-mask", "mask"])
@pytest.mark.parametrize("groups", [1, 2])
def test_equals_reference_over_dtype_head_and_groups(groups, mask, modulation, dtype):
    case = sample_inputs(groups=groups, mask=mask, style=modulation != "plain", demodulate=modulation == "demod")
    half = dtype in (torch.float16, torch.bfloat16)
    # Half types: a gradient through demodulation is a difference of rounded terms of similar size, so the tolerance is
    # doubled and the second order is not compared.
    hold_equal(case, dtype, factor=2 if half else 1, order=1 if half else 2)


def test_equals_the_oracle_without_the_reference_between():
    case = sample_inputs(C=6, groups=2, seed=3)
    assert_close(case.run("native"), torch.from_numpy(oracle(case)), torch.float64)


def channels_last(t: torch.Tensor) -> torch.Tensor:
    return t.contiguous(memory_format=torch.channels_last)


def strided(t: torch.Tensor) -> torch.Tensor:
    """The same values in a view that has strides and a storage offset in every dimension."""
    big = torch.full([2 * n + 1 for n in t.shape], float("nan"), dtype=t.dtype)
    view = big[tuple(slice(1, None, 2) for _ in t.shape)]
    view.copy_(t)
    return view


def transposed(t: torch.Tensor) -> torch.Tensor:
    return t.transpose(-1, -2).contiguous().transpose(-1, -2)


LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "contiguous": torch.Tensor.contiguous,
    "strided": strided,
    "transposed": transposed,
    "channels_last": lambda t: channels_last(t) if t.ndim == 4 else t,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["x", "weight", "offset", "style", "mask", "all"])
def test_layout_changes_nothing(name, layout, dtype):
    case = sample_inputs(C=6, groups=2, dtype=dtype)
    laid_out = case.map(lambda n, t: LAYOUTS[layout](t) if name in (n, "all") else t)
    got, want = first_order(laid_out, "native"), first_order(case, "native")
    for key, value in want.items():
        assert_close(got[key], value, dtype, key)


def test_expanded_inputs_are_read_right():
    case = sample_inputs(B=3)
    expanded = case.map(lambda name, t: t if name == "weight" else t[:1].expand_as(t))
    assert expanded.x.stride(0) == 0
    dense = expanded.map(lambda _, t: t.contiguous())
    for got, want in zip(first_order(expanded, "native").values(), first_order(dense, "native").values(), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_expanded_and_channels_last_cotangents_are_read_right(dtype):
    case = sample_inputs(dtype=dtype).leaves()
    y = case.run("native")
    value = torch.tensor(0.5, dtype=dtype)
    ends = list(case.tensors().values())
    want = torch.autograd.grad(y, ends, torch.full_like(y, 0.5), retain_graph=True)
    for grad_y in (value.expand_as(y), channels_last(torch.full_like(y, 0.5)), strided(torch.full_like(y, 0.5))):
        for got, expected in zip(torch.autograd.grad(y, ends, grad_y, retain_graph=True), want, strict=True):
            assert_close(got, expected, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("style", [False, True], ids=["plain", "demod"])
def test_memory_format_of_y_and_grad_x_follows_x(style, dtype):
    case = sample_inputs(style=style, dtype=dtype)
    for x, wanted in ((case.x, torch.contiguous_format), (channels_last(case.x), torch.channels_last)):
        x = x.detach().requires_grad_()
        y = replace(case, x=x).run("native")
        assert y.dtype == dtype
        assert y.is_contiguous(memory_format=wanted)
        (grad,) = torch.autograd.grad(y.sum(), x)
        assert grad.dtype == dtype
        assert grad.is_contiguous(memory_format=wanted)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("impl", ["native", "reference"])
def test_empty_batch_gives_empty_results_and_zero_weight_gradient(impl, layout, dtype):
    case = sample_inputs(B=0, dtype=dtype)
    case = replace(case, x=case.x.contiguous(memory_format=layout))
    found = first_order(case, impl)
    assert found["y"].shape == (0, 3, 2, 3)
    for name, t in case.tensors().items():
        assert found[name].shape == t.shape
        assert found[name].dtype == t.dtype
    assert torch.equal(found["weight"], torch.zeros_like(case.weight))
    second = second_order(case, impl)["weight"]
    assert second is not None
    assert torch.equal(second, torch.zeros_like(case.weight))


@pytest.mark.parametrize("B", [1, 3])
@pytest.mark.parametrize("dtype", FULL, ids=str)
def test_batch_sizes(B, dtype):
    hold_equal(sample_inputs(B=B), dtype, order=2)


@pytest.mark.parametrize("C", [1, 3, 17, 130, 257])
@pytest.mark.parametrize("dtype", FULL, ids=str)
def test_odd_channel_counts(C, dtype):
    # Demodulation cancels the style of a single channel, so its gradient would be pure rounding error.
    hold_equal(sample_inputs(C=C, O=5, demodulate=C > 1), dtype, order=2)


@pytest.mark.parametrize(("C", "groups"), [(514, 2), (257, 257), (390, 3)])
def test_channel_slices_within_groups(C, groups):
    case = sample_inputs(B=1, C=C, O=2, groups=groups, kernel=(1, 2), padding=(0, 0))
    hold_equal(case, torch.float64, order=2)


@pytest.mark.parametrize("O", [1, 3, 65])
def test_odd_output_channel_counts(O):
    hold_equal(sample_inputs(O=O), torch.float32, order=2)


@pytest.mark.parametrize("kernel", [(1, 1), (1, 3), (3, 1), (2, 4), (5, 5)])
def test_kernel_shapes(kernel):
    padding = (kernel[0] // 2, kernel[1] // 2)
    hold_equal(one_by_one(kernel=kernel, padding=padding), torch.float64, order=2)


@pytest.mark.parametrize(("kernel", "padding"), [((1, 1), (0, 0)), ((3, 3), (1, 1)), ((3, 2), (1, 1))])
@pytest.mark.parametrize("C", [1, 4])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
def test_one_pixel_images(layout, C, kernel, padding):
    case = one_by_one(C=C, size=(1, 1), kernel=kernel, padding=padding, demodulate=C > 1)
    case = replace(case, offset=case.offset % 1 - 0.5, x=case.x.contiguous(memory_format=layout))
    assert case.run("reference").abs().max() > 0.01
    hold_equal(case, torch.float64, order=2)


@pytest.mark.parametrize("size", [(1, 9), (9, 1), (2, 1)])
def test_images_one_pixel_wide_or_high(size):
    hold_equal(one_by_one(size=size, kernel=(3, 3), padding=(1, 1)), torch.float64, order=2)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_few_rows_without_gradients_leave_the_weight_as_it_lies(groups, dtype, monkeypatch):
    case = sample_inputs(B=1, C=21, O=7, groups=groups, dtype=dtype)  # 6 rows
    converted = []
    original = _native.weight_matrix
    monkeypatch.setattr(_native, "weight_matrix", lambda weight: converted.append(1) or original(weight))
    with torch.no_grad():
        y = case.run("native")
        assert not converted
        wide = replace(case, weight=case.weight[:5])  # more rows than output channels
        wide.run("native")
        assert converted
    assert torch.allclose(y.double(), case.run("reference").double(), atol=2e-2 if dtype == torch.bfloat16 else 1e-5)


def test_images_of_more_than_1024_blocks_of_pixels():
    """The scatter's blocks grow with the image: they have 16 pixels each up to 128x128."""
    hold_equal(one_by_one(B=1, C=2, O=1, size=(131, 129), kernel=(1, 2), padding=(0, 1)), torch.float64, order=2)


@pytest.mark.parametrize("stride", [(1, 3), (3, 1)])
@pytest.mark.parametrize("dilation", [(1, 3), (3, 1)])
@pytest.mark.parametrize("padding", [(0, 4), (4, 0)])
def test_strides_paddings_and_dilations(stride, dilation, padding):
    case = sample_inputs(size=(9, 7), kernel=(3, 2), stride=stride, dilation=dilation, padding=padding)
    hold_equal(case, torch.float64)


def test_int_geometry_means_both_axes():
    case = one_by_one(size=(7, 8), kernel=(2, 3), stride=(2, 2), padding=(1, 1), dilation=(2, 2))
    ints = replace(case, options={"stride": 2, "padding": 1, "dilation": 2})
    assert torch.equal(ints.run("native"), case.run("native"))


@pytest.mark.parametrize("rows", [1, 5, 6, 7, 17])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_chunks_may_cut_images_anywhere(rows, dtype, monkeypatch):
    case = sample_inputs(B=3, dtype=dtype)  # 6 rows per image, 18 in all
    monkeypatch.setitem(_chunks.CHUNK_ROWS, "cpu", rows)
    s = _native.Sampling(case.x, case.offset, case.mask, (3, 2), (2, 1), (1, 0), (2, 1))
    sizes = [end - begin for begin, end in s.chunks()]
    assert sum(sizes) == 18
    assert len(sizes) == -(-18 // rows)
    assert len({*sizes[:-1]}) <= 1  # equal sizes; the last chunk may be shorter
    assert sizes[-1] <= sizes[0] <= rows
    half = dtype == torch.bfloat16
    hold_equal(case, dtype, factor=2 if half else 1, order=1 if half else 2)


def test_chunks_cut_by_bytes(monkeypatch):
    case = one_by_one(B=2, size=(9, 11), kernel=(3, 3), padding=(1, 1))  # 198 rows
    monkeypatch.setitem(_chunks.CHUNK_BYTES, "cpu", 1)
    s = _native.Sampling(case.x, case.offset, case.mask, (3, 3), (1, 1), (1, 1), (1, 1))
    assert list(s.chunks()) == [(0, 50), (50, 100), (100, 150), (150, 198)]  # at least 64 rows, then cut evenly
    hold_equal(case, torch.float64, order=2)


def test_gather_gives_the_columns_of_the_reference():
    case = sample_inputs(groups=2)
    s = _native.Sampling(case.x, case.offset, case.mask, (3, 2), (2, 1), (1, 0), (2, 1))
    columns = s.gather(0, s.rows, s.new_columns()).view(2, 6, 6, 4)  # image, position, tap, channel
    want = sample_columns(case.x, case.offset, case.mask, (3, 2), (2, 1), (1, 0), (2, 1))
    assert_close(columns.permute(0, 3, 2, 1), want, torch.float64)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 15, 17), (3, 16, 16), (1, 33, 5), (0, 4, 4)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_transpose_is_exact(shape, dtype):
    t = torch.randn(shape).to(dtype)
    got = _matrix.transpose(t)
    assert got.is_contiguous()
    assert torch.equal(got, t.transpose(1, 2))


def test_params_mirror_the_struct_of_the_kernels():
    assert _build.load_cpu().sample_params_size() == ctypes.sizeof(_native.SampleParams)


@pytest.mark.parametrize("steering", [torch.float16, torch.bfloat16, torch.float64])
def test_offset_and_mask_of_another_dtype_are_used_in_float32_and_get_gradients_of_theirs(steering):
    case = sample_inputs(dtype=torch.float32)
    assert case.mask is not None
    other = replace(case, offset=case.offset.to(steering), mask=case.mask.to(steering))
    same = replace(case, offset=other.offset.float(), mask=case.mask.to(steering).float())
    got, want = first_order(other, "native"), first_order(same, "native")
    assert torch.equal(got["y"], want["y"])
    assert got["offset"].dtype == got["mask"].dtype == steering
    assert torch.equal(got["offset"], want["offset"].to(steering))


@pytest.mark.parametrize("impl", ["native", "reference"])
def test_float32_offsets_keep_their_fractions_for_half_x(impl):
    x = torch.zeros(1, 1, 1, 64, dtype=torch.float16)
    x[..., 41] = 1
    offset = torch.zeros(1, 2, 1, 64)
    offset[0, 1, 0, 20] = 20.0078125  # half would round it to 20.0, and the position 40.0078 to 40
    y = modulated_deform_conv2d(x, torch.ones(1, 1, 1, 1, dtype=torch.float16), offset, impl=impl)
    assert y[0, 0, 0, 20].item() == 0.0078125


@pytest.mark.parametrize("impl", ["native", "reference"])
def test_float16_does_not_overflow_where_float32_does_not(impl):
    g = torch.Generator().manual_seed(0)
    x = 256 * torch.randn(2, 512, 8, 8, generator=g)
    weight, style = 10 * torch.randn(16, 512, 3, 3, generator=g), 30 + 10 * torch.randn(2, 512, generator=g)
    offset = 2 * torch.randn(2, 18, 8, 8, generator=g)
    naive = (x * style[:, :, None, None]).half() * weight[:1, :, 1:2, 1:2].half()
    assert not naive.isfinite().all(), "this case would not overflow anyway"
    case = Case(x, weight, offset, style, None, {"padding": 1})
    half = case.to(torch.float16)
    y = half.run(impl)
    assert y.isfinite().all()
    assert_close(y, half.to(torch.float32).run("reference"), torch.float16)


def test_float16_gradients_do_not_overflow_either():
    g = torch.Generator().manual_seed(0)
    x = 256 * torch.randn(1, 512, 4, 4, generator=g)
    weight, style = 10 * torch.randn(4, 512, 3, 3, generator=g), 30 + 10 * torch.randn(1, 512, generator=g)
    case = Case(x, weight, 2 * torch.randn(1, 18, 4, 4, generator=g), style, None, {"padding": 1}).to(torch.float16)
    got, want = first_order(case, "native"), first_order(case.to(torch.float32), "reference")
    for name in want:
        assert got[name].isfinite().all(), name
        assert relative_error(got[name], want[name]) < 8 * 2.0**-10 * 2, name


@pytest.mark.parametrize("impl", ["native", "reference"])
def test_float16_demodulation_survives_tiny_and_huge_styles(impl):
    case = sample_inputs(C=16, dtype=torch.float32, mask=False)
    assert case.style is not None
    for scale in (1e-3, 1.0, 1e3):
        scaled = replace(case, style=case.style * scale)
        want = scaled.to(torch.float64).run("reference")
        assert_close(scaled.to(torch.float16).run(impl), want, torch.float16, f"style of {scale}")


def test_inputs_are_left_as_they_were():
    case = sample_inputs()
    before = {n: t.clone() for n, t in case.tensors().items()}
    second_order(case, "native")
    for name, t in case.tensors().items():
        assert torch.equal(t, before[name]), name


def test_no_grad_and_inference_mode_give_the_same_bits():
    case = sample_inputs()
    y = case.leaves().run("native")
    with torch.no_grad():
        assert torch.equal(case.run("native"), y)
    with torch.inference_mode():
        assert torch.equal(case.run("native"), y)
