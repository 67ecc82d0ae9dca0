"""What is specific to StyleSV's generator: layers by sampling rate, and what drives the offsets.

Stage 1 has no motion. Stage 2 learns a mask, starting from zeros, that lets motion in. In "moving" the motion is active
from the start.
"""

import pytest
import torch

KINDS = ["stage-1", "moving"]


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
    """kind -> layer -> offsets [latents, frames, ...] for one input."""
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
