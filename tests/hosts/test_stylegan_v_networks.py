"""The official StyleGAN-V generator with and without MTM, fresh: parameters, images, gradients, layers, what drives
the offsets."""

import pytest
import torch
from lab import assert_same

KINDS = ["motion", "concat_w", "sum_w", "still"]  # how the motion reaches the generator; "still" has none
HEADS = ["offset", "offset+mask"]


@pytest.fixture(scope="module")
def pristine(stylegan_v):
    return stylegan_v["pristine"].probe("networks", kinds=KINDS)


@pytest.fixture(scope="module")
def none(stylegan_v):
    return stylegan_v["patched"].probe("networks", kinds=KINDS)


@pytest.fixture(scope="module")
def low(stylegan_v):
    return stylegan_v["patched"].probe("networks", kinds=KINDS, mtm="low")


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
    assert bent["init_kwargs"]["synthesis_kwargs"]["mtm"] == "low"
    weights = [t for n, t in bent["tensors"].items() if n.endswith("mtm.affine_weight")]
    assert not torch.equal(*weights), "the modules of a network start differently"


@pytest.mark.parametrize("kind", KINDS)
def test_untrained_mtm_passes_the_gradients_on(none, low, kind):
    plain, bent = none["kinds"][kind]["grads"], low["kinds"][kind]["grads"]
    for name, grad in plain.items():
        torch.testing.assert_close(bent[name], grad, rtol=2e-3, atol=2e-4 * float(grad.abs().max()), msg=name)


def test_content_and_motion_drive_the_offsets(stylegan_v):
    """w has 16 numbers, the motion code 16 more; where it is in w already, or where there is none, only w drives."""
    found = stylegan_v["patched"].probe("widths", kinds=KINDS)
    assert found == {"motion": {16 + 16}, "concat_w": {16 + 16}, "sum_w": {16}, "still": {16}}


@pytest.mark.parametrize("head", HEADS)
def test_for_one_x_offsets_differ_between_frames_and_between_latents(stylegan_v, head):
    found = stylegan_v["patched"].probe("offsets", mtm_head=head)

    def differ(kind, held, dim):
        """Whether each layer's offsets differ between videos (0) or frames (1), with all else held."""
        apart = [(o.select(dim, 0) - o.select(dim, 1)).abs().max() for o in found[kind, held]]
        assert len(apart) == 2
        return [bool(a > 1e-3) for a in apart]

    yes, no = [True, True], [False, False]
    assert differ("motion", "nothing", 1) == yes
    assert differ("motion", "nothing", 0) == yes
    assert differ("motion", "motion", 0) == yes  # the latent alone
    assert differ("motion", "content", 0) == yes  # the motion alone
    assert differ("motion", "time", 1) == no
    assert differ("still", "nothing", 1) == no
    assert differ("still", "nothing", 0) == yes


@pytest.mark.parametrize("kind", KINDS)
def test_uninitialised_latents_do_not_crash(low, kind):
    assert low["kinds"][kind]["nan_shape"] == [6, 3, 32, 32]


def test_layers_go_by_resolution(stylegan_v):
    requests = [("motion", {"mtm": spec}) for spec in ("low", "low,mid", "4,32", "none", "high", "lwo")]
    requests += [("motion", {"mtm": "low", "mtm_head": "both"})]
    found = stylegan_v["patched"].probe("layers", requests=requests)
    assert found[:4] == [[f"synthesis.b{r}.conv1.mtm" for r in rs] for rs in ((8, 16), (8, 16, 32), (4, 32), ())]
    assert "resolutions of this network, 4, 8, 16, 32; got 64" in found[4]
    assert "got 'lwo'" in found[5]
    assert "head must be one of offset, offset+mask" in found[6]


def test_turning_grown_offsets_off_gives_the_hosts_convolution(stylegan_v):
    for kind, (plain, off, on) in stylegan_v["patched"].probe("equivalence", kinds=KINDS).items():
        torch.testing.assert_close(off, plain, rtol=1e-4, atol=2e-5, msg=kind)
        assert (on - plain).abs().max() > 1e-3, kind


def test_half_precision_layers_keep_offsets_in_float32(stylegan_v):
    found = stylegan_v["patched"].probe("half")
    full, half = found["runs"]
    assert found["offsets"] == [(torch.float32, torch.float32), (torch.float16, torch.float32)]
    # A half has 11 bits; x, weight, product and output are rounded, and coordinates move by what x's rounding does.
    assert (half - full).abs().max() <= 8 * 2**-11 * full.abs().max()
    assert not torch.equal(half, full)


def test_path_length_regularisation_reaches_every_mtm_parameter(stylegan_v):
    for head, grads in stylegan_v["patched"].probe("regularise", heads=HEADS).items():
        assert len(grads) == 8, head
        for name, grad in grads.items():
            assert grad is not None, (head, name)
            assert grad.isfinite().all(), (head, name)
            assert grad.abs().max() > 0, (head, name)
