"""What a layer's passes ask of the host on CUDA: at most so much, in a chunk or two."""

import pytest
import torch

from tools import cuda_calls

# kernels of torch's, kernels of ours: products, and one cast of a half weight's gradient; layouts, index, sampling.
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
    """And no index: one serves both."""
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


# Of x, weight, offset: kernels of ours (all: five layouts, the index, x's gradient, the taps'), products.
WANTED = {
    (True, True, True): (8, 2),
    (True, False, True): (7, 1),  # no weight gradient, and none of its layout
    (True, False, False): (6, 1),  # nor a kernel for the taps
    (False, True, False): (5, 1),  # no columns' gradient, and so no product for it
}


@pytest.mark.parametrize("needs", WANTED, ids=str)
def test_a_gradient_alone_costs_its_own_kernels(needs):
    x, weight = (torch.empty(shape, device="meta") for shape in ((2, 8, 5, 5), (8, 8, 3, 3)))
    offset = torch.empty(2, 18, 5, 5, device="meta")
    with cuda_calls.counting() as calls:
        cuda_calls._native.backward(x, x, weight, offset, None, *cuda_calls.GEOMETRY, [*needs, False])
    assert (calls.ours, calls.torchs) == WANTED[needs]
