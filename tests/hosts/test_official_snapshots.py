"""Snapshots with MTM of every official codebase: its legacy.py reads them, even unpatched and without our packages.

Copying them between networks must not lose MTM silently. StyleSV's legacy.py works differently; see
test_stylesv_snapshots.py.
"""

import pytest
import torch

UNPATCHED = "No module named 'mtm_hosts.layers'"
WRITTEN = {  # (codebase, generator, head) -> the error when an unpatched checkout rebuilds it
    ("stylegan3", "stylegan2", "offset"): UNPATCHED,
    ("stylegan3", "stylegan3-t", "offset+mask"): UNPATCHED,
    # The checkout's own file builds the network of the planes.
    ("eg3d", "eg3d", "offset+mask"): "got an unexpected keyword argument 'mtm'",
    ("stylegan-v", "motion", "offset+mask"): UNPATCHED,
}
COPIED = [  # `more` adds a layer
    ("stylegan3", {"kind": "stylegan2", "more": "low,4"}),
    ("stylegan3", {"kind": "stylegan3-t"}),
    ("eg3d", {"kind": "eg3d", "more": "low,4"}),
    ("stylegan-v", {"kind": "motion", "more": "low,4"}),
    ("stylesv", {}),
]


def checkouts_of(request, host):
    return request.getfixturevalue(host.replace("-", "_"))


@pytest.fixture(scope="module", params=WRITTEN, ids=lambda case: case[1])
def written(request, tmp_path_factory):
    """Checkouts, a snapshot, what its network drew originally, and the error when an unpatched checkout rebuilds it."""
    host, kind, head = request.param
    checkouts, path = checkouts_of(request, host), tmp_path_factory.mktemp("snapshot") / "network.pkl"
    image = checkouts["patched"].probe("snapshot", path=str(path), kind=kind, head=head)["image"]
    return checkouts, path, image, WRITTEN[request.param]


def test_legacy_loads_a_snapshot_that_draws_the_same_and_rebuilds(written):
    checkouts, path, image, _ = written
    loaded = checkouts["patched"].probe("load_here", path=str(path))
    assert torch.equal(loaded["image"], image)
    assert torch.equal(loaded["rebuilt"], image)
    assert (loaded["straight"] - image).abs().max() > 1e-3
    assert loaded["halves"] == loaded["names"] != []


def test_an_unpatched_checkout_without_our_packages_loads_and_draws_it(written):
    checkouts, path, image, reason = written
    loaded = checkouts["pristine"].probe("load_elsewhere", path=str(path))
    torch.testing.assert_close(loaded["image"], image, rtol=1e-3, atol=1e-4)
    assert sum("mtm_ops is not installed" in w for w in loaded["warnings"]) == 1
    assert reason in loaded["rebuilt"]
    assert reason in loaded["halves"]
    assert loaded["again"] > 0


@pytest.mark.parametrize(("host", "options"), COPIED, ids=lambda value: value if isinstance(value, str) else "")
def test_checkpoints_never_lose_mtm_without_a_word(request, host, options):
    found = checkouts_of(request, host)["patched"].probe("copies", **options)
    assert found["into_mtm"] == ""
    assert found["mtm_kept"]
    torch.testing.assert_close(*found["images"], rtol=1e-4, atol=2e-5)
    assert "--mtm low --mtm-head offset, " in found["into_plain"]
    assert "--mtm low --mtm-head offset+mask, " in found["other_head"]
    assert (found["same"], found["more"]) == ("", "")
