"""Every error of the public function names the rule, the expected value and the value it got."""

import re
from typing import Any

import pytest
import torch

from mtm_ops import _build, functional, modulated_deform_conv2d

ones = torch.ones


def call(impl: str = "reference", **given: Any) -> torch.Tensor:
    """A call that is valid except for the arguments given."""
    arguments: dict[str, Any] = {
        "x": ones(2, 6, 5, 4),
        "weight": ones(3, 6, 3, 3),
        "offset": ones(2, 18, 3, 2),
        "style": ones(2, 6),
        "mask": ones(2, 9, 3, 2),
    }
    return modulated_deform_conv2d(**{**arguments, **given}, impl=impl)


def test_the_call_that_the_cases_start_from_is_right():
    assert call().shape == (2, 3, 3, 2)


SHAPES: list[tuple[dict[str, Any], str]] = [
    ({"x": ones(6, 5, 4)}, "x must be [B, C, H, W] with C, H and W of at least 1; got [6, 5, 4]."),
    ({"x": ones(2, 6, 0, 4)}, "x must be [B, C, H, W] with C, H and W of at least 1; got [2, 6, 0, 4]."),
    *(
        (
            {"weight": ones(shape)},
            "weight must be [O, 6/n, kh, kw] for x of 6 channels, the number n of weight groups dividing both 6 and O; "
            f"got {list(shape)}.",
        )
        for shape in [(3, 5, 3, 3), (3, 4, 3, 3), (3, 3, 3, 3), (3, 12, 3, 3), (3, 6, 3), (0, 6, 3, 3), (3, 0, 3, 3)]
    ),
    ({"weight": ones(3, 6, 7, 3)}, "x must be large enough for a 7x3 kernel with"),
    ({"weight": ones(3, 6, 7, 3)}, "whose output would be -1x2; got [5, 4]."),
    ({"dilation": 3}, "large enough for a 3x3 kernel with Geometry(stride=(1, 1), padding=(0, 0), dilation=(3, 3))"),
    (
        {"offset": ones(2, 20, 3, 2)},
        "offset must have 2*G*kh*kw channels, a multiple of 18 for this 3x3 weight; got 20.",
    ),
    ({"offset": ones(2, 0, 3, 2)}, "offset must have 2*G*kh*kw channels, a multiple of 18 for this 3x3 weight; got 0."),
    ({"offset": ones(18, 3, 2)}, "a multiple of 18 for this 3x3 weight; got [18, 3, 2]."),
    (
        {"offset": ones(2, 72, 3, 2)},
        "offset must have a number of groups that divides x's 6 channels; got 4 groups.",
    ),
    (
        {"offset": ones(2, 18, 5, 4)},
        "offset must be [2, 18, 3, 2], one pair per tap and output pixel; got [2, 18, 5, 4].",
    ),
    (
        {"offset": ones(1, 18, 3, 2)},
        "offset must be [2, 18, 3, 2], one pair per tap and output pixel; got [1, 18, 3, 2].",
    ),
    ({"mask": ones(2, 18, 3, 2)}, "mask must be [2, 9, 3, 2], one factor per tap and output pixel; got [2, 18, 3, 2]."),
    ({"mask": ones(2, 9)}, "mask must be [2, 9, 3, 2], one factor per tap and output pixel; got [2, 9]."),
    ({"style": ones(2, 3)}, "style must be [2, 6], one factor per sample and input channel; got [2, 3]."),
    ({"style": ones(6)}, "style must be [2, 6], one factor per sample and input channel; got [6]."),
]
DTYPES: list[tuple[dict[str, Any], str]] = [
    ({"x": ones(2, 6, 5, 4).numpy()}, "x must be a torch.Tensor; got numpy.ndarray."),
    ({"weight": None}, "weight must be a torch.Tensor; got builtins.NoneType."),
    ({"offset": ones(2, 18, 3, 2).numpy()}, "offset must be a torch.Tensor; got numpy.ndarray."),
    ({"style": [1.0]}, "style must be a torch.Tensor; got builtins.list."),
    ({"mask": 1}, "mask must be a torch.Tensor; got builtins.int."),
    ({"x": ones(2, 6, 5, 4).int()}, "x must be float32, float64, float16 or bfloat16; got torch.int32."),
    (
        {"x": ones(2, 6, 5, 4).to(torch.complex64)},
        "x must be float32, float64, float16 or bfloat16; got torch.complex64.",
    ),
    ({"weight": ones(3, 6, 3, 3).half()}, "weight must have x's dtype, torch.float32; got torch.float16."),
    ({"offset": ones(2, 18, 3, 2).long()}, "offset must be floating point, of 16 to 64 bits; got torch.int64."),
    ({"mask": ones(2, 9, 3, 2).bool()}, "mask must be floating point, of 16 to 64 bits; got torch.bool."),
    ({"style": ones(2, 6).int()}, "style must be floating point, of 16 to 64 bits; got torch.int32."),
]
GEOMETRIES: list[tuple[str, Any, int]] = [
    ("stride", 0, 1),
    ("stride", (1, 0), 1),
    ("stride", (1, 1, 1), 1),
    ("stride", (1,), 1),
    ("stride", (1, 1.5), 1),
    ("stride", 1.5, 1),
    ("stride", None, 1),
    ("stride", "same", 1),
    ("padding", -1, 0),
    ("padding", (0, -2), 0),
    ("padding", "same", 0),
    ("dilation", 0, 1),
    ("dilation", (1, -1), 1),
    ("stride", 2**31, 1),
    ("padding", (0, 2**63), 0),
    ("dilation", 2**100, 1),
]


@pytest.mark.parametrize("impl", ["reference", "native", "auto"])
@pytest.mark.parametrize(("given", "message"), SHAPES, ids=[m[-40:] for _, m in SHAPES])
def test_wrong_shapes(given, message, impl):
    with pytest.raises(ValueError, match=r"^modulated_deform_conv2d: .*" + re.escape(message)):
        call(impl, **given)


@pytest.mark.parametrize("impl", ["reference", "native", "auto"])
@pytest.mark.parametrize(("given", "message"), DTYPES, ids=[m[:40] for _, m in DTYPES])
def test_wrong_dtypes(given, message, impl):
    with pytest.raises(TypeError, match="^modulated_deform_conv2d: " + re.escape(message)):
        call(impl, **given)


@pytest.mark.parametrize(("name", "value", "least"), GEOMETRIES, ids=str)
def test_wrong_geometry(name, value, least):
    message = (
        f"modulated_deform_conv2d: {name} must be an int, or two (y, x), from {least} to {2**31 - 1}; got {value!r}."
    )
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        call(**{name: value})


@pytest.mark.parametrize(
    ("name", "shape"),
    [("weight", (3, 6, 3, 3)), ("offset", (2, 18, 3, 2)), ("mask", (2, 9, 3, 2)), ("style", (2, 6))],
)
def test_tensors_on_another_device(name, shape):
    message = rf"^modulated_deform_conv2d: {name} must be on x's device, cpu; got meta\."
    with pytest.raises(ValueError, match=message):
        call("reference", **{name: ones(shape, device="meta")})


def test_unknown_impl():
    message = r"^modulated_deform_conv2d: impl must be one of auto, native, reference; got 'cuda'\."
    with pytest.raises(ValueError, match=message):
        call("cuda")


@pytest.fixture
def no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise _build.BuildError("the compiler is on holiday.")

    monkeypatch.setattr(_build, "load_cpu", fail)
    monkeypatch.setattr(functional, "_warned", set())


@pytest.mark.usefixtures("no_kernel")
def test_native_that_cannot_be_had_says_why_and_what_to_do():
    message = r"impl='native' cannot run on cpu: the compiler is on holiday\. Run python -m mtm_ops\.doctor"
    with pytest.raises(RuntimeError, match=message):
        call("native")


@pytest.mark.usefixtures("no_kernel")
def test_auto_without_kernel_warns_once_at_the_callers_line():
    with pytest.warns(RuntimeWarning, match=r"using the reference .* on cpu.*on holiday.*doctor") as caught:
        y = call("auto")
    assert [w.filename for w in caught] == [__file__]
    assert torch.equal(y, call("reference"))
    assert torch.equal(call("auto"), y)  # a second warning would fail the test


def test_errors_come_before_any_work_on_the_arguments():
    x = ones(2, 6, 5, 4, requires_grad=True)
    with pytest.raises(ValueError, match="offset"):
        call(x=x, offset=ones(2, 20, 3, 2))
    assert x.grad is None
