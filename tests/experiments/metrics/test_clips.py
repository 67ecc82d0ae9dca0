"""Clips of videos: which frames are used, from which files, and which videos are dropped."""

import os
import subprocess
import zipfile
from fractions import Fraction

import av
import numpy as np
import pytest
from metrics_lab import make_clips

from experiments.files import UserError
from experiments.metrics.clips import Clips


def read(clips: Clips, size: int = 2) -> list:
    return [clip for batch in clips.batches(size) for clip in batch]


def place(frame) -> int:
    """The column of the white bar in a frame, which is the frame's number in clip 0."""
    return int((frame.float().mean(dim=(0, 1)) == 255).nonzero()[0])


def test_generated_clips_begin_at_the_first_frame_and_frames_are_in_order_of_their_numbers(tmp_path):
    clips = Clips(make_clips(tmp_path / "v", [12, 12]), "generated", 11, 99, first=True)
    clip = read(clips)[0]
    assert clip.shape == (3, 11, 20, 20)
    assert [place(clip[:, t]) for t in range(11)] == list(range(11))  # frame10 comes after frame9
    assert clips.facts() == {"generated_px": "20", "generated_too_short": 0}


def test_real_clips_begin_anywhere_by_the_seed_and_are_consecutive(tmp_path):
    folder = make_clips(tmp_path / "v", [18, 18, 18, 18])
    starts = {}
    for seed in range(6):
        found = read(Clips(folder, "real", 4, 99, seed))
        assert all(np.diff([place(clip[:, t]) for t in range(4)]).tolist() == [1, 1, 1] for clip in found[:1])
        starts[seed] = [place(clip[:, 0]) for clip in found]
        assert starts[seed] == [place(clip[:, 0]) for clip in read(Clips(folder, "real", 4, 99, seed), size=3)]
    assert len({tuple(s) for s in starts.values()}) > 3
    assert min(min(s) for s in starts.values()) < 4 < max(max(s) for s in starts.values())


def test_videos_that_are_too_short_are_dropped_and_counted(tmp_path):
    clips = Clips(make_clips(tmp_path / "v", [3, 8, 2, 8, 8, 1]), "real", 4, 2)
    assert len(read(clips)) == 2  # the first two that are long enough
    assert clips.facts()["real_too_short"] == 2
    with pytest.raises(UserError, match="at least 2 videos of 9 frames or more; got 0, and 6 shorter ones"):
        read(Clips(tmp_path / "v", "real", 9, 2))


def test_a_zip_in_the_video_hosts_format_gives_the_same_as_its_folder(tmp_path):
    folder = make_clips(tmp_path / "clips", [6, 7, 5])
    with zipfile.ZipFile(tmp_path / "clips.zip", "w") as archive:
        for file in sorted(folder.rglob("*.png")):
            archive.write(file, f"clips/{file.relative_to(folder)}")
    one, other = (Clips(path, "real", 5, 9) for path in (folder, tmp_path / "clips.zip"))
    assert [clip.tolist() for clip in read(one)] == [clip.tolist() for clip in read(other)]
    assert one.facts() == other.facts()


def write_video(path, frames: list[np.ndarray], times: list[int] | None = None) -> None:
    """Write a video. times: one per frame, in units of 1/80 s."""
    height, width = frames[0].shape[:2]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8, options={"crf": "4"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 80)
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = times[index] if times else 10 * index, Fraction(1, 80)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_video_files_are_read_also_from_a_zip(tmp_path):
    (tmp_path / "v").mkdir()
    for name in ("a", "b", "short"):
        count = 3 if name == "short" else 12
        write_video(tmp_path / f"v/{name}.mp4", [np.full((32, 48, 3), 20 * i, np.uint8) for i in range(count)])
    clips = Clips(tmp_path / "v", "generated", 5, 9, first=True)
    found = read(clips)
    assert [tuple(clip.shape) for clip in found] == [(3, 5, 32, 48)] * 2
    assert clips.facts() == {"generated_px": "48 x 32", "generated_too_short": 1}
    means = found[0].float().mean(dim=(0, 2, 3))
    assert means.tolist() == pytest.approx([0, 20, 40, 60, 80], abs=3)
    later = read(Clips(tmp_path / "v", "real", 5, 9, seed=3))[0].float().mean(dim=(0, 2, 3))
    assert later.diff().tolist() == pytest.approx([20] * 4, abs=3)
    with zipfile.ZipFile(tmp_path / "v.zip", "w") as archive:
        for file in sorted((tmp_path / "v").iterdir()):
            archive.write(file, file.name)
    zipped = read(Clips(tmp_path / "v.zip", "generated", 5, 9, first=True))
    assert [clip.tolist() for clip in zipped] == [clip.tolist() for clip in found]


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_frames_of_a_video_are_those_of_the_file_whatever_their_times(tmp_path, suffix):
    """A decoder that enforces a frame rate would repeat frames that last longer, and drop others."""
    (tmp_path / "v").mkdir()
    times = list(np.cumsum([(1, 3, 29)[i % 3] for i in range(12)]))
    for name in ("a", "b"):
        frames = [np.full((32, 48, 3), 20 * i, np.uint8) for i in range(12)]
        write_video(tmp_path / f"v/{name}.{suffix}", frames, times)
    found = read(Clips(tmp_path / "v", "generated", 12, 9, first=True))
    assert found[0].float().mean(dim=(0, 2, 3)).tolist() == pytest.approx([20 * i for i in range(12)], abs=3)


def test_a_video_that_says_it_is_to_be_turned_is_turned(tmp_path):
    import imageio_ffmpeg

    (tmp_path / "v").mkdir()
    pixels = np.zeros((32, 64, 3), np.uint8)
    pixels[:8, :16] = 255
    for name in ("a", "b"):
        write_video(tmp_path / f"{name}.mp4", [pixels] * 3)
        turn = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-display_rotation", "90"]
        turn += ["-i", str(tmp_path / f"{name}.mp4"), "-c", "copy", str(tmp_path / f"v/{name}.mp4")]
        subprocess.run(turn, check=True, stdin=subprocess.DEVNULL)
    clip = read(Clips(tmp_path / "v", "generated", 3, 9, first=True))[0].float()
    assert tuple(clip.shape) == (3, 3, 64, 32)
    assert clip[:, :, -16:, :8].mean() > 240
    assert clip[:, :, :48].mean() < 5


def test_a_damaged_video_is_named_and_not_painted_over(tmp_path):
    (tmp_path / "v").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (12, 64, 64, 3), dtype=np.uint8)
    for name in ("a", "b"):
        write_video(tmp_path / f"v/{name}.mp4", list(noise))
    data = bytearray((tmp_path / "v/b.mp4").read_bytes())
    data[len(data) // 3 : len(data) // 3 + 4096] = bytes(4096)
    (tmp_path / "v/b.mp4").write_bytes(data)
    with pytest.raises(UserError, match=r"every video must be readable; got .*v/b\.mp4"):
        read(Clips(tmp_path / "v", "generated", 12, 9, first=True))
    (tmp_path / "v/b.mp4").unlink()
    os.mkfifo(tmp_path / "v/b.mp4")
    with pytest.raises(UserError, match=r"every video must be readable; got .*v/b\.mp4: not a regular file"):
        read(Clips(tmp_path / "v", "generated", 12, 9, first=True))


def test_links_to_folders_are_followed_and_a_loop_ends(tmp_path):
    folder = make_clips(tmp_path / "elsewhere", [5, 5, 5])
    (tmp_path / "v").mkdir()
    for name in ("000", "001", "002"):
        (tmp_path / "v" / name).symlink_to(folder / name, target_is_directory=True)
    (tmp_path / "v/loop").symlink_to(tmp_path / "v", target_is_directory=True)
    linked, own = Clips(tmp_path / "v", "real", 5, 9), Clips(folder, "real", 5, 9)
    assert [clip.tolist() for clip in read(linked)] == [clip.tolist() for clip in read(own)]


def test_a_broken_frame_and_a_folder_without_videos_are_named(tmp_path):
    folder = make_clips(tmp_path / "v", [5, 5])
    (folder / "001/frame2.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"every video must be readable; got .*v/001: not an image"):
        read(Clips(folder, "real", 5, 9))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"must hold videos, as folders of frames or files \.mp4"):
        Clips(tmp_path / "empty", "real", 5, 9)
    (tmp_path / "one.mp4").write_bytes(b"")
    with pytest.raises(UserError, match="is one video; expected a folder or zip of them"):
        Clips(tmp_path / "one.mp4", "real", 5, 9)


def test_digits_that_are_no_numbers_are_characters(tmp_path):
    folder = make_clips(tmp_path / "v", [5, 5])
    (folder / "000/frame3.png").rename(folder / "000/frame3²0.png")
    assert len(read(Clips(folder, "generated", 5, 9, first=True))) == 2
