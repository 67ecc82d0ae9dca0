"""The recipes' data sets, read by the official codebases' own data set classes."""

import json
import os
from pathlib import Path

import forked
import numpy as np
import pytest
from sources_lab import folder, image, packed_tar, tar_bytes
from test_published import camera_labels

from experiments.datasets import RECIPES

VENDOR = Path(__file__).resolve().parents[3] / "vendor"
IMAGES = """
import json, sys
sys.path.insert(0, sys.argv[2])
from training.dataset import ImageFolderDataset
data = ImageFolderDataset(sys.argv[1], use_labels=True)
print(json.dumps([len(data), data.image_shape, [data.get_label(i).tolist() for i in range(len(data))],
                  [int(data[i][0].sum()) for i in range(len(data))]]))
"""
CLIPS = """
import json, sys, types
sys.path.insert(0, sys.argv[2])
sys.modules.setdefault("cv2", types.ModuleType("cv2"))  # only StyleSV's, for frames that are not square
from omegaconf import OmegaConf
from src.training.dataset import ImageFolderDataset, VideoFramesFolderDataset
sampling = dict(type="random", num_frames_per_video=3, max_num_frames=1024, total_dists=None, max_dist=32)
cfg = OmegaConf.create(dict(max_num_frames=1024, sampling=sampling, resolution=256, chunk=int(sys.argv[3])))
clips = VideoFramesFolderDataset(sys.argv[1], cfg=cfg, resolution=256)
frames = ImageFolderDataset(sys.argv[1], resolution=256)
print(json.dumps([[len(c) for c in clips._video_idx2frames], list(clips[0]["image"].shape), len(frames)]))
"""


def read(host: str, script: str, *words: object) -> list:
    code = VENDOR / host / ("eg3d" if host == "eg3d" else ".")
    if not any((VENDOR / host).iterdir()):
        pytest.skip(f"vendor/{host} is not fetched: git submodule update --init vendor/{host}")
    command = ["-c", script, *(str(word) for word in words[:1]), str(code), *map(str, words[1:])]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONWARNINGS": "ignore"}
    done = forked.run(*command, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_stylegan3_reads_imagenet_with_its_classes(tmp_path):
    inner = {
        f"n{c:08d}.tar": tar_bytes({f"{i}.JPEG": image(10 * c + i, kind="jpeg") for i in range(2)}) for c in (1, 2)
    }
    dest = tmp_path / "imagenet-128.zip"
    RECIPES["imagenet-128"].run(packed_tar(tmp_path / "train.tar", inner), dest, partial=True, processes=1)
    count, shape, labels, sums = read("stylegan3", IMAGES, dest)
    assert (count, shape) == (4, [3, 128, 128])
    assert labels == [[1, 0], [1, 0], [0, 1], [0, 1]]
    assert len(set(sums)) == 4


def test_eg3d_reads_ffhq_with_the_camera_of_each_image(tmp_path):
    names = ["img0.png", "img0_mirror.png", "img1.png"]
    cameras = camera_labels(names)
    files = {name: image(i, 64, 64) for i, name in enumerate(names)}
    source = folder(tmp_path / "final_crops", files | {"dataset.json": json.dumps(cameras).encode()})
    RECIPES["ffhq-256"].run(source, tmp_path / "ffhq-256.zip", partial=True, processes=1)
    count, shape, labels, _ = read("eg3d", IMAGES, tmp_path / "ffhq-256.zip")
    assert (count, shape) == (3, [3, 256, 256])
    np.testing.assert_allclose(labels, [label for _, label in cameras["labels"]], rtol=1e-6)


@pytest.mark.parametrize("host", ["stylegan-v", "stylesv"])
def test_the_video_hosts_read_clips_and_their_frames(host, tmp_path):
    source = folder(tmp_path / "in", {f"v{c}/{i}.png": image(i, 32, 18) for c, n in ((1, 6), (2, 4)) for i in range(n)})
    RECIPES["sky-timelapse-256"].run(source, tmp_path / "sky.zip", partial=True, processes=1)
    assert read(host, CLIPS, tmp_path / "sky.zip", 0) == [[6, 4], [3, 3, 256, 256], 10]


def test_stylesvs_own_cut_leaves_clips_that_are_cut_already_as_they_are(tmp_path):
    source = folder(tmp_path / "in", {f"v/{i}.png": image(i, 16, 9) for i in range(270)})
    options = {"clip_frames": 140, "partial": True, "processes": 1}
    RECIPES["youtube-driving-256"].run(source, tmp_path / "ytb.zip", **options)
    assert read("stylesv", CLIPS, tmp_path / "ytb.zip", 512)[0] == [140, 130]
