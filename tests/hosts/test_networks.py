"""Every official generator, fresh, with and without MTM: parameters, random stream, images, gradients, half precision.

test_<host>_networks.py tests what only one codebase has.
"""

import pytest
import torch
from lab import assert_same

KINDS = {  # codebase -> generator (the probe's kind) -> shape of the output for NaN latents
    "stylegan3": {kind: [2, 3, 32, 32] for kind in ("stylegan2", "stylegan3-t", "stylegan3-r")},
    "eg3d": {"eg3d": [2, 3 * 128 * 128 + 4 * 8 * 8]},
    "stylegan-v": {kind: [6, 3, 32, 32] for kind in ("motion", "concat_w", "sum_w", "still")},
    "stylesv": {kind: [1, 3, 32, 32] for kind in ("stage-1", "moving")},
}
HALF = {**{host: list(kinds) for host, kinds in KINDS.items()}, "stylegan-v": ["motion"], "stylesv": ["stage-1"]}
del HALF["eg3d"]  # its backbone is StyleGAN2's and stays in float32 unless --g_num_fp16_res asks for more
CASES = [(host, kind) for host, kinds in KINDS.items() for kind in kinds]

every_host = pytest.mark.parametrize("host", KINDS, indirect=True, scope="module")
every_kind = pytest.mark.parametrize(("host", "kind"), CASES, indirect=["host"], scope="module")


@pytest.fixture(scope="module")
def host(request):
    """A codebase's name and its checkouts."""
    return request.param, request.getfixturevalue(request.param.replace("-", "_"))


@pytest.fixture(scope="module")
def made(host):
    """Networks of the pristine checkout, and of the patched checkout without and with MTM."""
    name, checkouts = host
    kinds = list(KINDS[name])
    none, low = (checkouts["patched"].probe("networks", kinds=kinds, **mtm) for mtm in ({}, {"mtm": "low"}))
    return {"pristine": checkouts["pristine"].probe("networks", kinds=kinds), "none": none, "low": low}


@pytest.fixture(scope="module")
def equivalence(host):
    name, checkouts = host
    return checkouts["patched"].probe("equivalence", kinds=list(KINDS[name]))


@every_kind
def test_without_mtm_networks_equal_the_truly_pristine_files_to_the_bit(made, kind):
    theirs, ours = made["pristine"]["kinds"][kind], made["none"]["kinds"][kind]
    assert_same(theirs["tensors"], ours["tensors"])
    assert_same(theirs["grads"], ours["grads"])
    assert torch.equal(theirs["image"], ours["image"])
    assert torch.equal(theirs["stream"], ours["stream"])
    assert theirs["init_kwargs"] == ours["init_kwargs"]
    assert theirs["image"].std() > 0
    assert ours["modules"] == []


@every_host
def test_without_mtm_the_op_is_not_imported(made):
    assert (made["none"]["mtm_ops"], made["low"]["mtm_ops"]) == (False, True)


@every_kind
def test_untrained_mtm_keeps_host_parameters_random_stream_and_images(made, kind):
    plain, bent = made["none"]["kinds"][kind], made["low"]["kinds"][kind]
    assert_same(plain["tensors"], {n: t for n, t in bent["tensors"].items() if ".mtm." not in n})
    assert torch.equal(plain["stream"], bent["stream"])
    torch.testing.assert_close(bent["image"], plain["image"], rtol=1e-4, atol=2e-5)
    assert len(bent["modules"]) == 2
    assert bent["init_kwargs"].get("synthesis_kwargs", bent["init_kwargs"])["mtm"] == "low"


@every_kind
def test_untrained_mtm_passes_the_gradients_on(made, kind):
    plain, bent = made["none"]["kinds"][kind]["grads"], made["low"]["kinds"][kind]["grads"]
    largest = max(float(grad.abs().max()) for grad in plain.values())
    for name, grad in plain.items():
        # Demodulation cancels the style of a layer with one channel, so its gradient is only rounding error.
        atol = 2e-4 * float(grad.abs().max()) + 1e-9 * largest
        torch.testing.assert_close(bent[name], grad, rtol=2e-3, atol=atol, msg=name)


@every_kind
def test_the_modules_of_a_network_start_differently(made, kind):
    tensors = made["low"]["kinds"][kind]["tensors"]
    first, second = (t.flatten()[:64] for n, t in tensors.items() if n.endswith("mtm.affine_weight"))
    assert not torch.equal(first, second)


@every_kind
def test_uninitialised_latents_do_not_crash(host, made, kind):
    shapes = [made[mtm]["kinds"][kind]["nan_shape"] for mtm in ("none", "low")]
    assert shapes == [KINDS[host[0]][kind]] * 2


@every_kind
def test_turning_grown_offsets_off_gives_the_hosts_convolution(equivalence, kind):
    plain, off, on = equivalence[kind]
    torch.testing.assert_close(off, plain, rtol=1e-4, atol=2e-5)
    assert (on - plain).abs().max() > 1e-3


@pytest.mark.parametrize("host", HALF, indirect=True, scope="module")
def test_half_precision_layers_keep_offsets_in_float32(host):
    name, checkouts = host
    for kind, found in checkouts["patched"].probe("half", kinds=HALF[name]).items():
        full, half = found["runs"]
        assert found["offsets"] == [(torch.float32, torch.float32), (torch.float16, torch.float32)], kind
        # Half has 11 bits. x, weight, products and output are rounded, and positions shift with the rounding of x.
        assert (half - full).abs().max() <= 8 * 2**-11 * full.abs().max(), kind
        assert not torch.equal(half, full), kind
