"""Our stand-ins for libraries that the video hosts import: what they write reads back; real libraries come first."""

import sys

import forked
import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from lab import ROOT

from mtm_hosts import video

ENCODES = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # imageio's pipes to its encoder


def child(code, folder):
    """What a process prints that searches `folder` first for packages."""
    code = f"import sys; sys.path.insert(0, {str(folder)!r})\n" + code
    done = forked.run("-c", code, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def ramp(frames, height, width):
    """Frames of one colour each, which compression hardly changes."""
    values = torch.arange(frames * 3).reshape(frames, 1, 1, 3) * 20 + 30
    return values.expand(frames, height, width, 3).to(torch.uint8)


def read_back(path):
    with imageio.get_reader(path) as reader:
        return np.stack([reader.get_data(i) for i in range(reader.count_frames())])


@ENCODES
@pytest.mark.parametrize("size", [(32, 48), (31, 33)], ids=["even", "odd"])
def test_a_written_video_reads_back(tmp_path, size):
    frames, path = ramp(3, *size), tmp_path / "a.mp4"
    video.write_video(str(path), frames, fps=25, video_codec="h264", options={"crf": "10"})
    read = read_back(path)
    assert read.shape == (3, size[0] + size[0] % 2, size[1] + size[1] % 2, 3)
    assert np.abs(read[:, : size[0], : size[1]].astype(int) - frames.numpy()).max() <= 6


@ENCODES
def test_opencvs_writer_takes_blue_first(tmp_path):
    frames, path = ramp(2, 32, 48).numpy(), tmp_path / "a.mp4"
    writer = video.VideoWriter(str(path), 0, 25, (48, 32))
    for frame in frames:
        writer.write(video.swap_colours(frame, video.RGB2BGR))
    writer.release()
    read = read_back(path).astype(int)
    assert np.abs(read - frames).max() <= 8


def test_without_an_encoder_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ImportError, match="pip install imageio imageio-ffmpeg"):
        video.write_video(tmp_path / "a.mp4", ramp(1, 8, 8), 25)


def test_a_grid_has_its_images_in_rows_with_lines_between():
    images = torch.arange(1.0, 4.0).reshape(3, 1, 1, 1).expand(3, 3, 2, 5)
    grid = video.make_grid(images, nrow=2)
    assert grid.shape == (3, 2 * 4 + 2, 2 * 7 + 2)
    assert [grid[0, 2, 2], grid[0, 3, 13], grid[0, 6, 2], grid[0, 6, 9]] == [1, 2, 3, 0]
    assert grid[:, :2].abs().max() == grid[:, :, 7:9].abs().max() == 0
    assert torch.equal(video.make_grid(list(images), nrow=2), grid)
    assert video.make_grid(images[:1]).shape == (3, 2, 5)


def test_images_go_to_pil_and_back(tmp_path):
    x = torch.randint(0, 256, (3, 5, 4), dtype=torch.uint8)
    assert torch.equal(video.to_tensor(video.to_pil_image(x)) * 255, x.float())
    video.save_image(x.float() / 255, tmp_path / "a.png")
    assert torch.equal(torch.from_numpy(imageio.imread(tmp_path / "a.png")).permute(2, 0, 1), x)


def test_resizing_samples_pixel_centres_and_refuses_other_kernels():
    x = np.arange(12, dtype=np.uint8).reshape(1, 12, 1).repeat(6, 0).repeat(3, 2) * 10
    y = video.resize(x, dsize=(24, 3), interpolation=video.CUBIC)
    assert y.shape == (3, 24, 3)
    centres = (np.arange(24) + 0.5) / 2 - 0.5
    assert np.abs(y[:, 4:-4, 0] - centres[4:-4] * 10).max() <= 1
    with pytest.raises(ValueError, match=r"INTER_CUBIC in the stand-in for OpenCV; got 4\."):
        video.resize(x, (3, 3), interpolation=4)


ASK = "import mtm_hosts.video, torchvision, torchvision.io, torchvision.utils, cv2\n"
ASK += (
    "print(torchvision.io.write_video.__module__, getattr(torchvision.utils, 'make_grid', 0) == 1, hasattr(cv2, 'own'))"
)


def test_libraries_that_are_absent_or_broken_are_stood_in_for(tmp_path):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "import sys, types\nsys.modules['torchvision.utils'] = types.ModuleType('torchvision.utils')\n"
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    (tmp_path / "cv2.py").write_text("raise ImportError('libGL.so.1')")
    assert child(ASK, tmp_path).split() == ["mtm_hosts.video", "False", "False"]


@pytest.mark.parametrize("old", [True, False])
def test_libraries_that_work_keep_what_they_have(tmp_path, old):
    (tmp_path / "torchvision" / "io").mkdir(parents=True)
    (tmp_path / "torchvision" / "__init__.py").write_text("from torchvision import io, utils")
    (tmp_path / "torchvision" / "utils.py").write_text("make_grid = 1")
    (tmp_path / "torchvision" / "io" / "__init__.py").write_text("def write_video(): pass" if old else "")
    (tmp_path / "cv2.py").write_text("own = 1")
    assert child(ASK, tmp_path).split() == ["torchvision.io" if old else "mtm_hosts.video", "True", "True"]


def test_tensorboard_is_skipped_with_a_reason():
    if "tensorboard" in sys.modules:
        pytest.skip("TensorBoard is installed")
    from torch.utils.tensorboard import SummaryWriter

    with pytest.raises(ImportError, match="has the same numbers"):
        SummaryWriter("folder")
