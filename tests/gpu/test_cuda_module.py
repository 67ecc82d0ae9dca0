"""The module's own convolution on a GPU: half-precision values with float32 sums, whatever the TF32 switch says."""

import copy

import pytest
import torch
from torch import Tensor

from mtm_ops import ModulatedTransformation

pytestmark = pytest.mark.gpu
HALVES = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
# Relative to the largest value. The factors are truncated to 11 significant bits; see docs/results-cuda.md.
HALF, FLOAT = 4e-3, 1e-5


def inputs(dtype: torch.dtype) -> tuple[ModulatedTransformation, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    head = ModulatedTransformation(64, 16, head="offset+mask")
    with torch.no_grad():
        head.weight.copy_(torch.randn(head.weight.shape, generator=g))
    return head, torch.randn(3, 64, 16, 16, generator=g).to(dtype), torch.randn(3, 16, generator=g)


def found(head: ModulatedTransformation, x: Tensor, w: Tensor) -> dict[str, Tensor]:
    """Offsets, masks, and the gradients of a gradient's norm, as in path-length regularisation."""
    x, w = x.detach().requires_grad_(), w.detach().requires_grad_()
    offset, mask = head(x, w)
    assert mask is not None
    (g,) = torch.autograd.grad(offset.square().sum() + mask.square().sum(), w, create_graph=True)
    g.square().sum().backward()
    grads = {name: p.grad for name, p in {"x": x, "w": w, **dict(head.named_parameters())}.items()}
    return {"offset": offset.detach(), "mask": mask.detach(), **grads}


def errors(dtype: torch.dtype) -> dict[str, float]:
    """Each result's error on the GPU against float64 on the CPU with the same x, relative to its largest value."""
    head, x, w = inputs(dtype)
    exact = found(copy.deepcopy(head).double(), x.double(), w.double())
    got = found(head.cuda(), x.cuda(), w.cuda())
    assert got["offset"].dtype == got["mask"].dtype == torch.float32
    return {name: float((got[name].cpu().double() - t).abs().max() / t.abs().max()) for name, t in exact.items()}


@HALVES
@pytest.mark.parametrize("precision", ["ieee", "tf32"])
def test_half_values_are_summed_in_float32(precision, dtype):
    torch.backends.cudnn.conv.fp32_precision = precision
    error = errors(dtype)
    assert error["offset"] < HALF, error
    assert error["mask"] < HALF, error
    step = torch.finfo(dtype).eps
    assert all(value < (8 * HALF + step) for value in error.values()), error
    assert torch.backends.cudnn.conv.fp32_precision == precision


def test_float32_stays_float32_where_tf32_is_off():
    error = errors(torch.float32)
    assert error["offset"] < FLOAT, error


@HALVES
def test_an_untrained_module_gives_offsets_of_exactly_zero(dtype):
    _, x, w = inputs(dtype)
    offset, mask = ModulatedTransformation(64, 16, head="offset+mask").cuda()(x.cuda(), w.cuda())
    assert not offset.any()
    assert (mask == 1).all()


@HALVES
def test_it_compiles_without_a_graph_break(dtype):
    head, x, w = (t.cuda() for t in inputs(dtype))
    want = head(x, w)
    got = torch.compile(head, fullgraph=True, backend="aot_eager")(x, w)
    for a, b in zip(got, want, strict=True):
        assert torch.allclose(a, b, atol=1e-2)


def test_a_cuda_graph_captures_it():
    head, x, w = (t.cuda() for t in inputs(torch.float16))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), torch.no_grad():
        want = head(x, w)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph), torch.no_grad():
        got = head(x, w)
    graph.replay()
    torch.cuda.synchronize()
    for a, b in zip(got, want, strict=True):
        assert torch.allclose(a, b, atol=1e-3)
