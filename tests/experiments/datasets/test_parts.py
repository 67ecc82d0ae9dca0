"""Data sets made on several cores or in several runs are the same to the bit, and nothing is decoded twice."""

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from sources_lab import encoded, folder, frames, image, video

from experiments.datasets import RECIPES, parts, published
from experiments.datasets.decode import Decoder
from experiments.datasets.listing import list_items
from experiments.datasets.parts import Shard, make_parts
from experiments.files import UserError

SHARD_NIMG = 4
SHARD_BYTES = SHARD_NIMG * 3 * 128**2


def images(path: Path, width: int, height: int) -> Path:
    names = [f"n0{1 + i % 3:07d}/{i:04d}.JPEG" for i in range(60)]
    return folder(path, {name: image(i, width, height, "jpeg") for i, name in enumerate(names)})


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return images(tmp_path / "in", 300, 200)


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "SHARD_BYTES", SHARD_BYTES)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the items decoded in this process, in order."""
    names: list[str] = []
    decode = Decoder.__call__

    def counted(self: Decoder, item):
        names.append(item.name)
        return decode(self, item)

    monkeypatch.setattr(Decoder, "__call__", counted)
    return names


def build(source: Path, dest: Path, processes: int = 1, **options: object) -> bytes:
    RECIPES["imagenet-128"].run(source, dest, partial=True, processes=processes, **options)
    assert not work_of(dest).exists()
    return dest.read_bytes()


def work_of(dest: Path) -> Path:
    return dest.with_name(f".{dest.name}.parts")


def test_one_process_and_three_give_the_same_bytes(source, tmp_path):
    assert build(source, tmp_path / "a.zip") == build(source, tmp_path / "b.zip", processes=3)


def test_only_shards_whose_files_changed_are_decoded_again(source, tmp_path, decoded):
    dest, broken = tmp_path / "out.zip", source / "n00000001/0003.JPEG"
    good = broken.read_bytes()
    broken.write_bytes(good[:100])
    with pytest.raises(UserError, match=r"1 of 60 are broken:\n  n00000001/0003\.JPEG: "):
        build(source, dest)
    assert len(decoded) == 60
    decoded.clear()
    broken.write_bytes(good)
    repaired = build(source, dest)
    assert len(decoded) == SHARD_NIMG
    decoded.clear()
    assert build(source, tmp_path / "fresh.zip") == repaired


def test_broken_files_can_be_skipped_without_decoding_the_rest_again(source, tmp_path, decoded):
    (source / "n00000001/0003.JPEG").write_bytes(b"junk")
    with pytest.raises(UserError):
        build(source, tmp_path / "out.zip")
    decoded.clear()
    build(source, tmp_path / "out.zip", skip_broken=True)
    assert len(decoded) == SHARD_NIMG


def test_parts_of_other_settings_are_not_taken(source, tmp_path, decoded):
    (shard,) = [Shard("all", tuple(list_items(source)))]
    (tmp_path / "work").mkdir()
    made = []
    for stamp in ("a", "a", "b"):
        decoded.clear()
        (part,) = make_parts([shard], Decoder(8, "center"), stamp, tmp_path / "work", 1, "", "")
        made.append((len(decoded), part.nframes))
    assert made == [(60, 60), (0, 60), (60, 60)]


def test_a_torn_or_damaged_part_is_made_again(source, tmp_path, decoded, monkeypatch):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    dest, work = tmp_path / "out.zip", work_of(tmp_path / "out.zip")
    with monkeypatch.context() as patch:
        patch.setattr(published, "write_encoded", stop)
        with pytest.raises(KeyboardInterrupt):
            build(source, dest)
    (work / "000001.json").write_text("{")
    (work / "000002.frames").write_bytes((work / "000002.frames").read_bytes()[:-1])
    damaged = bytearray((work / "000003.frames").read_bytes())
    damaged[1000] ^= 1
    (work / "000003.frames").write_bytes(damaged)
    decoded.clear()
    with pytest.raises(UserError, match=r"000003\.frames: damaged since it was made\. Run the same command again"):
        build(source, dest)
    assert len(decoded) == 2 * SHARD_NIMG
    decoded.clear()
    resumed = build(source, dest)
    assert len(decoded) == SHARD_NIMG
    assert resumed == build(source, tmp_path / "fresh.zip")


def test_two_builds_of_one_data_set_do_not_work_at_once(source, tmp_path):
    dest = tmp_path / "out.zip"
    with parts.work_folder(work_of(dest)), pytest.raises(UserError, match="another process is making this data set"):
        build(source, dest)


def dies(item):
    """A decoder that kills its process, as a video that crashes a library would."""
    if item.name.endswith("0007.JPEG"):
        os._exit(139)
    yield from Decoder(8, "center")(item)


def test_a_process_that_dies_is_an_error_that_names_what_was_read(source, tmp_path):
    items = list_items(source)
    shards = [Shard(item.name, (item,)) for item in items]
    with pytest.raises(UserError, match=r"(?s)died: .*0007\.JPEG.*--processes 1"):
        make_parts(shards, dies, "", tmp_path, 2, "", "")


def test_a_full_disk_keeps_what_is_decoded(source, tmp_path, monkeypatch, decoded):
    replace, count = os.replace, []

    def full(old: Path, new: Path) -> None:
        count.append(new)
        if len(count) > 5:
            raise OSError(28, "No space left on device")
        replace(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(parts.os, "replace", full)
        with pytest.raises(UserError, match=r"disk is full .* run the same command again"):
            build(source, tmp_path / "out.zip")
    decoded.clear()
    build(source, tmp_path / "out.zip")
    assert len(decoded) == 60 - 2 * SHARD_NIMG


def test_clips_of_videos_and_of_frames_are_the_same_on_two_cores(tmp_path):
    files = {f"v{i}.mp4": video(frames(7 + i, i)) for i in range(3)}
    files |= {f"f/{i}.png": encoded(frame) for i, frame in enumerate(frames(9, 5))}
    made = set()
    for processes in (1, 2):
        dest = tmp_path / f"{processes}.zip"
        options = {"clip_frames": 4, "min_frames": 2, "partial": True, "processes": processes}
        info = RECIPES["youtube-driving-256"].run(folder(tmp_path / "in", files), dest, **options)
        made.add(dest.read_bytes())
        assert info.clips == 2 + 2 + 2 + 2  # of 9, 7, 8 and 9 frames; a single leftover frame is dropped
    assert len(made) == 1


def test_a_long_video_is_never_in_memory_as_a_whole(tmp_path, monkeypatch):
    count, frame = 300, np.zeros((256, 256, 3), np.uint8)

    def long(self: Decoder, item):
        yield from (frame + np.uint8(i % 256) for i in range(count))

    monkeypatch.setattr(Decoder, "__call__", long)
    source = folder(tmp_path / "in", {"a.mp4": b""})
    tracemalloc.start()
    try:
        info = RECIPES["taichi-256-videos"].run(source, tmp_path / "out.zip", partial=True, processes=1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert info.nimg == count
    assert peak < 20 * frame.nbytes < count * frame.nbytes
