"""How many kernels and operators a layer's passes launch on CUDA, with one chunk and with more. Runs without a GPU."""

import pytest
import torch

from tools import cuda_calls

# Pass -> (torch's kernels, ours). torch's are matmuls; the test adds casts for half. Ours: layouts, index, sampling.
ONE_CHUNK = {
    "forward": (1, 3),
    "backward": (2, 6),
    "path length": (3, 8),
    "double backward": (5, 10),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_a_layer_of_one_chunk_starts_few_kernels(dtype):
    for name, calls in cuda_calls.measure((32, 512, 8), dtype).items():
        torchs, ours = ONE_CHUNK[name]
        casts = (name != "forward") * (dtype == torch.float16) * (1 + (name == "double backward"))
        assert (calls.torchs, calls.ours) == (torchs + casts, ours), (name, calls)
        assert calls.operators.total() <= 48, (name, calls)


def test_a_chunk_more_costs_its_products_and_its_sampling():
    """No additional index, because one index serves both chunks."""
    one, more = (cuda_calls.measure((B, 512, 32), torch.float16) for B in (8, 16))
    for name, torchs, ours in (("forward", 1, 1), ("backward", 3, 2), ("path length", 4, 2)):
        assert more[name].torchs - one[name].torchs == torchs, name
        assert more[name].ours - one[name].ours == ours, name


def test_x_gradients_that_are_not_wanted_cost_nothing():
    x, weight = (torch.empty(shape, device="meta") for shape in ((2, 8, 5, 5), (8, 8, 3, 3)))
    offset = torch.empty(2, 18, 5, 5, device="meta")
    ours = {}
    for wanted in (True, False):
        with cuda_calls.counting() as calls:
            cuda_calls._native.backward(x, x, weight, offset, None, *cuda_calls.GEOMETRY, [wanted, True, True, False])
        ours[wanted] = calls.ours
    assert ours[True] - ours[False] == 3  # the index, the gather, and its layout


# Gradients needed of (x, weight, offset) -> (our kernels, matmuls). Our eight for all: five layouts, the index, x's
# gradient, the taps'.
WANTED = {
    (True, True, True): (8, 2),
    (True, False, True): (7, 1),  # no weight gradient and no layout for it
    (True, False, False): (6, 1),  # no kernel for the taps either
    (False, True, False): (5, 1),  # no gradient of the columns, so no matmul for it
}


@pytest.mark.parametrize("needs", WANTED, ids=str)
def test_a_gradient_alone_costs_its_own_kernels(needs):
    x, weight = (torch.empty(shape, device="meta") for shape in ((2, 8, 5, 5), (8, 8, 3, 3)))
    offset = torch.empty(2, 18, 5, 5, device="meta")
    with cuda_calls.counting() as calls:
        cuda_calls._native.backward(x, x, weight, offset, None, *cuda_calls.GEOMETRY, [*needs, False])
    assert (calls.ours, calls.torchs) == WANTED[needs]
