"""StyleSV's snapshots with MTM: legacy.py reads them, even unpatched and without our packages; images and metrics."""

import re

import imageio.v2 as imageio
import pytest
import torch
from stylesv_lab import options
from test_video import ENCODES, read_back


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
    """legacy.py would rebuild it from a network file without MTM. It uses the snapshot's own network instead; other
    snapshots load as before."""
    path, image = snapshot
    loaded = stylesv["pristine"].probe("load_elsewhere", path=str(path))
    torch.testing.assert_close(loaded["image"], image, rtol=1e-3, atol=1e-4)
    assert sum("mtm_ops is not installed" in w for w in loaded["warnings"]) == 1
    assert loaded["anew"].startswith(
        "Generator: synthesis_kwargs must not have mtm in a checkout without MTM; got mtm='low'"
    )
    assert (loaded["plain"], loaded["own"]) == ("Generator", True)


@ENCODES
def test_generate_writes_videos(stylesv, snapshot, tmp_path):
    """The host's command writes a grid in one mp4 file, and frames."""
    words = f"src/scripts/generate.py --network_pkl {snapshot[0]} --video_len 3 --num_videos 4 --batch_size 4"
    more = "--as_grids true --save_as_mp4 true --moco_decomposition true"
    stylesv["patched"].run(*words.split(), *more.split(), "--outdir", str(tmp_path / "grid"))
    (grid,) = (tmp_path / "grid").iterdir()
    assert read_back(grid).shape == (3, 70, 70, 3)
    stylesv["patched"].run(
        *words.replace("videos 4", "videos 1").replace("size 4", "size 1").split(), "--outdir", str(tmp_path / "frames")
    )
    frames = sorted((tmp_path / "frames" / "000000").iterdir())
    assert [imageio.imread(path).shape for path in frames] == [(32, 32, 3)] * 3


def test_calc_metrics_measures_the_snapshots_own_network_with_a_detector_of_ones_own(stylesv, clips, tmp_path):
    found = stylesv["patched"].probe("metric", words=options(2, clips, tmp_path), folder=str(tmp_path))
    assert found["result"] > 0
    (cached,) = found["cached"]
    assert re.fullmatch(r"clips-i3d_torchscript_tiny-[0-9a-f]{32}\.pkl", cached)
    assert torch.equal(*found["drawn"])
