"""The reference is the specification, so it is tested against formulas that share no code with it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from op_cases import Case, assert_close, bilinear, one_by_one, oracle, sample_inputs, textbook_weight

from mtm_ops import modulated_deform_conv2d, reference


@pytest.mark.parametrize("mask", [False, True], ids=["no-mask", "mask"])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(
    "modulation",
    [{"style": False}, {"style": True}, {"style": True, "demodulate": False}],
    ids=["plain", "demod", "mod"],
)
def test_equals_seven_loops(modulation, groups, mask):
    case = sample_inputs(groups=groups, mask=mask, **modulation)
    assert_close(case.run("reference"), torch.from_numpy(oracle(case)), torch.float64)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("scale_px", [0.3, 3.0, 30.0])
def test_equals_seven_loops_for_offsets_of_any_size(scale_px, seed):
    case = sample_inputs(seed=seed, groups=2)
    case = Case(case.x, case.weight, case.offset * scale_px, case.style, case.mask, case.options)
    assert_close(case.run("reference"), torch.from_numpy(oracle(case)), torch.float64)


def test_sample_inputs_have_the_unequal_sizes_that_they_promise():
    case = sample_inputs()
    assert case.x.shape[2:] == (5, 4)
    assert case.weight.shape[2:] == (3, 2)
    assert case.run("reference").shape == (2, 3, 2, 3)
    fraction = case.offset - case.offset.floor()
    assert 0.14 < fraction.min() < fraction.max() < 0.86


@pytest.mark.parametrize("kernel", [(3, 2), (1, 1), (3, 3), (1, 3)])
def test_zero_offsets_equal_plain_convolution(kernel):
    case = sample_inputs(size=(9, 8), kernel=kernel, style=False, mask=False)
    y = modulated_deform_conv2d(case.x, case.weight, case.offset * 0, impl="reference", **case.options)
    assert_close(y, F.conv2d(case.x, case.weight, **case.options), torch.float64)


def test_whole_pixel_offsets_shift_the_picture():
    x = torch.randn(1, 2, 6, 7, dtype=torch.float64)
    weight = torch.eye(2, dtype=torch.float64).view(2, 2, 1, 1)
    offset = torch.tensor([2.0, -1.0], dtype=torch.float64).view(1, 2, 1, 1).expand(1, 2, 6, 7)
    y = modulated_deform_conv2d(x, weight, offset, impl="reference")
    want = torch.zeros_like(x)
    want[:, :, :4, 1:] = x[:, :, 2:, :-1]
    assert_close(y, want, torch.float64)


@pytest.mark.parametrize("demodulate", [False, True])
def test_modulation_equals_a_weight_per_sample(demodulate):
    case = sample_inputs(B=3, size=(9, 8), mask=False, demodulate=demodulate)
    assert case.style is not None
    y = modulated_deform_conv2d(case.x, case.weight, case.offset * 0, case.style, impl="reference", **case.options)
    geometry = {k: case.options[k] for k in ("stride", "padding", "dilation")}
    for b in range(3):
        weight = torch.from_numpy(textbook_weight(case.weight.numpy(), case.style[b].numpy(), demodulate))
        assert_close(y[b : b + 1], F.conv2d(case.x[b : b + 1], weight, **geometry), torch.float64)


def test_demodulation_gives_unit_variance_outputs():
    g = torch.Generator().manual_seed(0)
    x, weight = torch.randn(4, 64, 24, 24, generator=g), 7 * torch.randn(32, 64, 3, 3, generator=g)
    style = 5 * torch.rand(4, 64, generator=g) + 0.5
    y = modulated_deform_conv2d(x, weight, torch.zeros(4, 18, 22, 22), style, impl="reference")
    assert 0.9 < y.std() < 1.1


def test_a_sample_does_not_see_another():
    case = sample_inputs(B=3)
    y = case.run("reference")
    for b, only in enumerate((slice(0, 1), slice(1, 2), slice(2, 3))):
        alone = replace(case, **{n: getattr(case, n)[only] for n in ("x", "offset", "style", "mask")})
        assert_close(y[b : b + 1], alone.run("reference"), torch.float64)


def test_mask_of_ones_changes_nothing_and_zeros_silence():
    case = sample_inputs(mask=False)
    ones = torch.ones(2, 6, 2, 3, dtype=torch.float64)
    plain = case.run("reference")
    masked = modulated_deform_conv2d(
        case.x, case.weight, case.offset, case.style, mask=ones, impl="reference", **case.options
    )
    silent = modulated_deform_conv2d(
        case.x, case.weight, case.offset, case.style, mask=ones * 0, impl="reference", **case.options
    )
    assert_close(masked, plain, torch.float64)
    assert plain.abs().max() > 0.1
    assert silent.abs().max() == 0


def test_mask_steers_the_tap_that_it_names():
    case = one_by_one(B=1, C=1, O=1, size=(3, 2), kernel=(3, 2), style=False, mask=False)
    zero = torch.zeros(1, 12, 1, 1, dtype=torch.float64)
    for tap in range(6):
        mask = torch.zeros(1, 6, 1, 1, dtype=torch.float64)
        mask[0, tap] = 2
        y = modulated_deform_conv2d(case.x, case.weight, zero, mask=mask, impl="reference")
        assert_close(y.flatten(), 2 * (case.x * case.weight).flatten()[tap : tap + 1], torch.float64)


def test_offset_groups_steer_their_own_channels():
    case = sample_inputs(C=6, groups=3, style=False)
    assert case.mask is not None
    parts = [
        modulated_deform_conv2d(
            case.x[:, 2 * g : 2 * g + 2],
            case.weight[:, 2 * g : 2 * g + 2],
            case.offset[:, 12 * g : 12 * g + 12],
            mask=case.mask[:, 6 * g : 6 * g + 6],
            impl="reference",
            **case.options,
        )
        for g in range(3)
    ]
    assert_close(case.run("reference"), torch.stack(parts).sum(0), torch.float64)


# One tap with weight 1 on the image 1 2 / 3 4: (dy, dx) and the sampled value, worked out by hand.
GOLDEN = [
    ((0.0, 0.0), 1.0),
    ((0.5, 0.5), 2.5),  # (1 + 2 + 3 + 4) / 4
    ((0.0, 0.25), 1.25),  # 0.75 * 1 + 0.25 * 2
    ((0.75, 0.0), 2.5),  # 0.25 * 1 + 0.75 * 3
    ((0.25, 0.75), 2.25),  # 0.75 * (0.25 + 1.5) + 0.25 * (0.75 + 3)
    ((-0.5, 0.0), 0.5),  # half of the corner is outside
    ((-0.5, -0.5), 0.25),
    ((1.0, 1.0), 4.0),
    ((1.5, 1.0), 2.0),
    ((1.25, 1.25), 2.25),  # 0.75 * 0.75 * 4
    ((2.0, 0.0), 0.0),  # a pixel outside
    ((-1.0, 0.0), 0.0),
    ((0.0, 2.0), 0.0),
    ((float("nan"), 0.0), 0.0),
    ((0.0, float("inf")), 0.0),
    ((float("-inf"), float("nan")), 0.0),
    ((1e30, -1e30), 0.0),
]


@pytest.mark.parametrize("impl", ["reference", "native"])
@pytest.mark.parametrize(("offset_px", "want"), GOLDEN, ids=[str(px) for px, _ in GOLDEN])
def test_golden_numbers_worked_by_hand(offset_px, want, impl):
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).view(1, 1, 2, 2)
    offset = torch.zeros(1, 2, 2, 2)
    offset[0, :, 0, 0] = torch.tensor(offset_px)
    y = modulated_deform_conv2d(x, torch.ones(1, 1, 1, 1), offset, impl=impl)
    assert y.flatten().tolist() == [want, 2.0, 3.0, 4.0]


@pytest.mark.parametrize("impl", ["reference", "native"])
def test_golden_modulated_number_worked_by_hand(impl):
    # x = (3, 5), weight = (2, 1), style = (1, 2): modulated weight (2, 2), norm sqrt(8), so y = (6 + 10) / sqrt(8).
    x = torch.tensor([3.0, 5.0], dtype=torch.float64).view(1, 2, 1, 1)
    weight = torch.tensor([2.0, 1.0], dtype=torch.float64).view(1, 2, 1, 1)
    style = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    zero = torch.zeros(1, 2, 1, 1, dtype=torch.float64)
    y = modulated_deform_conv2d(x, weight, zero, style, impl=impl)
    assert y.item() == pytest.approx(16 / 8**0.5, rel=1e-8)
    assert modulated_deform_conv2d(x, weight, zero, style, demodulate=False, impl=impl).item() == 16


def test_the_oracle_interpolates_as_numpy_does():
    image = np.arange(20.0).reshape(5, 4)
    assert bilinear(image, 1.3, 2.4) == pytest.approx(np.interp(1.3, [1, 2], [6.4, 10.4]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_sums_and_places_are_float32_at_least(dtype):
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert reference.accumulation_dtype(dtype) == wide


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "dilation", "want"),
    [
        ((5, 4), (3, 2), (2, 1), (1, 0), (2, 1), (2, 3)),
        ((8, 8), (3, 3), (1, 1), (1, 1), (1, 1), (8, 8)),
        ((1, 1), (3, 3), (1, 1), (0, 0), (1, 1), (-1, -1)),
    ],
)
def test_output_size_is_that_of_a_convolution(size, kernel, stride, padding, dilation, want):
    assert reference.output_size(size, kernel, stride, padding, dilation) == want


def test_reference_differentiates_three_times():
    case = sample_inputs(B=1, C=2, O=1, size=(3, 4)).leaves()
    g = torch.autograd.grad(case.run("reference").square().sum(), case.offset, create_graph=True)[0]
    g = torch.autograd.grad(g.square().sum(), case.offset, create_graph=True)[0]
    g = torch.autograd.grad(g.square().sum(), case.offset)[0]
    assert g.isfinite().all()
    assert g.abs().max() > 0


def test_takes_offsets_in_any_strides():
    case = sample_inputs(groups=2)
    offset = case.offset.transpose(0, 3).contiguous().transpose(0, 3)
    assert torch.equal(replace(case, offset=offset).run("reference"), case.run("reference"))
