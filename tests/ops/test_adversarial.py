"""Hostile offsets: NaN, infinities, huge values, and positions on or next to a border.

Hypothesis picks the offsets. For forward, first and second derivatives, the native op must give finite results that
equal the reference. Separate tests check that arbitrary bits do not crash it and that a bad pixel does not spread.
"""

from dataclasses import replace

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from op_cases import Case, assert_close, first_order, one_by_one, sample_inputs, second_order

from mtm_ops import modulated_deform_conv2d

INF, NAN = float("inf"), float("nan")
HOSTILE = [1e9, -1e9, INF, -INF, NAN, 3.4e38, -3.4e38, 2.0**31, -(2.0**31), 2.0**63, -(2.0**63), 1e-45, -1e-45]
# borders() places taps on and next to each border: -1 is one pixel before the first, H one pixel after the last.
EPS = 1e-3
KERNEL, SIZE, OUT = (3, 2), (5, 4), (2, 3)
quiet = settings(
    max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)


def borders(n: int) -> list[float]:
    edges = (-1.0, 0.0, n - 1.0, float(n))
    return [edge + step for edge in edges for step in (-1.0, -EPS, -1e-7, 0.0, 1e-7, EPS)]


def tap_places() -> torch.Tensor:
    """Sampling positions of the taps at offset 0, in px: [2*kh*kw, Ho, Wo] with y and x alternating."""
    oy, ox = torch.arange(OUT[0]).view(-1, 1) * 2.0 - 1, torch.arange(OUT[1]).view(1, -1) * 1.0
    zero = torch.zeros(OUT)
    rows = []
    for ky in range(KERNEL[0]):
        for kx in range(KERNEL[1]):
            rows += [zero + oy + 2 * ky, zero + ox + kx]
    return torch.stack(rows).double()


def hostile_offsets(dtype: torch.dtype) -> st.SearchStrategy[torch.Tensor]:
    """[1, 12, 2, 3]: each value is either hostile itself or moves its tap onto or next to a border."""
    places = tap_places()
    count = places.numel()
    numbers = st.lists(st.integers(0, 2**16), min_size=count, max_size=count)

    def build(codes: list[int]) -> torch.Tensor:
        offset = torch.empty_like(places)
        for i, code in enumerate(codes):
            channel = i // (OUT[0] * OUT[1])
            edge_places = borders(SIZE[channel % 2])
            pick = code % (len(HOSTILE) + 2 * len(edge_places))
            flat = places.view(-1)[i]
            offset.view(-1)[i] = (
                HOSTILE[pick] if pick < len(HOSTILE) else edge_places[(pick - len(HOSTILE)) % len(edge_places)] - flat
            )
        return offset.unsqueeze(0).to(dtype)

    return numbers.map(build)


def hold_everywhere(case: Case, dtype: torch.dtype) -> None:
    for order in (first_order, second_order):
        got, want = order(case, "native"), order(case, "reference")
        for name, value in want.items():
            found = got[name]
            assert value is not None
            assert found is not None, name
            assert value.isfinite().all(), f"the reference's {name} is not finite"
            assert found.isfinite().all(), f"{name} is not finite"
            # Nearly everything is cut off, so sums are small compared with their terms: use a scale of at least 1.
            scale = max(1.0, float(value.abs().max()))
            assert_close(found / scale + 1, value / scale + 1, dtype, f"{order.__name__} {name}", 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("mask", [False, True], ids=["no-mask", "mask"])
def test_hostile_offsets_in_every_position(mask, dtype):
    base = sample_inputs(B=1, C=3, O=2, mask=mask, dtype=dtype, demodulate=False)

    @quiet
    @given(hostile_offsets(dtype))
    def hold(offset: torch.Tensor) -> None:
        hold_everywhere(replace(base, offset=offset), dtype)

    hold()


@pytest.mark.parametrize("bad", [1e9, -1e9, INF, -INF, NAN], ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_one_bad_value_in_each_position_silences_its_tap_alone(bad, dtype):
    case = sample_inputs(B=1, C=2, O=2, dtype=dtype, mask=False)
    calm = case.run("native")
    for i in range(case.offset.numel()):
        offset = case.offset.clone()
        offset.view(-1)[i] = bad
        y = replace(case, offset=offset).run("native")
        place = i % (OUT[0] * OUT[1])
        others = torch.arange(OUT[0] * OUT[1]) != place
        assert y.isfinite().all()
        assert torch.equal(y.flatten(2)[..., others], calm.flatten(2)[..., others])


@pytest.mark.parametrize("bad", [1e9, INF, NAN], ids=str)
def test_all_offsets_bad_give_zero_and_no_gradient_to_what_is_sampled(bad):
    case = sample_inputs(C=130)
    found = first_order(replace(case, offset=torch.full_like(case.offset, bad)), "native")
    for name in ("y", "x", "weight", "offset", "mask", "style"):
        assert not found[name].any(), name


@pytest.mark.parametrize("impl", ["native", "reference"])
def test_uninitialised_memory_as_latents_never_crashes(impl):
    """Hosts run their generator once on torch.empty, so offsets, styles and masks can hold any bits."""
    g = torch.Generator().manual_seed(0)
    case = sample_inputs(B=1, dtype=torch.float32)
    for _ in range(50):
        bits = torch.randint(-(2**31), 2**31, (case.offset.numel(),), generator=g).to(torch.int32)
        offset = bits.view(torch.float32).view(case.offset.shape)
        y = replace(case, offset=offset).run(impl)
        assert y.isfinite().all()


@pytest.mark.parametrize("impl", ["native", "reference"])
@pytest.mark.parametrize("bad", [NAN, INF], ids=str)
def test_a_bad_pixel_that_no_tap_touches_does_not_spread(bad, impl):
    case = one_by_one(B=2, C=3, size=(6, 5), kernel=(1, 1), style=False, mask=False)
    offset = torch.zeros_like(case.offset)
    offset[:, 0, 2:] = 0.5  # rows 2.5 to 5.5
    offset[:, 0, :2] = -0.5  # rows -0.5 and 0.5
    case = replace(case, offset=offset)
    clean = first_order(case, impl)
    x = case.x.clone()
    x[0, 1, 4, 3] = bad
    spoiled = first_order(replace(case, x=x), impl)
    touched = torch.zeros(6, 5, dtype=torch.bool)
    # Rows 3.5 and 4.5 read pixel row 4. At whole columns the right-hand corner has weight 0, but 0 * NaN is NaN.
    touched[3:5, 2:4] = True
    assert torch.equal(spoiled["y"][1], clean["y"][1])
    assert torch.equal(spoiled["y"][0][:, ~touched], clean["y"][0][:, ~touched])
    assert not spoiled["y"][0][:, 3:5, 3].isfinite().any()
    assert torch.equal(spoiled["x"], clean["x"])  # y is linear in x, so this gradient does not read x
    assert torch.equal(spoiled["offset"][0][:, ~touched], clean["offset"][0][:, ~touched])


@pytest.mark.parametrize("bad", [NAN, INF], ids=str)
@pytest.mark.parametrize("name", ["x", "weight", "style", "mask"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_bad_values_in_other_tensors_do_not_crash_at_any_order(dtype, name, bad):
    case = sample_inputs(dtype=dtype)
    spoiled = getattr(case, name).clone()
    spoiled.view(-1)[-1] = bad
    case = replace(case, **{name: spoiled})
    assert not case.run("native").isfinite().all()
    second_order(case, "native")


def test_a_bad_sample_does_not_spoil_the_others():
    case = sample_inputs(B=3)
    clean = case.run("native")
    x = case.x.clone()
    x[1] = NAN
    y = replace(case, x=x).run("native")
    assert torch.equal(y[::2], clean[::2])


@pytest.mark.parametrize("impl", ["native", "reference"])
def test_offsets_of_a_billion_pixels_on_a_wide_kernel(impl):
    g = torch.Generator().manual_seed(1)
    x, weight = torch.randn(1, 2, 7, 7, generator=g), torch.randn(2, 2, 5, 5, generator=g)
    offset = 1e9 * torch.randn(1, 50, 7, 7, generator=g)
    y = modulated_deform_conv2d(x, weight, offset, padding=2, impl=impl)
    assert not y.any()
