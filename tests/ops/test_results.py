"""How callers use the op's results: they may change them in place, and unused ones are not computed.

Also covered: no_weight_gradients, FLOP counts, the refused third order, and backward passes inside autocast.
"""

import contextlib
import threading
from dataclasses import replace

import pytest
import torch
from op_cases import Case, assert_close, cotangent, first_order, one_by_one, sample_inputs
from torch import Tensor
from torch.autograd.functional import hvp, vhp
from torch.utils.flop_counter import FlopCounterMode

from mtm_ops import ModulatedTransformation, _matrix, modulated_deform_conv2d, no_weight_gradients

OPS = torch.ops.mtm_ops
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
STYLES = {"plain": {"style": False}, "mod": {"demodulate": False}, "demod": {}}
IN_PLACE = {
    "relu_": lambda y: y.relu_(),
    "+= 1": lambda y: y.__iadd__(1),
    "mul_": lambda y: y.mul_(2),
}


def laid_out(case: Case, layout: str) -> Case:
    return case.map(lambda _, t: t.contiguous(memory_format=FORMATS[layout]) if t.ndim == 4 else t)


@pytest.mark.parametrize("change", IN_PLACE)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("style", STYLES)
def test_y_may_be_changed_in_place(style, layout, dtype, change):
    case = laid_out(sample_inputs(C=6, groups=2, dtype=dtype, **STYLES[style]), layout).leaves()
    results = []
    for call in (IN_PLACE[change], lambda y: IN_PLACE[change](y.clone())):
        y = call(case.run("native"))
        results.append([y, *torch.autograd.grad(y, list(case.tensors().values()), cotangent(y))])
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("weight_groups", [1, 2])
def test_gradients_and_second_gradients_may_be_changed_in_place(weight_groups, layout, dtype):
    case = sample_inputs(C=6, O=4, groups=2, weight_groups=weight_groups, style=False, dtype=dtype)
    case = laid_out(case, layout).leaves()
    inputs = list(case.tensors().values())
    y = case.run("native")
    grad_y = cotangent(y).requires_grad_()
    # autograd allows the change if it no longer needs the old value, as with first-order gradients.
    for twice in (False, True):
        grads = torch.autograd.grad(y, inputs, grad_y, create_graph=True)
        before = [g.detach().clone() for g in grads]
        for g, old in zip(grads, before, strict=True):
            assert not g._is_view()
            assert torch.equal(g.mul_(2), 2 * old)
        if twice:
            grads = torch.autograd.grad(grads, [*inputs, grad_y], [cotangent(g) for g in grads], allow_unused=True)
            for g in grads:
                assert not g._is_view()
                assert torch.equal(g.clone().mul_(2), g.mul_(2))
                assert g.any()


def test_results_share_no_memory_with_each_other_or_with_the_inputs():
    case = laid_out(sample_inputs(style=False), "channels_last").leaves()
    inputs = list(case.tensors().values())
    y = case.run("native")
    grad_y = cotangent(y).requires_grad_()
    first = torch.autograd.grad(y, inputs, grad_y, create_graph=True)
    second = torch.autograd.grad(first, [*inputs, grad_y], [cotangent(g) for g in first])
    pointers = [t.untyped_storage().data_ptr() for t in (*inputs, y, grad_y, *first, *second)]
    assert len(set(pointers)) == len(pointers)


@pytest.fixture
def products(monkeypatch) -> list[str]:
    """The names of the weight-gradient matmuls that run."""
    made: list[str] = []
    inner = _matrix.add_weight_gradient

    def count(*args):
        made.append("weight")
        return inner(*args)

    monkeypatch.setattr(_matrix, "add_weight_gradient", count)
    return made


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("create_graph", [False, True])
def test_a_gradient_that_autograd_is_not_asked_for_is_not_formed(create_graph, style, products):
    """As in path-length regularisation: only the latents' gradient is requested, while everything is trainable."""
    case = one_by_one(size=(6, 5), **STYLES[style]).leaves()
    y = case.run("native")
    asked = [t for name, t in case.tensors().items() if name != "weight"]
    grads = torch.autograd.grad(y, asked, cotangent(y), create_graph=create_graph)
    assert products == []
    want = first_order(case, "reference")
    for (name, _), g in zip(((n, t) for n, t in case.tensors().items() if n != "weight"), grads, strict=True):
        assert_close(g, want[name], torch.float64, name)
    first_order(case, "native")
    assert products == ["weight"]


def test_the_weights_gradient_of_a_path_length_is_formed_once_and_right(products):
    gradients = {}
    for impl in ("native", "reference"):
        case = one_by_one(size=(6, 5), style=False).leaves()
        y = case.run(impl)
        (by_x,) = torch.autograd.grad(y, case.x, cotangent(y), create_graph=True)
        assert products == []
        by_x.square().sum().backward()
        gradients[impl] = case.weight.grad
        assert products == (["weight"] if impl == "native" else [])
        products.clear()
    got, want = gradients["native"], gradients["reference"]
    assert got is not None
    assert want is not None
    assert_close(got, want, torch.float64, factor=4)


def test_a_path_length_step_of_a_patched_layer_forms_each_weight_gradient_once(products):
    """As in StyleGAN2's loss: the module runs the layer's convolution, everything is trainable, and the gradient by
    the latents is computed first. The op needs no help from the host's own flag, no_weight_gradients."""
    g = torch.Generator().manual_seed(0)
    x, latents = torch.randn(2, 6, 5, 5, generator=g), torch.randn(2, 4, generator=g, requires_grad=True)
    module, affine = ModulatedTransformation(6, 4), torch.nn.Linear(4, 6)
    weight = torch.randn(3, 6, 3, 3, generator=g, requires_grad=True)
    y = module.at(latents)(x=x, weight=weight, styles=affine(latents), padding=1)
    (by_latents,) = torch.autograd.grad((y * cotangent(y)).sum(), latents, create_graph=True)
    assert products == []
    by_latents.square().sum().backward()
    assert products == ["weight", "weight"]  # first order (through the second term of the norm), then second
    assert all(p.grad is not None for p in (weight, affine.weight, module.affine_weight, module.weight))


def test_second_order_gradients_that_autograd_is_not_asked_for_are_not_formed(products):
    case = one_by_one(size=(6, 5), style=False).leaves()
    y = case.run("native")
    (by_x,) = torch.autograd.grad(y, case.x, cotangent(y), create_graph=True)
    torch.autograd.grad(by_x.square().sum(), case.offset)
    assert products == []


def test_no_weight_gradients_leaves_out_that_gradient_alone(products):
    for disable in (False, True):
        case = one_by_one(size=(6, 5), style=False).leaves()
        y = case.run("native")
        with no_weight_gradients(disable):
            y.backward(cotangent(y))
        want = first_order(case, "reference")
        for name, t in case.tensors().items():
            if name == "weight" and disable:
                assert t.grad is None
            else:
                assert t.grad is not None
                assert_close(t.grad, want[name], torch.float64, name)
        assert products == ([] if disable else ["weight"])
        products.clear()


def test_no_weight_gradients_counts_when_the_backward_runs_and_ends_with_the_context():
    case = one_by_one(size=(6, 5), style=False).leaves()
    with no_weight_gradients(), contextlib.suppress(KeyError), no_weight_gradients():
        y = case.run("native")
        raise KeyError
    y.sum().backward()
    assert case.weight.grad is not None
    with no_weight_gradients(), no_weight_gradients(False):  # as upstream: an inner False does not turn it on again
        case.weight.grad = None
        case.run("native").sum().backward()
    assert case.weight.grad is None


def test_no_weight_gradients_reaches_a_backward_on_another_thread():
    """autograd runs a GPU's backward on its own threads."""
    case = one_by_one(size=(6, 5), style=False).leaves()
    y = case.run("native").sum()
    with no_weight_gradients():
        thread = threading.Thread(target=y.backward)
        thread.start()
        thread.join()
    assert case.weight.grad is None
    assert case.x.grad is not None


def counted(run) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@pytest.mark.parametrize("weight_groups", [1, 2])
@pytest.mark.parametrize("style", [False, True], ids=["plain", "demod"])
def test_flop_counts_are_those_of_the_reference(style, weight_groups):
    case = sample_inputs(C=4, O=6, weight_groups=weight_groups, style=style, dtype=torch.float32)
    places = 2 * 2 * 3  # B Ho Wo
    product = 2 * places * case.weight.numel()
    assert counted(lambda: case.run("native")) == counted(lambda: case.run("reference")) >= product
    assert counted(lambda: first_order(case, "native")) == counted(lambda: first_order(case, "reference"))
    if style:
        return
    assert counted(lambda: first_order(case, "native")) == 3 * product
    assert counted(lambda: first_order(case, "native", {"x", "offset"})) == 2 * product

    def second(impl: str, weight: bool) -> None:
        leaves = case.leaves()
        inputs = [leaves.x, leaves.offset, *([leaves.weight] if weight else [])]
        y = leaves.run(impl)
        grad_y = cotangent(y).requires_grad_()
        grads = torch.autograd.grad(y, inputs, grad_y, create_graph=True)
        torch.autograd.grad(grads, [leaves.x, leaves.weight, grad_y], [cotangent(g) for g in grads])

    # Forward, then one matmul for the columns' gradient, then three of the second order.
    assert counted(lambda: second("native", False)) == (1 + 1 + 3) * product
    assert counted(lambda: second("native", True)) == (1 + 2 + 5) * product


def test_hessian_products_by_vhp_work_and_by_hvp_are_the_third_order_that_is_refused():
    case = one_by_one(size=(4, 4), style=False)
    direction = cotangent(case.offset)

    def loss(impl: str):
        return lambda offset: replace(case, offset=offset).run(impl).square().sum()

    _, got = vhp(loss("native"), case.offset, direction)
    _, want = hvp(loss("reference"), case.offset, direction)
    assert isinstance(got, Tensor)
    assert isinstance(want, Tensor)
    assert_close(got, want, torch.float64, factor=4)
    with pytest.raises(RuntimeError, match="differentiable twice"):
        hvp(loss("native"), case.offset, direction)


@pytest.mark.parametrize("inner", ["oneDNN", "products"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_a_backward_within_autocast_is_not_cast_down(dtype, inner, monkeypatch):
    """The forward ran outside autocast. "products" uses torch's matmul instead of oneDNN's, as on CUDA."""
    if inner == "products":
        monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", None)
    case = sample_inputs(C=6, O=4, style=False, dtype=dtype).leaves()
    inputs = list(case.tensors().values())
    y = case.run("native")
    grad_y = cotangent(y).requires_grad_()
    outside = torch.autograd.grad(y, inputs, grad_y, create_graph=True)
    with torch.autocast("cpu", torch.bfloat16):
        inside = torch.autograd.grad(y, inputs, grad_y, create_graph=True)
        second_inside = torch.autograd.grad(inside, inputs, [cotangent(g) for g in inside])
    second_outside = torch.autograd.grad(outside, inputs, [cotangent(g) for g in outside])
    for got, want in zip((*inside, *second_inside), (*outside, *second_outside), strict=True):
        assert torch.equal(got, want)


def test_numpy_integers_are_taken_for_geometry():
    import numpy as np

    case = sample_inputs()
    numpy = {name: tuple(np.int64(v) for v in value) for name, value in case.options.items()}
    for impl in ("native", "reference"):
        assert torch.equal(replace(case, options=numpy).run(impl), case.run(impl))
    x, weight, offset = torch.randn(1, 2, 4, 4), torch.randn(3, 2, 3, 3), torch.randn(1, 18, 4, 4)
    assert modulated_deform_conv2d(x, weight, offset, padding=np.int32(1)).shape == (1, 3, 4, 4)
