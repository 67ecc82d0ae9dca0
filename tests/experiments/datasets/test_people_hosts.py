"""The people data sets in use: by the official codebases, the compact host and the runner, and after a kill."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from test_host_readers import CLIPS, IMAGES, read
from test_interrupted import wait_for_parts
from test_parts import work_of
from test_people import make

from experiments.data import Data
from experiments.datasets.people_labels import read_labels
from experiments.files import UserError
from experiments.mini.data import ImageSet, load_images
from experiments.table import Dataset, Table, load_table

SHARD_FRAMES = 4
DRAW = f"""
from experiments.datasets import people
people._SHARD_FRAMES = {SHARD_FRAMES}
from tools.data import main
main(prog_name="data")
"""


@pytest.mark.parametrize("host", ["stylegan3", "eg3d"])
def test_image_hosts_read_the_images_and_not_the_labels(host, boxes, tmp_path):
    make(tmp_path / "p.zip", motion=boxes, count=5)
    count, shape, labels, sums = read(host, IMAGES, tmp_path / "p.zip")
    assert (count, shape, len(set(sums))) == (5, [3, 32, 32], 5)
    assert labels == [[]] * 5


@pytest.mark.parametrize("host", ["stylegan-v", "stylesv"])
def test_video_hosts_read_the_clips_and_not_the_labels(host, boxes, tmp_path):
    options = {"count": 2, "frames": 4, "fps": 60.0, "resolution": 256}
    make(tmp_path / "c.zip", "people-clips", motion=boxes, **options)
    assert read(host, CLIPS, tmp_path / "c.zip", 0) == [[4, 4], [3, 3, 256, 256], 8]


def test_the_compact_host_reads_them(boxes, tmp_path):
    make(tmp_path / "p.zip", motion=boxes, count=5)
    loaded: ImageSet = load_images(tmp_path / "p.zip")
    assert (len(loaded), loaded.resolution) == (5, 32)


def table() -> Table:
    dataset = Dataset(recipe="people", options={"resolution": 16, "count": 3})
    return load_table("smoke").model_copy(update={"datasets": {"bodies": dataset}})


def test_data_of_people_are_motions_which_decide_the_data_sets_name(boxes, tmp_path):
    own = table().with_data(["bodies"])
    assert own.datasets["bodies"].recipe == "people"

    def data() -> Data:
        return Data(own, {"bodies": boxes.parent / "mine"}, tmp_path / "cache")

    with pytest.raises(UserError, match="must be a BVH file, or a folder"):
        data().check_sources(["bodies"])
    (boxes.parent / "mine").mkdir()
    (boxes.parent / "mine" / "one.bvh").write_text(boxes.read_text())
    data().check_sources(["bodies"])
    path, info = data().prepare("bodies")
    assert info.nimg == 3
    assert read_labels(path)["motions"].tolist() == ["one.bvh"]
    assert Data(own, {}, tmp_path / "cache").path("bodies") != path
    (boxes.parent / "mine" / "two.bvh").write_text(boxes.read_text())
    assert data().path("bodies") != path


def started(motion: Path, dest: Path) -> subprocess.Popen:
    options = ["--count=60", "--resolution=64", "--processes=2", f"--motion={motion}"]
    command = [sys.executable, "-c", DRAW, "people", str(dest), *options]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)


def test_a_build_that_is_killed_goes_on_where_it_was_and_gives_the_same_bytes(boxes, tmp_path):
    whole = started(boxes, tmp_path / "whole.zip")
    assert whole.wait(60) == 0, whole.communicate()
    whole.communicate()
    dest = tmp_path / "killed.zip"
    process = started(boxes, dest)
    wait_for_parts(work_of(dest), 2)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not dest.exists()
    kept = {path: path.stat().st_ino for path in work_of(dest).glob("*.json")}
    assert kept
    again = started(boxes, dest)
    told = again.communicate(timeout=60)[1]
    assert again.returncode == 0
    assert "Resuming: " in told
    assert dest.read_bytes() == (tmp_path / "whole.zip").read_bytes()
    assert not work_of(dest).exists()
