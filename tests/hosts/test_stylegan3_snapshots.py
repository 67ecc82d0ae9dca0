"""Snapshots with MTM: read by legacy.py, also unpatched and without our packages; guarded when copied."""

import pytest
import torch


@pytest.fixture(scope="module", params=[("stylegan2", "offset"), ("stylegan3-t", "offset+mask")], ids=lambda p: p[0])
def snapshot(request, stylegan3, tmp_path_factory):
    kind, head = request.param
    path = tmp_path_factory.mktemp("snapshot") / "network.pkl"
    return path, stylegan3["patched"].probe("snapshot", path=str(path), kind=kind, head=head)["image"]


def test_legacy_loads_a_snapshot_that_draws_the_same_and_rebuilds(stylegan3, snapshot):
    path, image = snapshot
    loaded = stylegan3["patched"].probe("load_here", path=str(path))
    assert torch.equal(loaded["image"], image)
    assert torch.equal(loaded["rebuilt"], image)
    assert (loaded["straight"] - image).abs().max() > 1e-3
    assert loaded["halves"] == loaded["names"] != []


def test_an_unpatched_checkout_without_our_packages_loads_and_draws_it(stylegan3, snapshot):
    path, image = snapshot
    loaded = stylegan3["pristine"].probe("load_elsewhere", path=str(path))
    torch.testing.assert_close(loaded["image"], image, rtol=1e-3, atol=1e-4)
    assert sum("mtm_ops is not installed" in w for w in loaded["warnings"]) == 1
    assert [loaded[how].split(";")[0] for how in ("rebuilt", "halves")] == ["No module named 'mtm_hosts.layers'"] * 2
    assert loaded["again"] > 0


@pytest.mark.parametrize("kind", ["stylegan2", "stylegan3-t"])
def test_checkpoints_never_lose_mtm_without_a_word(stylegan3, kind):
    found = stylegan3["patched"].probe("copies", kind=kind, **({"more": "low,4"} if kind == "stylegan2" else {}))
    assert found["into_mtm"] == ""
    assert found["mtm_kept"]
    torch.testing.assert_close(*found["images"], rtol=1e-4, atol=2e-5)
    assert "--mtm low --mtm-head offset, " in found["into_plain"]
    assert "--mtm low --mtm-head offset+mask, " in found["other_head"]
    assert (found["same"], found["more"]) == ("", "")


def test_calc_metrics_runs_with_a_metric_and_a_detector_of_ones_own(stylegan3, pictures, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "training_options.json").write_text("{}")
    path = folder / "network-snapshot-000000.pkl"
    checkout = stylegan3["patched"]
    checkout.probe("snapshot", path=str(path), kind="stylegan2", head="offset")
    extra = tmp_path / "extra"
    extra.mkdir()
    found = checkout.probe("metric", snapshot_path=str(path), data=str(pictures), folder=str(extra))
    assert found["result"] > 0
    assert len(found["cached"]) == 1
    assert found["images"] == 12
