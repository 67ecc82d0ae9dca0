"""StyleSV's generator with and without MTM, fresh: parameters, images, gradients, layers, and what drives the offsets.

Stage 1 has no motion; stage 2 learns a mask that lets it in, from zeros; "moving" has it in from the start.
"""

import pytest
import torch
from lab import assert_same

KINDS = ["stage-1", "moving"]


@pytest.fixture(scope="module")
def pristine(stylesv):
    return stylesv["pristine"].probe("networks", kinds=KINDS)


@pytest.fixture(scope="module")
def none(stylesv):
    return stylesv["patched"].probe("networks", kinds=KINDS)


@pytest.fixture(scope="module")
def low(stylesv):
    return stylesv["patched"].probe("networks", kinds=KINDS, mtm="low")


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
    assert_same(plain["tensors"], {n: t for n, t in bent["tensors"].items() if ".mtm." not in n})
    assert torch.equal(plain["stream"], bent["stream"])
    torch.testing.assert_close(bent["image"], plain["image"], rtol=1e-4, atol=2e-5)
    assert len(bent["modules"]) == 2
    assert bent["init_kwargs"]["mtm"] == "low"


@pytest.mark.parametrize("kind", KINDS)
def test_untrained_mtm_passes_the_gradients_on(none, low, kind):
    plain, bent = none["kinds"][kind]["grads"], low["kinds"][kind]["grads"]
    for name, grad in plain.items():
        torch.testing.assert_close(bent[name], grad, rtol=2e-3, atol=2e-4 * float(grad.abs().max()), msg=name)


def test_uninitialised_latents_do_not_crash(low):
    assert [low["kinds"][kind]["nan_shape"] for kind in KINDS] == [[1, 3, 32, 32]] * 2


def test_the_modules_of_a_network_start_differently(low):
    tensors = low["kinds"]["moving"]["tensors"]
    weights = [t for n, t in tensors.items() if n.endswith("mtm.affine_weight")]
    assert not torch.equal(weights[0].flatten()[:64], weights[1].flatten()[:64])


def test_layers_go_by_sampling_rate(stylesv):
    found = stylesv["patched"].probe(
        "layers",
        requests=[
            {"mtm": "low"},
            {"mtm": "32"},
            {"mtm": "none"},
            {"mtm": "high"},
            {"mtm": "lwo"},
            {"mtm": "low", "mtm_head": "both"},
        ],
    )
    assert [[n.split("_")[0] for n in names] for names in found[:3]] == [
        ["synthesis.L2", "synthesis.L8"],
        ["synthesis.L8"],
        [],
    ]
    assert "sampling rates of this network, 16, 32; got 128" in found[3]
    assert "got 'lwo'" in found[4]
    assert "head must be one of offset, offset+mask" in found[5]


@pytest.fixture(scope="module")
def offsets(stylesv):
    """kind -> layer -> offsets [latents, frames, ...] of one input."""
    return stylesv["patched"].probe("offsets", kinds=KINDS)


def test_with_one_input_offsets_differ_between_frames_where_there_is_motion(offsets):
    for name, found in offsets["moving"].items():
        assert found.std() > 1e-2, name
        for video in found:
            for one, other in ((0, 1), (1, 2), (0, 2)):
                assert (video[one] - video[other]).abs().max() > 1e-3, name


def test_with_one_input_offsets_differ_between_latents_alone_where_there_is_none(offsets):
    for name, found in offsets["stage-1"].items():
        first, second = found
        assert (first[0] - second[0]).abs().max() > 1e-3, name
        torch.testing.assert_close(first[1:], first[:1].expand(2, -1, -1, -1), rtol=1e-5, atol=1e-5)


def test_turning_grown_offsets_off_gives_the_hosts_convolution(stylesv):
    plain, off, on = stylesv["patched"].probe("equivalence")
    torch.testing.assert_close(off, plain, rtol=1e-4, atol=2e-5)
    assert (on - plain).abs().max() > 1e-3


def test_half_precision_layers_keep_offsets_in_float32(stylesv):
    found = stylesv["patched"].probe("half")
    full, half = found["runs"]
    assert found["offsets"] == [(torch.float32, torch.float32), (torch.float16, torch.float32)]
    # A half has 11 bits; x, weight, product and output are rounded, and coordinates move by what x's rounding does.
    assert (half - full).abs().max() <= 8 * 2**-11 * full.abs().max()
    assert not torch.equal(half, full)
