"""What the op registers with torch: schema, fake kernels, autograd, autocast and torch.compile."""

import os
from dataclasses import replace

import forked
import pytest
import torch
from op_cases import Case, assert_close, cotangent, first_order, sample_inputs
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

from mtm_ops import ModulatedTransformation, _library, modulated_deform_conv2d, no_weight_gradients

OPS = torch.ops.mtm_ops
GEOMETRY = ([2, 1], [1, 0], [2, 1])
BF16 = torch.bfloat16


def arguments(mask: bool, layout: torch.memory_format, grad: bool = True, dtype=torch.float32) -> list[Tensor | None]:
    case = sample_inputs(groups=2, mask=mask, style=False, dtype=dtype)
    case = replace(case, x=case.x.contiguous(memory_format=layout), weight=case.weight.contiguous(memory_format=layout))
    case = case.leaves() if grad else case
    return [case.x, case.weight, case.offset, case.mask]


LAYOUTS = pytest.mark.parametrize(
    "layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"]
)
MASKS = pytest.mark.parametrize("mask", [False, True], ids=["no-mask", "mask"])


@LAYOUTS
@MASKS
def test_opcheck_forward(mask, layout):
    torch.library.opcheck(OPS.deform_conv2d.default, (*arguments(mask, layout), *GEOMETRY))


@MASKS
@pytest.mark.parametrize("needs", [[True] * 4, [True, False, True, False], [False, True, False, True]], ids=str)
def test_opcheck_backward(mask, needs):
    tensors = arguments(mask, torch.contiguous_format)
    grad_y = torch.randn(2, 3, 2, 3).requires_grad_()
    torch.library.opcheck(OPS.deform_conv2d_backward.default, (grad_y, *tensors, *GEOMETRY, needs))


@LAYOUTS
@MASKS
@pytest.mark.parametrize("missing", ["none", "weight", "all but x"])
def test_opcheck_double_backward(mask, layout, missing):
    tensors = arguments(mask, layout, grad=False)  # there is no third derivative for opcheck to test
    cotangents = [None if t is None else cotangent(t) for t in tensors]
    if missing == "weight":
        cotangents[1] = None
    if missing == "all but x":
        cotangents[1:] = [None] * 3
    grad_y = torch.randn(2, 3, 2, 3)
    arguments_ = (*cotangents, grad_y, *tensors, *GEOMETRY, [True] * 5)
    torch.library.opcheck(OPS.deform_conv2d_double_backward.default, arguments_)


def test_meta_tensors_of_the_registered_op_give_shapes():
    tensors = [None if t is None else t.to("meta") for t in arguments(True, torch.contiguous_format, grad=False)]
    y = OPS.deform_conv2d(*tensors, *GEOMETRY)
    assert y.device.type == "meta"
    assert y.shape == (2, 3, 2, 3)


def test_meta_tensors_of_the_public_function_give_shapes():
    case = sample_inputs(dtype=torch.float32)
    case = case.map(lambda _, t: t.to("meta"))
    assert case.run("reference").shape == (2, 3, 2, 3)


def hold_compiled_equals_eager(backend: str, case: Case, impl: str = "native") -> None:
    torch._dynamo.reset()

    def run(x, weight, offset, style, mask):
        options = case.options
        return modulated_deform_conv2d(x, weight, offset, style, mask=mask, impl=impl, **options).sin()

    compiled = torch.compile(run, backend=backend, fullgraph=True)
    results = []
    for call in (run, compiled):
        leaves = case.leaves()
        y = call(leaves.x, leaves.weight, leaves.offset, leaves.style, leaves.mask)
        grads = torch.autograd.grad(y, list(leaves.tensors().values()), cotangent(y))
        results.append([y, *grads])
    for want, got in zip(*results, strict=True):
        assert got.stride() == want.stride()
        assert_close(got, want, torch.float32)


@pytest.mark.parametrize("impl", ["native", "auto", "reference"])
@pytest.mark.parametrize("style", [False, True], ids=["plain", "demod"])
@MASKS
def test_compile_does_not_break_the_graph(mask, style, impl):
    hold_compiled_equals_eager("aot_eager", sample_inputs(style=style, mask=mask, dtype=torch.float32), impl)


def test_the_mark_of_constant_functions_is_torchs():
    ours, theirs = _library.constant_while_tracing(lambda: 0), torch.compiler.assume_constant_result(lambda: 0)
    assert vars(ours) == vars(theirs) != {}


def test_compile_keeps_channels_last():
    case = sample_inputs(dtype=torch.float32)
    case = replace(case, x=case.x.contiguous(memory_format=torch.channels_last))
    hold_compiled_equals_eager("aot_eager", case)


def test_a_compiled_network_forms_the_weight_gradient_whatever_the_switch_was_when_it_was_traced():
    """A training step that starts with path-length regularisation traces its graph inside no_weight_gradients."""
    case = sample_inputs(style=False, mask=False, dtype=torch.float32).leaves()
    torch._dynamo.reset()
    compiled = torch.compile(lambda: case.run("native"), backend="aot_eager")
    with no_weight_gradients():
        torch.autograd.grad(compiled().sum(), case.x)
    compiled().sum().backward()
    (want,) = torch.autograd.grad(case.run("native").sum(), case.weight)
    torch.testing.assert_close(case.weight.grad, want)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised by inductor itself
def test_compile_with_inductor():
    hold_compiled_equals_eager("inductor", sample_inputs(dtype=torch.float32))


FALLS_BACK = """
import torch
from mtm_ops import modulated_deform_conv2d
torch.set_num_threads(1)
arguments = torch.randn(1, 2, 4, 4), torch.randn(3, 2, 3, 3), torch.randn(1, 18, 2, 2)
compiled = torch.compile(modulated_deform_conv2d, backend="aot_eager", fullgraph=True)
assert torch.allclose(compiled(*arguments), modulated_deform_conv2d(*arguments, impl="reference"), atol=1e-5)
"""


def test_compile_does_not_break_the_graph_where_there_is_no_kernel(tmp_path):
    """The warning about the missing kernel must not break the graph either."""
    environment = {**os.environ, "CXX": "/nonexistent", "MTM_CACHE_DIR": str(tmp_path)}
    done = forked.run("-c", FALLS_BACK, env=environment)
    assert done.returncode == 0, done.stderr


def test_compile_with_dynamic_shapes():
    torch._dynamo.reset()
    compiled = torch.compile(modulated_deform_conv2d, backend="aot_eager", fullgraph=True, dynamic=True)
    for B, size in ((2, (5, 4)), (3, (7, 9)), (4, (6, 5))):
        case = sample_inputs(B=B, size=size, dtype=torch.float32)
        got = compiled(case.x, case.weight, case.offset, case.style, mask=case.mask, **case.options)
        assert_close(got, case.run("native"), torch.float32)


@pytest.mark.parametrize("impl", ["native", "reference"])
@pytest.mark.parametrize("dtype", [BF16, torch.float16], ids=str)
@pytest.mark.parametrize("modulation", ["plain", "mod", "demod"])
def test_autocast_gives_its_dtype_and_gradients_in_the_inputs(modulation, dtype, impl):
    case = sample_inputs(
        style=modulation != "plain", demodulate=modulation == "demod", dtype=torch.float32, C=6, groups=2
    )
    want = first_order(case, "reference")
    with torch.autocast("cpu", dtype):
        y = case.run(impl)
        found = first_order(case, impl)
    assert y.dtype == dtype
    for name, t in case.tensors().items():
        assert found[name].dtype == t.dtype == torch.float32, name
    for name, value in want.items():
        assert_close(found[name], value, dtype, name, 2)


@pytest.mark.parametrize("impl", ["native", "reference"])
def test_autocast_keeps_offsets_in_float32(impl):
    x = torch.zeros(1, 1, 1, 64)
    x[..., 41] = 1
    offset = torch.zeros(1, 2, 1, 64)
    offset[0, 1, 0, 20] = 20.0078125  # the nearest bfloat16 values are 20 and 20.125
    with torch.autocast("cpu", BF16):
        y = modulated_deform_conv2d(x, torch.ones(1, 1, 1, 1), offset, impl=impl)
    assert y.dtype == BF16
    assert y[0, 0, 0, 20].item() == 0.0078125


@pytest.mark.parametrize("impl", ["native", "reference"])
@pytest.mark.parametrize("style", [False, True], ids=["plain", "demod"])
def test_autocast_leaves_float64_alone(style, impl):
    """torch's own convolution does the same."""
    case = sample_inputs(style=style)
    with torch.autocast("cpu", BF16):
        assert torch.nn.functional.conv2d(case.x, case.weight).dtype == torch.float64
        y = case.run(impl)
    assert y.dtype == torch.float64
    assert_close(y, case.run("reference"), torch.float64)


def test_autocast_accepts_mixed_dtypes_as_convolution_does():
    case = sample_inputs(dtype=torch.float32, style=False)
    mixed = replace(case, x=case.x.to(BF16))
    with torch.autocast("cpu", BF16):
        y = mixed.run("native")
    assert y.dtype == BF16
    assert_close(y, case.run("reference"), BF16)


def test_autocast_switched_off_inside_is_off():
    case = sample_inputs(dtype=torch.float32)
    with torch.autocast("cpu", BF16), torch.autocast("cpu", enabled=False):
        y = case.run("native")
    assert torch.equal(y, case.run("native"))


def test_second_order_under_autocast():
    case = sample_inputs(dtype=torch.float32, style=False).leaves()
    with torch.autocast("cpu", BF16):
        y = case.run("native")
    (g,) = torch.autograd.grad(y.float().square().sum(), case.x, create_graph=True)
    found = torch.autograd.grad(g.square().sum(), list(case.tensors().values()))
    assert all(f.dtype == torch.float32 and f.isfinite().all() and f.any() for f in found)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised by torch itself on the first use of forward mode
@pytest.mark.parametrize("name", ["x", "offset"])
def test_forward_mode_is_right_or_refused_but_never_silently_zero(name):
    case = sample_inputs(style=False)
    tangent = cotangent(getattr(case, name))

    def jvp(impl: str) -> Tensor | None:
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(getattr(case, name), tangent)
            return forward_ad.unpack_dual(replace(case, **{name: dual}).run(impl)).tangent

    want = jvp("reference")
    assert want is not None
    try:
        got = jvp("native")
    except (RuntimeError, NotImplementedError):
        return
    assert got is not None, "the tangent was dropped without a word"
    assert_close(got, want, torch.float64)


def test_checkpointing_gives_the_same_bits():
    case = sample_inputs(B=3, style=False, mask=False)
    y = case.run("native")
    leaf = case.leaves({"x"})
    checkpointed = checkpoint(lambda x: replace(leaf, x=x).run("native"), leaf.x, use_reentrant=False)
    assert torch.equal(checkpointed, y)
    (got,) = torch.autograd.grad(checkpointed.sum(), leaf.x)
    again = case.leaves({"x"})
    assert torch.equal(got, torch.autograd.grad(again.run("native").sum(), again.x)[0])


def test_schemas_are_as_documented():
    assert str(OPS.deform_conv2d.default._schema) == (
        "mtm_ops::deform_conv2d(Tensor x, Tensor weight, Tensor offset, Tensor? mask, int[] stride, int[] padding, "
        "int[] dilation) -> Tensor"
    )


HEADS = {"offset": 18, "offset+mask": 27}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("device", ["meta", "fake"])
def test_the_module_and_the_op_give_shapes_without_memory(device, head):
    def build() -> Tensor:
        kind = "meta" if device == "meta" else "cpu"
        with torch.device(kind):
            module = ModulatedTransformation(6, 4, head=head)
        x, w = torch.empty(2, 6, 5, 4, device=kind), torch.empty(2, 4, device=kind)
        offset, mask = module(x, w)
        assert (mask is None) == (head == "offset")
        weight, style = torch.empty(3, 6, 3, 3, device=kind), torch.empty(2, 6, device=kind)
        assert module.at(w)(x=x, weight=weight, styles=style, padding=1).shape == (2, 3, 5, 4)
        return modulated_deform_conv2d(x, weight, offset, style, mask=mask, padding=1)

    if device == "meta":
        y = build()
    else:
        with FakeTensorMode():
            y = build()
    assert y.shape == (2, 3, 5, 4)
    assert y.device.type == ("meta" if device == "meta" else "cpu")
