"""The registered ops, which traced and exported graphs call without the public function.

They must refuse wrong arguments themselves, and their fake kernels must promise the shapes and dtypes that the real
kernels return.
"""

import itertools
import re
from dataclasses import replace

import forked
import pytest
import torch
from op_cases import Case, assert_close, sample_inputs
from torch import Tensor
from torch._subclasses import FakeTensorMode

OPS = torch.ops.mtm_ops
GEOMETRY = ([2, 1], [1, 0], [2, 1])
ONE = ([1, 1], [0, 0], [1, 1])
HALVES = (torch.float16, torch.bfloat16)

LAYOUTS = {
    "contiguous": lambda t: t.contiguous(),
    "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "transposed": lambda t: t.transpose(-1, -2).contiguous().transpose(-1, -2),
    "expanded": lambda t: t[:1].expand_as(t),
}
SIZES = {
    "usual": {},
    "one channel": {"C": 1, "O": 1},
    "one pixel": {"size": (1, 1), "kernel": (1, 1), "padding": (0, 0)},
    "one output": {"O": 1, "size": (3, 2), "padding": (1, 0)},
    "empty": {"B": 0},
    "groups": {"C": 6, "groups": 3},
    "weight groups": {"C": 6, "O": 4, "groups": 3, "weight_groups": 2},
}


def tensors_of(case: Case) -> list[Tensor | None]:
    return [case.x, case.weight, case.offset, case.mask]


def all_results(x, weight, offset, mask, grad_y, geometry) -> list[Tensor]:
    """What the three ops return if all gradients are needed, and if only some are."""
    inputs = (x, weight, offset, mask)
    results = [OPS.deform_conv2d(*inputs, *geometry)]
    for needs in ([True] * 4, [False, True, False, True], [True, False, True, False]):
        results += OPS.deform_conv2d_backward(grad_y, *inputs, *geometry, needs)
    for needs in ([True] * 5, [False, True, False, True, False], [True, False, True, False, True]):
        results += OPS.deform_conv2d_double_backward(*inputs, grad_y, *inputs, *geometry, needs)
    return results


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALVES], ids=str)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mask", [False, True], ids=["no-mask", "mask"])
def test_fake_kernels_promise_the_shapes_dtypes_and_strides_that_come(mask, size, dtype):
    case = sample_inputs(style=False, mask=mask, dtype=dtype, **SIZES[size])
    geometry = tuple(list(case.options[name]) for name in ("stride", "padding", "dilation"))
    grad_y = OPS.deform_conv2d(*tensors_of(case), *geometry)
    steerings = {dtype, torch.float32, torch.float16}
    weight_layouts = itertools.cycle([LAYOUTS["channels_last"], LAYOUTS["contiguous"]])
    for layout, steering in itertools.product(LAYOUTS.values(), steerings):
        weight_layout = next(weight_layouts)
        laid_out = [layout(case.x), weight_layout(case.weight), layout(case.offset.to(steering))]
        laid_out += [None if case.mask is None else layout(case.mask.to(steering)), layout(grad_y)]
        mode = FakeTensorMode()
        real = all_results(*laid_out, geometry)
        fake = all_results(*(None if t is None else mode.from_tensor(t) for t in laid_out), geometry)
        assert len(real) == len(fake) == 28
        for i, (got, want) in enumerate(zip(fake, real, strict=True)):
            assert (got.shape, got.dtype, got.stride()) == (want.shape, want.dtype, want.stride()), (i, layout)


@pytest.mark.parametrize("steering", [torch.float16, torch.bfloat16, torch.float64])
def test_offset_and_mask_of_another_dtype_get_gradients_of_theirs(steering):
    case = sample_inputs(style=False, dtype=torch.float32)
    assert case.mask is not None
    other = replace(case, offset=case.offset.to(steering), mask=case.mask.to(steering)).leaves()
    y = OPS.deform_conv2d(*tensors_of(other), *GEOMETRY)
    grads = torch.autograd.grad(y.sum(), [other.offset, other.mask])
    same = other.to(torch.float32).leaves()
    want = torch.autograd.grad(OPS.deform_conv2d(*tensors_of(same), *GEOMETRY).sum(), [same.offset, same.mask])
    for got, expected in zip(grads, want, strict=True):
        assert got.dtype == steering
        assert_close(got, expected, min(steering, torch.float32, key=lambda d: d.itemsize))


def ones(*shape: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Tensor:
    return torch.ones(shape, dtype=dtype, device=device)


RIGHT = {
    "gg_x": (2, 4, 5, 5),
    "gg_weight": (3, 4, 3, 3),
    "gg_offset": (2, 18, 3, 3),
    "gg_mask": (2, 9, 3, 3),
    "grad_y": (2, 3, 3, 3),
    "x": (2, 4, 5, 5),
    "weight": (3, 4, 3, 3),
    "offset": (2, 18, 3, 3),
    "mask": (2, 9, 3, 3),
}
OPERATORS = {
    "deform_conv2d": ("x", "weight", "offset", "mask"),
    "deform_conv2d_backward": ("grad_y", "x", "weight", "offset", "mask"),
    "deform_conv2d_double_backward": tuple(RIGHT),
}


def call(op: str, device: str, geometry=ONE, needs: int | None = None, **wrong: Tensor | None):
    given = [wrong.get(name, ones(*RIGHT[name], device=device)) for name in OPERATORS[op]]
    counts = {"deform_conv2d_backward": 4, "deform_conv2d_double_backward": 5}
    rest = [[True] * (needs or counts[op])] if op in counts else []
    return getattr(OPS, op)(*given, *geometry, *rest)


EVERY_ARGUMENT = [(op, name) for op, names in OPERATORS.items() for name in names]
DEVICES = pytest.mark.parametrize("device", ["cpu", "meta"])


@DEVICES
@pytest.mark.parametrize("op", OPERATORS)
def test_the_call_that_the_cases_start_from_is_right(op, device):
    call(op, device)


@DEVICES
@pytest.mark.parametrize("dim", range(4))
@pytest.mark.parametrize(("op", "name"), EVERY_ARGUMENT)
def test_a_tensor_of_another_size_is_refused_by_real_and_fake_kernels(op, name, dim, device):
    """Each argument is one too large in each dimension in turn; the kernels would read or write out of bounds."""
    shape = [n + (i == dim) for i, n in enumerate(RIGHT[name])]
    if (name, dim) == ("weight", 0) and op == "deform_conv2d":
        shape[0] += 1  # a weight with one more output channel is valid
        assert call(op, device, weight=ones(*shape, device=device)).shape[1] == 5
        return
    with pytest.raises(ValueError, match=rf"^mtm_ops::{op}: \w+ must .*; got"):
        call(op, device, **{name: ones(*shape, device=device)})


@DEVICES
@pytest.mark.parametrize(("op", "name"), EVERY_ARGUMENT)
def test_another_dtype_or_rank_is_refused(op, name, device):
    for t in (ones(*RIGHT[name], dtype=torch.int32, device=device), ones(*RIGHT[name], device=device).to(torch.cfloat)):
        with pytest.raises(TypeError, match=rf"^mtm_ops::{op}: \w+ must .*; got"):
            call(op, device, **{name: t})
    if name not in ("offset", "mask", "gg_offset", "gg_mask"):  # used in float32, whatever their dtype
        with pytest.raises(TypeError, match=rf"^mtm_ops::{op}: \w+ must have .*dtype.*; got"):
            call(op, device, **{name: ones(*RIGHT[name], dtype=torch.float16, device=device)})
    with pytest.raises(ValueError, match=rf"^mtm_ops::{op}: \w+ must .*; got"):
        call(op, device, **{name: ones(*RIGHT[name][1:], device=device)})


@DEVICES
@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize(
    ("geometry", "name"),
    [
        (([1], [0, 0], [1, 1]), "stride"),
        (([1, 0], [0, 0], [1, 1]), "stride"),
        (([1, 1], [-1, 0], [1, 1]), "padding"),
        (([1, 1], [0, 0], [1, 1, 1]), "dilation"),
        (([1, 1], [0, 0], [0, 1]), "dilation"),
    ],
)
def test_wrong_geometry_is_refused(op, geometry, name, device):
    with pytest.raises(
        ValueError, match=rf"^mtm_ops::{op}: {name} must be an int, or two \(y, x\), from \d to 2147483647; got"
    ):
        call(op, device, geometry)


@DEVICES
@pytest.mark.parametrize(("op", "needs"), [("deform_conv2d_backward", 3), ("deform_conv2d_double_backward", 4)])
def test_a_wrong_number_of_needs_is_refused(op, needs, device):
    with pytest.raises(ValueError, match=rf"^mtm_ops::{op}: needs must have \d entries, one per gradient; got {needs}"):
        call(op, device, needs=needs)


def test_a_cotangent_of_a_mask_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="gg_mask must be None where there is no mask"):
        call("deform_conv2d_double_backward", "cpu", mask=None)


TRACED = """
import warnings
import torch
from mtm_ops import modulated_deform_conv2d
warnings.simplefilter("ignore")
arguments = torch.randn(1, 4, 64, 64), torch.randn(3, 4, 3, 3), torch.randn(1, 18, 62, 62)
traced = torch.jit.trace(lambda x, weight, offset: modulated_deform_conv2d(x, weight, offset, impl="native"), arguments)
assert torch.allclose(traced(*arguments), modulated_deform_conv2d(*arguments), atol=1e-4)
try:
    traced(torch.randn(512, 4, 64, 64), *arguments[1:])
except RuntimeError as error:
    print(error)
"""


def test_a_traced_graph_with_a_larger_batch_for_x_alone_is_an_error_not_a_crash():
    done = forked.run("-c", TRACED)
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"mtm_ops::deform_conv2d: offset must be \[512, 18, 62, 62\].*; got \[1, 18, 62, 62\]", done.stdout
    )


def test_an_exported_graph_with_a_larger_batch_for_x_alone_is_an_error_not_a_crash():
    class Layer(torch.nn.Module):
        def forward(self, x, weight, offset):
            return OPS.deform_conv2d(x, weight, offset, None, *ONE)

    arguments = torch.randn(1, 4, 6, 6), torch.randn(3, 4, 3, 3), torch.randn(1, 18, 4, 4)
    graph = torch.export.export(Layer(), arguments).graph_module
    assert torch.equal(graph(*arguments)[0], Layer()(*arguments))
    with pytest.raises(ValueError, match=r"offset must be \[512, 18, 4, 4\]"):
        graph(torch.randn(512, 4, 6, 6), *arguments[1:])
