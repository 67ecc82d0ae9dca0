"""What is specific to StyleGAN-V's generator: what drives the offsets, layers by resolution, path length."""

import pytest
from lab import assert_reached

KINDS = ["motion", "concat_w", "sum_w", "still"]  # how the motion enters the generator; "still" has none
HEADS = ["offset", "offset+mask"]


def test_content_and_motion_drive_the_offsets(stylegan_v):
    """w has 16 numbers and the motion code 16 more. If w already contains it, or there is none, only w drives."""
    found = stylegan_v["patched"].probe("widths", kinds=KINDS)
    assert found == {"motion": {16 + 16}, "concat_w": {16 + 16}, "sum_w": {16}, "still": {16}}


@pytest.mark.parametrize("head", HEADS)
def test_for_one_x_offsets_differ_between_frames_and_between_latents(stylegan_v, head):
    found = stylegan_v["patched"].probe("offsets", mtm_head=head)

    def differ(kind, held, dim):
        """Whether each layer's offsets differ between videos (dim 0) or frames (1), with `held` constant."""
        apart = [(o.select(dim, 0) - o.select(dim, 1)).abs().max() for o in found[kind, held]]
        assert len(apart) == 2
        return [bool(a > 1e-3) for a in apart]

    yes, no = [True, True], [False, False]
    assert differ("motion", "nothing", 1) == yes
    assert differ("motion", "nothing", 0) == yes
    assert differ("motion", "motion", 0) == yes  # the latent alone makes the difference
    assert differ("motion", "content", 0) == yes  # the motion alone makes the difference
    assert differ("motion", "time", 1) == no
    assert differ("still", "nothing", 1) == no
    assert differ("still", "nothing", 0) == yes


def test_layers_go_by_resolution(stylegan_v):
    requests = [("motion", {"mtm": spec}) for spec in ("low", "low,mid", "4,32", "none", "high", "lwo")]
    requests += [("motion", {"mtm": "low", "mtm_head": "both"})]
    found = stylegan_v["patched"].probe("layers", requests=requests)
    assert found[:4] == [[f"synthesis.b{r}.conv1.mtm" for r in rs] for rs in ((8, 16), (8, 16, 32), (4, 32), ())]
    assert "resolutions of this network, 4, 8, 16, 32; got 64" in found[4]
    assert "got 'lwo'" in found[5]
    assert "head must be one of offset, offset+mask" in found[6]


def test_path_length_regularisation_reaches_every_mtm_parameter(stylegan_v):
    for head, grads in stylegan_v["patched"].probe("regularise", heads=HEADS).items():
        assert_reached(grads, head)
