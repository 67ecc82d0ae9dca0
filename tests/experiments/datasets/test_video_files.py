"""Videos are decoded exactly, frame by frame. A damaged video counts as a broken file, never as a shorter video."""

import io
from pathlib import Path

import numpy as np
import pytest
from sources_lab import folder, frames, packed_zip, video

from experiments.datasets.decode import Decoder
from experiments.datasets.listing import list_items

pytest.importorskip("av")


def decode(path: Path, resolution_px: int = 32, crop: str = "center") -> list[np.ndarray]:
    (item,) = list_items(path)
    return list(Decoder(resolution_px, crop)(item))


def test_a_lossless_video_gives_its_frames_in_order_from_a_folder_and_from_a_zip(tmp_path):
    given = frames(12)
    data = video(given)
    for path in (folder(tmp_path / "in", {"a.mp4": data}), packed_zip(tmp_path / "in.zip", {"a.mp4": data})):
        np.testing.assert_array_equal(decode(path), given)


def test_a_lossy_video_in_yuv_gives_as_many_frames_of_about_the_same_colours(tmp_path):
    given = frames(9)
    found = decode(folder(tmp_path / "in", {"a.mp4": video(given, "libx264", crf="10")}))
    assert len(found) == 9
    assert np.abs(np.asarray(found).astype(int) - given).mean() < 6


def test_a_frame_that_is_not_square_is_cropped_to_its_middle_or_squashed(tmp_path):
    wide = np.zeros((32, 64, 3), np.uint8)
    wide[:, 16:48] = 255
    path = folder(tmp_path / "in", {"a.mp4": video([wide, wide])})
    assert (np.asarray(decode(path)) == 255).all()
    squashed = decode(path, crop="squash")[0]
    assert squashed.shape == (32, 32, 3)
    assert (squashed[:, 12:20].min(), squashed[:, :4].max()) == (255, 0)


@pytest.mark.parametrize("faststart", [False, True])
def test_a_video_that_is_cut_short_anywhere_is_broken(tmp_path, faststart):
    data = video(frames(20, width=64, height=64), faststart=faststart)
    for length in (0, 20, 400, 1500, len(data) // 2, len(data) - 100):
        path = folder(tmp_path / str(length), {"a.mp4": data[:length]})
        with pytest.raises(ValueError, match=r"not a video|ends after|corrupt|no video|empty"):
            decode(path)


@pytest.mark.parametrize("place", [0.2, 0.5, 0.8])
def test_a_block_of_a_video_that_was_lost_is_seen(tmp_path, place):
    """H.264 has no checksums, so a flipped bit may pass. A missing block of a disk or of a download must not."""
    data = bytearray(video(frames(40, width=128, height=128), "libx264", crf="10"))
    begin = data.index(b"mdat") + int((len(data) - data.index(b"mdat")) * place)
    data[begin : begin + 4096] = bytes(4096)
    with pytest.raises(ValueError, match=r"not a video|ends after|corrupt"):
        decode(folder(tmp_path / "in", {"a.mp4": bytes(data)}))


def test_a_file_that_is_no_video_and_one_of_sound_alone_are_broken(tmp_path):
    with pytest.raises(ValueError, match="not a video that can be read"):
        decode(folder(tmp_path / "in", {"a.mp4": b"text" * 100}))
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 16000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(ValueError, match="no video in it"):
        decode(folder(tmp_path / "sound", {"a.mp4": buffer.getvalue()}))
