"""EG3D's snapshots with MTM: images and videos from them."""

import numpy as np
import pytest
from lab import PKL
from PIL import Image


@pytest.fixture(scope="module")
def snapshot(eg3d, tmp_path_factory):
    """A pickle in a run's folder."""
    path = tmp_path_factory.mktemp("run") / PKL
    (path.parent / "training_options.json").write_text("{}")
    eg3d["patched"].probe("snapshot", path=str(path), kind="eg3d", head="offset+mask")
    return path


def test_gen_samples_draws_three_views_and_the_shape_as_mrc_and_ply(eg3d, snapshot, tmp_path):
    import mrcfile
    import plyfile

    words = ("--network", str(snapshot), "--outdir", str(tmp_path), "--shapes", "1", "--shape-res", "16")
    eg3d["patched"].run("gen_samples.py", *words, "--seeds", "0,1", "--reload_modules", "1")
    images = [np.asarray(Image.open(tmp_path / f"seed000{n}.png")) for n in (0, 1)]
    assert images[0].shape == (128, 3 * 128, 3)
    assert (images[0] != images[1]).any()
    with mrcfile.open(tmp_path / "seed0000.mrc") as mrc:
        assert mrc.data.shape == (16, 16, 16)
        assert (mrc.data[0] == -1000).all(), "upstream trims the border"
        inside = np.array(mrc.data[1:-1, 1:-1, 1:-1])
    assert inside.min() > -1000
    assert inside.std() > 0

    code = "import dnnlib, sys, shape_utils; shape_utils.convert_mrc(sys.argv[1], sys.argv[2], float(sys.argv[3]))"
    ply = tmp_path / "shape.ply"
    eg3d["patched"].run("-c", code, str(tmp_path / "seed0000.mrc"), str(ply), str(float(np.median(inside))))
    assert len(plyfile.PlyData.read(ply)["face"].data) > 10


COUNT = """
import imageio, sys
frames = [frame for frame in imageio.get_reader(sys.argv[1])]
print(len(frames), *frames[0].shape, (frames[0] != frames[2]).any())
"""


def test_gen_videos_films_a_snapshot(eg3d, snapshot, tmp_path):
    words = ("--network", str(snapshot), "--outdir", str(tmp_path), "--seeds", "0,1", "--w-frames", "2")
    eg3d["patched"].run("gen_videos.py", *words, "--sample_mult", "1")
    done = eg3d["patched"].run("-c", COUNT, str(tmp_path / "interpolation.mp4"))
    assert done.stdout.split() == ["4", "128", "128", "3", "True"]
