"""StyleSV's snapshots with MTM: read by legacy.py, also unpatched and without our packages; copied, drawn, measured."""

import pytest
import torch


@pytest.fixture(scope="module", params=["offset", "offset+mask"])
def snapshot(request, stylesv, tmp_path_factory):
    path = tmp_path_factory.mktemp("snapshot") / "network.pkl"
    return path, stylesv["patched"].probe("snapshot", path=str(path), kind="moving", head=request.param)["image"]


def test_legacy_builds_a_snapshot_anew_that_draws_the_same(stylesv, snapshot):
    path, image = snapshot
    loaded = stylesv["patched"].probe("load_here", path=str(path))
    assert torch.equal(loaded["image"], image)
    assert (loaded["straight"] - image).abs().max() > 1e-3
    assert len(loaded["names"]) == 8
    assert loaded["anew"]


def test_an_unpatched_checkout_without_our_packages_loads_and_draws_it(stylesv, snapshot):
    """legacy.py would build it from a network file without MTM; it takes the snapshot's own, and others as before."""
    path, image = snapshot
    loaded = stylesv["pristine"].probe("load_elsewhere", path=str(path))
    torch.testing.assert_close(loaded["image"], image, rtol=1e-3, atol=1e-4)
    assert sum("mtm_ops is not installed" in w for w in loaded["warnings"]) == 1
    assert loaded["anew"].startswith(
        "Generator: synthesis_kwargs must not have mtm in a checkout without MTM; got mtm='low'"
    )
    assert (loaded["plain"], loaded["own"]) == ("Generator", True)


def test_checkpoints_never_lose_mtm_without_a_word(stylesv):
    found = stylesv["patched"].probe("copies")
    assert found["into_mtm"] == ""
    assert found["mtm_kept"]
    torch.testing.assert_close(*found["images"], rtol=1e-4, atol=2e-5)
    assert "--mtm low --mtm-head offset, " in found["into_plain"]
    assert "--mtm low --mtm-head offset+mask, " in found["other_head"]
    assert (found["same"], found["more"]) == ("", "")
