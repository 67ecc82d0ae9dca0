"""The official EG3D generator with and without MTM, fresh: parameters, images, gradients, layers."""

import pytest
import torch
from lab import assert_same

LAYERS = ["backbone.synthesis.b8.conv1.mtm", "backbone.synthesis.b16.conv1.mtm"]


@pytest.fixture(scope="module")
def pristine(eg3d):
    return eg3d["pristine"].probe("networks", kinds=["eg3d"])["kinds"]["eg3d"]


@pytest.fixture(scope="module")
def both(eg3d):
    """Of the patched checkout: what mtm none and mtm low give, and whether the op was imported."""
    none, low = (eg3d["patched"].probe("networks", kinds=["eg3d"], **mtm) for mtm in ({}, {"mtm": "low"}))
    return none["kinds"]["eg3d"], low["kinds"]["eg3d"], [none["mtm_ops"], low["mtm_ops"]]


def test_without_mtm_the_network_equals_the_truly_pristine_files_to_the_bit(pristine, both):
    none = both[0]
    assert_same(pristine["tensors"], none["tensors"])
    assert_same(pristine["grads"], none["grads"])
    assert torch.equal(pristine["image"], none["image"])
    assert torch.equal(pristine["stream"], none["stream"])
    assert pristine["init_kwargs"] == none["init_kwargs"]
    assert pristine["image"].std() > 0
    assert both[2] == [False, True]


def test_untrained_mtm_keeps_host_parameters_random_stream_images_and_gradients(both):
    plain, bent, _ = both
    host = {n: t for n, t in bent["tensors"].items() if ".mtm." not in n}
    assert_same(plain["tensors"], host)
    assert torch.equal(plain["stream"], bent["stream"])
    torch.testing.assert_close(bent["image"], plain["image"], rtol=1e-4, atol=2e-5)
    largest = max(float(grad.abs().max()) for grad in plain["grads"].values())
    for name, grad in plain["grads"].items():
        # The style of a layer with one channel has none but rounding: it is demodulated.
        atol = 2e-4 * float(grad.abs().max()) + 1e-9 * largest
        torch.testing.assert_close(bent["grads"][name], grad, rtol=2e-3, atol=atol, msg=name)
    assert bent["init_kwargs"]["mtm"] == "low"


def test_the_backbone_carries_the_module_and_the_superresolution_does_not(both):
    assert both[0]["modules"] == []
    assert both[1]["modules"] == LAYERS
    weights = [both[1]["tensors"][f"{name}.affine_weight"] for name in LAYERS]
    assert not torch.equal(weights[0].flatten()[:64], weights[1].flatten()[:64]), "modules start differently"


def test_uninitialised_latents_do_not_crash(both):
    assert both[1]["nan_shape"] == both[0]["nan_shape"] == [2, 3 * 128 * 128 + 4 * 8 * 8]


def test_layers_go_by_the_resolutions_of_the_planes_whatever_the_image_has(eg3d):
    found = eg3d["patched"].probe(
        "layers",
        requests=[
            ("eg3d", {"mtm": "low,mid,high"}),
            ("eg3d", {"mtm": "256"}),
            ("eg3d", {"mtm": "512"}),
            ("eg3d", {"mtm": "lwo"}),
        ],
    )
    assert found[0] == [f"backbone.synthesis.b{r}.conv1.mtm" for r in (8, 16, 32, 64)]
    assert found[1] == ["backbone.synthesis.b256.conv1.mtm"]
    assert "resolutions of this network, 4, 8, 16, 32, 64, 128, 256; got 512" in found[2]
    assert "got 'lwo'" in found[3]


def test_turning_grown_offsets_off_gives_the_hosts_convolution(eg3d):
    plain, off, on = eg3d["patched"].probe("equivalence", kinds=["eg3d"])["eg3d"]
    torch.testing.assert_close(off, plain, rtol=1e-4, atol=2e-5)
    assert (on - plain).abs().max() > 1e-3


def test_density_regularisation_reaches_every_mtm_parameter(eg3d):
    grads = eg3d["patched"].probe("regularise")
    assert len(grads) == 8
    for name, grad in grads.items():
        assert grad is not None, name
        assert grad.isfinite().all(), name
        assert grad.abs().max() > 0, name


def test_the_gpus_convolution_has_second_order_gradients_with_compat_and_has_none_without(eg3d):
    ours, theirs = (eg3d[name].probe("second_order") for name in ("base", "pristine"))
    assert ours == dict.fromkeys(theirs, True)
    assert all("incorrect number of gradients (expected 3, got 2)" in said for said in theirs.values())
