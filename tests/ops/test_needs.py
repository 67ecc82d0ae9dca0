"""The registered ops, asked for any subset of their results, return the same values as when asked for all."""

import itertools

import pytest
import torch
from op_cases import assert_close, cotangent, sample_inputs

OPS = torch.ops.mtm_ops
GEOMETRY = ([2, 1], [1, 0], [2, 1])


@pytest.fixture(params=["cpu", "cuda"])
def kernels(request) -> None:
    """Once the CPU kernels, once the CUDA kernels run on the CPU."""
    if request.param == "cuda":
        request.getfixturevalue("on_host")


def check(run, count: int) -> None:
    """Call run(needs) for every combination of `count` flags and compare with all results."""
    whole = run([True] * count)
    for needs in itertools.product((False, True), repeat=count):
        for i, (got, want) in enumerate(zip(run(list(needs)), whole, strict=True)):
            if needs[i]:
                assert_close(got, want, torch.float64, f"result {i} of {needs}")
            else:
                assert got.numel() == 0


@pytest.mark.parametrize("mask", [False, True], ids=["no-mask", "mask"])
def test_any_first_order_gradients(mask, kernels):
    case = sample_inputs(style=False, mask=mask)
    tensors = case.x, case.weight, case.offset, case.mask
    grad_y = cotangent(OPS.deform_conv2d(*tensors, *GEOMETRY))
    check(lambda needs: OPS.deform_conv2d_backward(grad_y, *tensors, *GEOMETRY, needs), 4)


@pytest.mark.parametrize("given", list(itertools.product((False, True), repeat=4)), ids=str)
def test_any_second_order_gradients_of_any_cotangents(given, kernels):
    case = sample_inputs(style=False)
    tensors = case.x, case.weight, case.offset, case.mask
    grad_y = cotangent(OPS.deform_conv2d(*tensors, *GEOMETRY))
    cotangents = [
        cotangent(t, 5 + i) if there else None for i, (t, there) in enumerate(zip(tensors, given, strict=True))
    ]
    check(lambda needs: OPS.deform_conv2d_double_backward(*cotangents, grad_y, *tensors, *GEOMETRY, needs), 5)
