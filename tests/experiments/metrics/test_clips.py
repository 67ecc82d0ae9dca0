"""Clips of videos: which frames are taken, of what files, and what is dropped."""

import zipfile

import numpy as np
import pytest
from metrics_lab import make_clips

from experiments.files import UserError
from experiments.metrics.clips import Clips


def read(clips: Clips, size: int = 2) -> list:
    return [clip for batch in clips.batches(size) for clip in batch]


def place(frame) -> int:
    """Where the white column of a frame is: its number, in clip 0."""
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
    with pytest.raises(UserError, match="at least 2 videos of 9 frames or more; got 0 such, and 6 shorter ones"):
        read(Clips(tmp_path / "v", "real", 9, 2))


def test_a_zip_in_the_video_hosts_format_gives_the_same_as_its_folder(tmp_path):
    folder = make_clips(tmp_path / "clips", [6, 7, 5])
    with zipfile.ZipFile(tmp_path / "clips.zip", "w") as archive:
        for file in sorted(folder.rglob("*.png")):
            archive.write(file, f"clips/{file.relative_to(folder)}")
    one, other = (Clips(path, "real", 5, 9) for path in (folder, tmp_path / "clips.zip"))
    assert [clip.tolist() for clip in read(one)] == [clip.tolist() for clip in read(other)]
    assert one.facts() == other.facts()


def write_video(path, frames: list[np.ndarray]) -> None:
    import imageio_ffmpeg

    height, width = frames[0].shape[:2]
    writer = imageio_ffmpeg.write_frames(str(path), (width, height), fps=8, quality=9, macro_block_size=1)
    writer.send(None)
    for frame in frames:
        writer.send(np.ascontiguousarray(frame))
    writer.close()


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # imageio-ffmpeg leaves its pipes to the garbage collector
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
