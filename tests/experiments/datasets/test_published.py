"""The recipes for the paper's data sets, on small sources of every format: host formats, counts, broken files."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from sources_lab import (
    Files,
    encoded,
    folder,
    frames,
    image,
    labels,
    lmdb_folder,
    marked,
    members,
    packed_tar,
    packed_zip,
    pixels,
    tar_bytes,
    video,
)

from experiments.datasets import RECIPES, openmoji_views, published
from experiments.datasets.recipe import read_manifest
from experiments.datasets.zips import CLIPS, DatasetInfo, describe
from experiments.files import UserError
from tools.data import main

IMAGENET = {
    name: image(i, kind="jpeg")
    for i, name in enumerate(
        ["n01440764/n01440764_10026.JPEG", "n01440764/n01440764_18.JPEG", "n15075141/n15075141_3.JPEG"]
    )
}


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    return tmp_path / "made" / "out.zip"


def build(name: str, source: Path, dest: Path, **options: object) -> DatasetInfo:
    return RECIPES[name].run(source, dest, **({"partial": True, "processes": 1} | options))


def refused(name: str, source: Path, dest: Path, **options: object) -> str:
    with pytest.raises(UserError) as caught:
        build(name, source, dest, **options)
    assert not dest.exists()
    return str(caught.value)


def tars_of_classes(files: Files) -> Files:
    classes = sorted({name.split("/")[0] for name in files})
    inner = {c: {n.split("/")[1]: d for n, d in files.items() if n.startswith(c)} for c in classes}
    return {f"{c}.tar": tar_bytes(inner[c]) for c in classes}


def test_imagenet_is_the_same_from_a_tar_of_tars_from_folders_and_from_a_zip(tmp_path, dest):
    sources = [
        packed_tar(tmp_path / "ILSVRC2012_img_train.tar", tars_of_classes(IMAGENET)),
        folder(tmp_path / "tars", tars_of_classes(IMAGENET)),
        folder(tmp_path / "kaggle", {f"ILSVRC/Data/CLS-LOC/train/{name}": data for name, data in IMAGENET.items()}),
        packed_zip(tmp_path / "in.zip", {f"train/{name}": data for name, data in IMAGENET.items()}),
    ]
    made = []
    for source in sources:
        info = build("imagenet-128", source, dest)
        made.append(dest.read_bytes())
        assert (info.nimg, info.resolution_px) == (3, 128)
    assert len(set(made)) == 1
    assert labels(dest) == [[f"00000/img{i:08d}.png", label] for i, label in enumerate([0, 0, 1])]
    assert members(dest)[:4] == [*(f"00000/img{i:08d}.png" for i in range(3)), "dataset.json"]
    manifest = read_manifest(dest)
    assert manifest["notes"]["classes"] == ["n01440764", "n15075141"]
    assert (manifest["expected"], manifest["notes"]["found"]) == (
        {"images": 1281167, "classes": 1000},
        {"images": 3, "classes": 2},
    )
    assert manifest["options"] == {"skip_broken": False, "partial": True}
    assert describe(dest).content_sha256 == manifest["content_sha256"] == info.content_sha256


def test_every_mode_of_jpeg_becomes_rgb_and_the_orientation_is_not_looked_at(tmp_path, dest):
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by 180 degrees
    half = np.zeros((128, 128, 3), np.uint8)
    half[:, :64] = 255
    files = {
        "n01440764/a.JPEG": encoded(half, "jpeg", exif=exif, quality=95),
        "n01440764/b.JPEG": encoded(np.full((9, 9), 100, np.uint8), "jpeg"),
        "n01440764/c.JPEG": encoded(np.zeros((9, 9, 4), np.uint8), "png"),  # one of ImageNet's is a PNG, too
        "n01440764/notes.txt": b"",
    }
    assert build("imagenet-128", folder(tmp_path / "in", files), dest).nimg == 3
    assert pixels(dest, "00000/img00000000.png")[64, 4].min() > 240
    assert (pixels(dest, "00000/img00000001.png")[64, 64] == 100).all()


def test_the_middle_square_is_cut_out_to_the_pixel(tmp_path, dest):
    for size, first in (((301, 256), (22, 0)), ((256, 299), (0, 21)), ((256, 256), (0, 0))):
        source = folder(tmp_path / f"{size}", {"a.png": encoded(marked(*size))})
        build("lsun-church-256", source, dest)
        shown = pixels(dest, "00000/img00000000.png")
        np.testing.assert_array_equal(shown, marked(*size)[first[1] :, first[0] :][:256, :256])


def test_lsun_is_cropped_as_stylegan_does_and_resized_with_lanczos(tmp_path, dest):
    given = marked(513, 300)
    build("lsun-church-256", folder(tmp_path / "in", {"a.png": encoded(given)}), dest)
    left = (513 - 300) // 2
    expected = Image.fromarray(given[:, left : left + 300]).resize((256, 256), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(pixels(dest, "00000/img00000000.png"), np.asarray(expected))


@pytest.mark.parametrize("name", ["lsun-church-256", "lsun-cat-256"])
def test_lsun_is_the_same_from_its_lmdb_and_from_exported_images(name, tmp_path, dest):
    values = {f"{i:x}{'0' * 39}": image(i, kind="webp") for i in (3, 1, 12)}
    build(name, lmdb_folder(tmp_path / "cat", values), dest)
    from_lmdb = dest.read_bytes()
    exported = {f"{'/'.join(key[:6])}/{key}.webp": data for key, data in values.items()}
    build(name, folder(tmp_path / "exported", exported), dest)
    assert dest.read_bytes() == from_lmdb
    build(name, packed_zip(tmp_path / "in.zip", exported), dest)
    assert dest.read_bytes() == from_lmdb
    assert labels(dest) is None


def test_lsun_in_an_archive_must_be_unpacked_and_max_images_takes_the_first(tmp_path, dest):
    source = lmdb_folder(tmp_path / "cat", {f"{i:040x}": image(i, kind="webp") for i in range(5)})
    data = {f"cat/{path.name}": path.read_bytes() for path in source.iterdir()}
    assert "must not be inside an archive; got 'cat/data.mdb'" in refused(
        "lsun-cat-256", packed_zip(tmp_path / "cat.zip", data), dest
    )
    assert build("lsun-cat-256", source, dest, max_images=2).nimg == 2
    assert read_manifest(dest)["options"]["max_images"] == 2


def test_an_empty_record_of_an_lmdb_is_named_and_skipped_as_asked(tmp_path, dest, capsys):
    source = lmdb_folder(tmp_path / "cat", {"a1": image(1), "b2": b"", "c3": image(3), "d4": b"text"})
    message = refused("lsun-cat-256", source, dest)
    assert "2 of 4 are broken:\n  b2: the file is empty\n  d4: not an image" in message
    assert "--skip-broken" in message
    info = build("lsun-cat-256", source, dest, skip_broken=True)
    assert (info.nimg, info.skipped) == (2, 2)
    assert "Skipped 2 broken files:\n  b2: the file is empty" in capsys.readouterr().err
    manifest = read_manifest(dest)
    assert (manifest["skipped"], [name for name, _ in manifest["notes"]["broken"]]) == (2, ["b2", "d4"])


def camera_labels(names: list[str]) -> dict:
    cameras = [openmoji_views.camera(0.1 * i, -0.1) for i in range(len(names))]
    intrinsics = openmoji_views.INTRINSICS.ravel().tolist()
    return {"labels": [[name, [*c.ravel().tolist(), *intrinsics]] for name, c in zip(names, cameras, strict=True)]}


def test_ffhq_keeps_eg3ds_cameras_with_their_images_from_its_zip_and_its_folder(tmp_path, dest):
    names = ["img00000000.png", "img00000000_mirror.png", "img00000001.png"]
    given = {name: image(i, 512, 512) for i, name in enumerate(names)}
    cameras = camera_labels(names)
    shuffled = {"labels": cameras["labels"][::-1]}  # the order has no meaning
    build("ffhq-256", folder(tmp_path / "final_crops", given | {"dataset.json": json.dumps(shuffled).encode()}), dest)
    from_folder = labels(dest), [pixels(dest, f"00000/img{i:08d}.png") for i in range(3)]
    assert [label for _, label in from_folder[0]] == [label for _, label in cameras["labels"]]
    renamed = {f"00000/img{i:08d}.png": given[name] for i, name in enumerate(names)}
    zipped = camera_labels(list(renamed))
    build("ffhq-256", packed_zip(tmp_path / "in.zip", renamed | {"dataset.json": json.dumps(zipped).encode()}), dest)
    assert labels(dest) == from_folder[0]
    np.testing.assert_array_equal([pixels(dest, f"00000/img{i:08d}.png") for i in range(3)], from_folder[1])
    whole = Image.open(__import__("io").BytesIO(given[names[2]]))
    expected = whole.resize((256, 256), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(from_folder[1][2], np.asarray(expected))
    assert read_manifest(dest)["notes"]["labels_as_published"] is False


def test_ffhq_without_cameras_or_with_wrong_ones_is_refused_by_name(tmp_path, dest):
    names = ["a.png", "b.png"]
    given = {name: image(0, 16, 16) for name in names}
    assert "must hold dataset.json with the cameras" in refused("ffhq-256", folder(tmp_path / "0", given), dest)
    bad = camera_labels(names)
    bad["labels"][1][1][0] = 7.0
    cases = [
        (camera_labels(names[:1]), "got 1 of 2 without one"),
        (bad, "for 'b.png'"),
        ({"labels": [["a.png", 3], ["b.png", 4]]}, "must be 25 numbers"),
        ({"labels": None}, "must be EG3D's"),
        ([], "must be EG3D's"),
    ]
    for i, (content, message) in enumerate(cases, 1):
        source = folder(tmp_path / f"{i}", given | {"dataset.json": json.dumps(content).encode()})
        assert message in refused("ffhq-256", source, dest)
    wide = folder(
        tmp_path / "wide", {"a.png": image(0, 20, 16), "dataset.json": json.dumps(camera_labels(["a.png"])).encode()}
    )
    assert "a.png: 20 x 16 px, which is not square" in refused("ffhq-256", wide, dest)


def taichi_source(path: Path) -> Path:
    """The source as load_videos.py --format .png leaves it: folders named like videos, in train and test."""
    files = {}
    for number, (split, video_id, count) in enumerate((("train", "b", 4), ("train", "a", 3), ("test", "c", 2))):
        clip = f"{split}/{video_id}#000010#000020.mp4"
        files |= {f"{clip}/{i:07d}.png": encoded(f) for i, f in enumerate(frames(count, number, 256, 256))}
    return folder(path, files)


def test_taichi_frames_are_images_in_the_order_of_clips_and_frames_of_the_training_split(tmp_path, dest):
    info = build("taichi-256", taichi_source(tmp_path / "taichi-png"), dest)
    assert (info.nimg, info.clips) == (7, 0)
    expected = [*frames(3, 1, 256, 256), *frames(4, 0, 256, 256)]
    for i, frame in enumerate(expected):
        np.testing.assert_array_equal(pixels(dest, f"00000/img{i:08d}.png"), frame)
    assert read_manifest(dest)["notes"]["found"] == {"clips": 2}


def test_taichi_videos_are_clips_from_folders_of_frames_and_from_videos(tmp_path, dest):
    info = build("taichi-256-videos", taichi_source(tmp_path / "taichi-png"), dest)
    assert (info.clips, info.nimg) == (2, 7)
    names = members(dest)
    assert names[:5] == ["clips/", "clips/00000/", *(f"clips/00000/{i:06d}.png" for i in range(3))]
    assert names == sorted(names)  # the hosts read folders and frames in this order
    np.testing.assert_array_equal(pixels(dest, "clips/00001/000003.png"), frames(4, 0, 256, 256)[3])
    content = info.content_sha256
    videos = {f"train/{v}.mp4": video(frames(n, s, 256, 256)) for v, n, s in (("b", 4, 0), ("a", 3, 1))}
    again = build("taichi-256-videos", packed_tar(tmp_path / "in.tar", videos), dest)
    assert again.content_sha256 == content == describe(dest).content_sha256


def test_sky_timelapse_takes_the_short_videos_of_the_training_split(tmp_path, dest):
    files = {}
    for clip, count in (("vid/vid_2", 5), ("vid/vid_10", 3), ("vid/vid_1", 2), ("other/other_1", 4)):
        for i, frame in enumerate(frames(count, len(clip), 64, 36)):
            files[f"sky_timelapse/sky_train/{clip}/{clip.split('/')[1]}_frames_{i:08d}.jpg"] = encoded(frame, "jpeg")
    files["sky_timelapse/sky_test/x/x_1/x_1_frames_00000000.jpg"] = image(0, 64, 36, "jpeg")
    files["sky_timelapse/readme"] = b""
    info = build("sky-timelapse-256", packed_zip(tmp_path / "sky_timelapse.zip", files), dest)
    assert (info.clips, info.nimg) == (3, 12)  # other_1, vid_2, vid_10; vid_1 is too short
    notes = read_manifest(dest)["notes"]
    assert (notes["found"], notes["short_clips_left_out"]) == ({"clips": 4}, 1)
    counts = [sum(name.startswith(f"clips/{i:05d}/0") for name in members(dest)) for i in range(3)]
    assert counts == [4, 5, 3]
    assert build("sky-timelapse-256", tmp_path / "sky_timelapse.zip", dest, min_frames=1).clips == 4


def test_a_clip_with_a_broken_frame_is_left_out_whole(tmp_path, dest):
    files = {f"{clip}/{i}.png": image(i, 16, 16) for clip in "abc" for i in range(4)}
    files["b/2.png"] = files["b/2.png"][:60]
    source = folder(tmp_path / "in", files)
    assert "1 of 12 are broken:\n  b/2.png: " in refused("sky-timelapse-256", source, dest)
    info = build("sky-timelapse-256", source, dest, skip_broken=True)
    assert (info.clips, info.nimg, info.skipped) == (2, 8, 1)
    assert read_manifest(dest)["notes"]["broken_clips_left_out"] == 1


def test_youtube_driving_is_cut_into_clips_the_same_from_frames_and_from_videos(tmp_path, dest):
    given = {"drive": frames(11, 1, 64, 36), "city": frames(5, 2, 64, 36)}
    as_frames = {f"newytb/{v}/{i + 95}.png": encoded(f) for v, fs in given.items() for i, f in enumerate(fs)}
    options = {"clip_frames": 4, "min_frames": 2}
    info = build("youtube-driving-256", packed_zip(tmp_path / "frames.zip", as_frames), dest, **options)
    assert (info.clips, info.nimg) == (1 + 3, 4 + 4 + 4 + 3)  # a single leftover frame of "city" is dropped
    notes = read_manifest(dest)["notes"]
    assert (notes["found"], notes["short_clips_left_out"]) == ({"videos": 2}, 1)
    squashed = Image.fromarray(given["drive"][10]).resize((256, 256), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(pixels(dest, "clips/00003/000002.png"), np.asarray(squashed))
    as_videos = {f"{v}.mp4": video(fs) for v, fs in given.items()}
    again = build("youtube-driving-256", folder(tmp_path / "in", as_videos), dest, **options)
    assert again.content_sha256 == info.content_sha256 == describe(dest).content_sha256


def test_frames_that_are_not_square_are_squashed_or_cropped_as_asked(tmp_path, dest):
    source = folder(tmp_path / "in", {f"a/{i}.png": encoded(marked(64, 36)) for i in range(3)})
    shown = {}
    for crop in ("center", "squash"):
        build("sky-timelapse-256", source, dest, crop=crop)
        shown[crop] = pixels(dest, "clips/00000/000000.png")[:, :, 0]
    assert (shown["center"].min(), shown["center"].max()) == (14, 49)
    assert (shown["squash"].min(), shown["squash"].max()) == (0, 63)


@pytest.mark.parametrize(
    ("name", "files", "found"),
    [
        ("imagenet-128", IMAGENET, "must hold 1281167 images; got 3"),
        ("lsun-church-256", {"a.png": b""}, "must hold 126227 images; got 1"),
        ("lsun-cat-256", {"a.png": b""}, "must hold 1657266 images; got 1"),
        ("ffhq-256", {"a.png": b""}, "must hold 139914 images; got 1"),
        ("taichi-256", {"train/a/0.png": b""}, "must hold 3049 clips; got 1"),
        ("taichi-256-videos", {"train/a.mp4": b"", "train/b.mp4": b""}, "must hold 3049 clips; got 2"),
        ("sky-timelapse-256", {"sky_train/a/a_1/0.jpg": b""}, "must hold 2392 clips; got 1"),
        ("youtube-driving-256", {"a/0.jpg": b"", "a/1.jpg": b""}, "must hold 134 videos; got 1"),
    ],
)
def test_wrong_counts_are_refused_before_anything_is_decoded(name, files, found, tmp_path, dest):
    source = folder(tmp_path / "in", files)
    message = refused(name, source, dest, partial=False)
    assert found in message
    assert "accept fewer: --partial" in message
    assert RECIPES[name].obtain in message
    assert not list(dest.parent.iterdir())
    for wrong in (folder(tmp_path / "empty", {"notes.txt": b""}), tmp_path / "absent"):
        message = refused(name, wrong, dest)
        assert "got 0" in message or "must exist" in message


def test_a_data_set_is_not_made_inside_its_source(tmp_path):
    source = folder(tmp_path / "in", {"a.png": image(0)})
    for dest in (source / "out.zip", source / "deep" / "out.zip", tmp_path / "in" / ".." / "in" / "out.zip"):
        assert "DEST must not be inside SOURCE" in refused("lsun-church-256", source, dest)
    assert [path.name for path in source.iterdir()] == ["a.png"]


def test_more_than_expected_is_refused_even_with_partial(tmp_path, dest, monkeypatch):
    monkeypatch.setitem(RECIPES["sky-timelapse-256"].expected, "clips", 1)
    source = folder(tmp_path / "in", {"sky_train/a/0.png": image(0), "sky_train/b/0.png": image(1)})
    message = refused("sky-timelapse-256", source, dest)
    assert "must hold 1 clips; got 2" in message
    assert "Point SOURCE at the training set alone." in message


def test_a_right_count_needs_no_partial(tmp_path, dest, monkeypatch):
    monkeypatch.setitem(RECIPES["taichi-256-videos"].expected, "clips", 2)
    assert build("taichi-256-videos", taichi_source(tmp_path / "in"), dest, partial=False).clips == 2


def test_a_disk_that_is_too_small_is_refused_first(tmp_path, dest, monkeypatch):
    monkeypatch.setattr(published, "free_bytes", lambda path: 100_000)
    message = refused("lsun-church-256", folder(tmp_path / "in", {"a.png": image(0)}), dest)
    assert "GB free, for 1 frames twice" in message


def test_the_command_line_names_what_is_wrong_and_says_what_was_made(tmp_path, dest):
    source = folder(tmp_path / "in", IMAGENET | {"n01440764/n01440764_2.JPEG": b"junk"})
    words = ["imagenet-128", str(source), str(dest), "--partial", "--processes=1"]
    failed = CliRunner().invoke(main, words)
    assert failed.exit_code == 1
    assert "n01440764/n01440764_2.JPEG: not an image that can be read" in failed.output
    made = CliRunner().invoke(main, [*words, "--skip-broken"])
    assert made.exit_code == 0, made.output
    assert "3 images of 128 x 128 px, 1 broken ones skipped" in made.output


def test_clips_and_frames_are_recipes_of_the_folder_that_the_video_hosts_read():
    for name in ("taichi-256-videos", "sky-timelapse-256", "youtube-driving-256"):
        assert RECIPES[name].folder == CLIPS
    for recipe in RECIPES.values():
        assert bool(recipe.expected) == bool(recipe.crop)
        assert recipe.resumable or not recipe.expected


def test_a_zip_that_lost_a_frame_does_not_pass_as_whole(tmp_path):
    from experiments.datasets.zips import verify

    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        archive.writestr("a.png", image(0, 8, 8))
    verify(tmp_path / "in.zip", DatasetInfo(1, 8, ""))
    for info in (DatasetInfo(2, 8, ""), DatasetInfo(1, 16, "")):
        with pytest.raises(UserError, match="was not written correctly"):
            verify(tmp_path / "in.zip", info)
