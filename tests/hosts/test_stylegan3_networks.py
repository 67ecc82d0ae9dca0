"""What is specific to StyleGAN3's generators: layers by resolution and by sampling rate, path length."""

from lab import assert_reached


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


def test_path_length_regularisation_reaches_every_mtm_parameter(stylegan3):
    heads = ["offset", "offset+mask"]
    for head, grads in stylegan3["patched"].probe("regularise", heads=heads).items():
        assert_reached(grads, head)
