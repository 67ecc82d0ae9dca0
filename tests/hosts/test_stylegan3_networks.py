"""The official generators with and without MTM, fresh: parameters, images, gradients, layers, half precision."""

import pytest
import torch
from lab import assert_same

KINDS = ["stylegan2", "stylegan3-t", "stylegan3-r"]


@pytest.fixture(scope="module")
def pristine(stylegan3):
    return stylegan3["pristine"].probe("networks", kinds=KINDS)


@pytest.fixture(scope="module")
def none(stylegan3):
    return stylegan3["patched"].probe("networks", kinds=KINDS)


@pytest.fixture(scope="module")
def low(stylegan3):
    return stylegan3["patched"].probe("networks", kinds=KINDS, mtm="low")


@pytest.mark.parametrize("kind", KINDS)
def test_without_mtm_networks_equal_the_truly_pristine_files_to_the_bit(pristine, none, kind):
    theirs, ours = pristine["kinds"][kind], none["kinds"][kind]
    assert_same(theirs["tensors"], ours["tensors"])
    assert_same(theirs["grads"], ours["grads"])
    assert torch.equal(theirs["image"], ours["image"])
    assert torch.equal(theirs["stream"], ours["stream"])
    assert theirs["init_kwargs"] == ours["init_kwargs"]
    assert theirs["image"].std() > 0


def test_without_mtm_the_op_is_not_imported(none, low):
    assert (none["mtm_ops"], low["mtm_ops"]) == (False, True)


@pytest.mark.parametrize("kind", KINDS)
def test_untrained_mtm_keeps_host_parameters_random_stream_and_images(none, low, kind):
    plain, bent = none["kinds"][kind], low["kinds"][kind]
    host = {n: t for n, t in bent["tensors"].items() if ".mtm." not in n}
    assert_same(plain["tensors"], host)
    assert torch.equal(plain["stream"], bent["stream"])
    torch.testing.assert_close(bent["image"], plain["image"], rtol=1e-4, atol=2e-5)
    assert len(bent["modules"]) == 2
    assert bent["init_kwargs"]["mtm"] == "low"


@pytest.mark.parametrize("kind", KINDS)
def test_untrained_mtm_passes_the_gradients_on(none, low, kind):
    plain, bent = none["kinds"][kind]["grads"], low["kinds"][kind]["grads"]
    for name, grad in plain.items():
        torch.testing.assert_close(bent[name], grad, rtol=2e-3, atol=2e-4 * float(grad.abs().max()), msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_the_modules_of_a_network_start_differently(low, kind):
    weights = [t for n, t in low["kinds"][kind]["tensors"].items() if n.endswith("mtm.affine_weight")]
    assert not torch.equal(weights[0].flatten()[:64], weights[1].flatten()[:64])


@pytest.mark.parametrize("kind", KINDS)
def test_uninitialised_latents_do_not_crash(low, kind):
    assert low["kinds"][kind]["nan_shape"] == [2, 3, 32, 32]


def test_layers_go_by_resolution_and_by_sampling_rate(stylegan3):
    found = stylegan3["patched"].probe(
        "layers",
        requests=[
            ("stylegan2", {"mtm": "low"}),
            ("stylegan2", {"mtm": "low,mid"}),
            ("stylegan2", {"mtm": "4,32"}),
            ("stylegan2", {"mtm": "none"}),
            ("stylegan3-t", {"mtm": "low"}),
            ("stylegan3-t", {"mtm": "32"}),
            ("stylegan2", {"mtm": "high"}),
            ("stylegan3-t", {"mtm": "4,16"}),
            ("stylegan3-t", {"mtm": "lwo"}),
            ("stylegan2", {"mtm": "low", "mtm_head": "both"}),
        ],
    )
    assert found[:4] == [
        ["synthesis.b8.conv1.mtm", "synthesis.b16.conv1.mtm"],
        ["synthesis.b8.conv1.mtm", "synthesis.b16.conv1.mtm", "synthesis.b32.conv1.mtm"],
        ["synthesis.b4.conv1.mtm", "synthesis.b32.conv1.mtm"],
        [],
    ]
    assert [n.split("_")[0] for n in found[4]] == ["synthesis.L1", "synthesis.L5"]
    assert [n.split("_")[0] for n in found[5]] == ["synthesis.L5"]
    assert "resolutions of this network, 4, 8, 16, 32; got 64" in found[6]
    assert "sampling rates of this network, 16, 32; got 4" in found[7]
    assert "got 'lwo'" in found[8]
    assert "head must be one of offset, offset+mask" in found[9]


@pytest.mark.parametrize("kind", KINDS)
def test_turning_grown_offsets_off_gives_the_hosts_convolution(stylegan3, equivalence, kind):
    plain, off, on = equivalence[kind]
    torch.testing.assert_close(off, plain, rtol=1e-4, atol=2e-5)
    assert (on - plain).abs().max() > 1e-3


@pytest.fixture(scope="module")
def equivalence(stylegan3):
    return stylegan3["patched"].probe("equivalence", kinds=KINDS)


def test_half_precision_layers_keep_offsets_in_float32(stylegan3):
    for kind, found in stylegan3["patched"].probe("half", kinds=KINDS).items():
        full, half = found["runs"]
        assert found["offsets"] == [(torch.float32, torch.float32), (torch.float16, torch.float32)], kind
        # A half has 11 bits; x, weight, product and output are rounded, and coordinates move by what x's rounding does.
        assert (half - full).abs().max() <= 8 * 2**-11 * full.abs().max(), kind
        assert not torch.equal(half, full), kind


def test_path_length_regularisation_reaches_every_mtm_parameter(stylegan3):
    heads = ["offset", "offset+mask"]
    for head, grads in stylegan3["patched"].probe("regularise", heads=heads).items():
        assert len(grads) == 8, head
        for name, grad in grads.items():
            assert grad is not None, (head, name)
            assert grad.isfinite().all(), (head, name)
            assert grad.abs().max() > 0, (head, name)
