"""What is specific to EG3D's generator: layers by plane resolution, density regularisation, conv2d_gradfix."""

from lab import assert_reached


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


def test_density_regularisation_reaches_every_mtm_parameter(eg3d):
    grads = eg3d["patched"].probe("regularise")
    assert_reached(grads)


def test_the_gpus_convolution_has_second_order_gradients_with_compat_and_has_none_without(eg3d):
    ours, theirs = (eg3d[name].probe("second_order") for name in ("base", "pristine"))
    assert ours == dict.fromkeys(theirs, True)
    assert all("incorrect number of gradients (expected 3, got 2)" in said for said in theirs.values())
