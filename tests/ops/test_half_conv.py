"""Convolution of half-precision values with float32 sums. The CPU does not round here; tests/gpu covers rounding."""

import itertools
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from op_cases import assert_close, cotangent
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from mtm_ops import _half_conv, module
from mtm_ops._half_conv import half_conv2d
from mtm_ops._precision import convolutions_in_tf32
from mtm_ops.module import ModulatedTransformation

OPS = torch.ops.mtm_ops


def inputs(dtype: torch.dtype = torch.float64, grad: bool = True) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    shapes = (2, 3, 5, 4), (2, 3, 3, 3)
    x, weight = (torch.randn(shape, generator=g, dtype=torch.float64).to(dtype) for shape in shapes)
    return x.requires_grad_(grad), weight.requires_grad_(grad)


@pytest.mark.parametrize("padding", [0, 1, 2])
def test_derivatives(padding):
    def run(x: Tensor, weight: Tensor) -> Tensor:
        return half_conv2d(x, weight, padding)

    assert torch.equal(run(*inputs()), F.conv2d(*inputs(), padding=padding))
    assert gradcheck(run, inputs())
    assert gradgradcheck(run, inputs())


def test_a_third_order():
    def found(run) -> list[Tensor]:
        x, weight = inputs()
        (g,) = torch.autograd.grad(run(x, weight).pow(3).sum(), x, create_graph=True)
        (g,) = torch.autograd.grad(g.square().sum(), weight, create_graph=True)
        return list(torch.autograd.grad(g.square().sum(), (x, weight)))

    want = found(lambda x, w: F.conv2d(x, w, padding=1))
    for got, value in zip(found(lambda x, w: half_conv2d(x, w, 1)), want, strict=True):
        assert_close(got, value, torch.float64)


@pytest.mark.parametrize("through", [(0,), (1,), (0, 1)], ids=str)
def test_a_second_order_through_several_gradients_at_once(through):
    """gradgradcheck uses one cotangent at a time, so this test uses two."""

    def found(run) -> list[Tensor]:
        tensors = inputs()
        y = run(*tensors)
        grad_y = cotangent(y).requires_grad_()
        first = torch.autograd.grad(y, [tensors[i] for i in through], grad_y, create_graph=True)
        total = sum((g * cotangent(g, 2 + i)).sum() for i, g in enumerate(first))
        ends = (*tensors, grad_y)
        return list(torch.autograd.grad(total, ends, allow_unused=True, materialize_grads=True))

    want = found(lambda x, w: F.conv2d(x, w, padding=1))
    for got, value in zip(found(lambda x, w: half_conv2d(x, w, 1)), want, strict=True):
        assert_close(got, value, torch.float64)


@pytest.mark.parametrize(("through", "needs"), [(0, [False, True]), (1, [True, False])])
def test_a_second_order_through_one_gradient_has_no_product_for_the_other(through, needs):
    tensors = inputs()
    y = half_conv2d(*tensors, 1)
    grad_y = cotangent(y).requires_grad_()
    g = torch.autograd.grad(y, tensors, grad_y, create_graph=True)[through]  # the other gradient is not used
    seen = []

    class Look(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is OPS.half_conv2d.default:
                seen.append("forward")
            if func is OPS.half_conv2d_backward.default:
                seen.append(args[4])
            return func(*args, **(kwargs or {}))

    with Look():
        torch.autograd.grad(g.sum(), (grad_y, tensors[1 - through]))
    assert seen == ["forward", needs]


def test_opcheck():
    torch.library.opcheck(OPS.half_conv2d.default, (*inputs(torch.float32), 1))
    for needs in itertools.product((False, True), repeat=2):
        grad_y = torch.randn(2, 2, 5, 4).requires_grad_()
        torch.library.opcheck(OPS.half_conv2d_backward.default, (grad_y, *inputs(torch.float32), 1, list(needs)))


class Noted(TorchDispatchMode):
    """Records the convolutions that run and whether TF32 was on for each."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, bool]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "convolution" in func._schema.name:
            on = torch._C._get_fp32_precision_getter("cuda", "conv") == "tf32"
            self.calls.append((func._schema.name.split("::")[1], on))
        return func(*args, **(kwargs or {}))


@pytest.fixture
def tf32_off():
    conv = torch.backends.cudnn.conv
    before = conv.fp32_precision
    conv.fp32_precision = "ieee"
    yield
    conv.fp32_precision = before


def test_tf32_is_on_in_every_pass_and_off_again(tf32_off, monkeypatch):
    noted = Noted()

    @contextmanager
    def watched():
        with convolutions_in_tf32(), noted:
            yield

    monkeypatch.setattr(_half_conv, "convolutions_in_tf32", watched)
    x, weight = inputs(torch.float32)
    (g,) = torch.autograd.grad(half_conv2d(x, weight, 1).square().sum(), x, create_graph=True)
    g.square().sum().backward()
    assert [name for name, _ in noted.calls].count("convolution_backward") >= 3
    assert all(on for _, on in noted.calls)
    assert torch.backends.cudnn.conv.fp32_precision == "ieee"


@pytest.mark.parametrize("wanted", [0, 1])
def test_a_gradient_that_is_not_asked_for_is_not_formed(wanted):
    tensors = inputs()
    y = half_conv2d(*tensors, 1)
    seen = []

    class Look(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is OPS.half_conv2d_backward.default:
                seen.append(args[4])
            return func(*args, **(kwargs or {}))

    with Look():
        torch.autograd.grad(y, tensors[wanted], torch.ones_like(y))
    assert seen == [[wanted == 0, wanted == 1]]


def test_autocast_does_not_reach_it():
    x, weight = inputs(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = half_conv2d(x, weight, 1)
        (grad,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(y, F.conv2d(x, weight, padding=1))
    assert (y.dtype, grad.dtype) == (torch.float32, torch.float32)


def trained(head: str = "offset+mask") -> ModulatedTransformation:
    made = ModulatedTransformation(3, 4, head=head)
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn(p.shape, generator=g))
    return made


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_the_module_with_it_gives_what_it_gives_without(dtype, monkeypatch):
    """Apart from rounding, as on CUDA: offsets, masks and gradients up to second order."""

    def found() -> list[Tensor]:
        head, x = trained(), inputs()[0].detach().to(dtype).requires_grad_()
        w = torch.randn(2, 4, generator=torch.Generator().manual_seed(2)).requires_grad_()
        offset, mask = head(x, w)
        (g,) = torch.autograd.grad(offset.square().sum() + mask.sum(), w, create_graph=True)
        g.square().sum().backward()
        grads = [p.grad for p in (x, w, *head.parameters())]
        return [offset, mask, *grads]

    want = found()
    monkeypatch.setattr(module, "_half_conv2d", lambda x: half_conv2d)
    for got, value in zip(found(), want, strict=True):
        assert (got.dtype, got.shape) == (value.dtype, value.shape)
        assert_close(got, value, dtype if value.dtype == dtype else torch.float32, factor=4)


def test_offsets_of_an_untrained_module_are_exactly_zero(monkeypatch):
    monkeypatch.setattr(module, "_half_conv2d", lambda x: half_conv2d)
    offset, mask = ModulatedTransformation(3, 4, head="offset+mask")(inputs()[0].half(), torch.randn(2, 4))
    assert not offset.any()
    assert (mask == 1).all()


def test_on_the_cpu_the_module_goes_without():
    assert module._half_conv2d(inputs()[0].half()) is None
