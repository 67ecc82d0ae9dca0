"""The recipe `images`: what it makes of a user's images, and how it refuses unusable ones."""

import errno
import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from experiments.datasets import own, zips
from experiments.datasets.zips import DatasetInfo, describe
from experiments.files import UserError, atomic_output
from tools.data import main


def convert(source: Path, out: Path, resolution: int = 8, **options: bool | float) -> DatasetInfo:
    return own.RECIPE.run(source, out, **({"resolution": resolution, "min_nimg": 2} | options))


def png(width: int = 40, height: int = 30, colour: object = "red", mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (width, height), colour).save(buffer, "png")
    return buffer.getvalue()


def folder_of(path: Path, count: int, **kwargs: int) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        (path / f"{i:03d}.png").write_bytes(png(colour=(i, 2 * i, 3 * i), **kwargs))
    return path


def zip_of(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def host_zip(path: Path, count: int = 3, side: int = 8, labels: object = None) -> Path:
    members = {f"00000/img{i:08d}.png": png(side, side, (i, 0, 0)) for i in range(count)}
    return zip_of(path, members | {"dataset.json": json.dumps({"labels": labels}).encode()})


def pixels(path: Path, index: int) -> np.ndarray:
    with zipfile.ZipFile(path) as archive:
        return np.asarray(Image.open(io.BytesIO(archive.read(f"00000/img{index:08d}.png"))))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "made" / "out.zip"


def refused(source: Path, out: Path, **options: bool | float) -> str:
    """The error message. Also checks that nothing is left in the zip's folder."""
    with pytest.raises(UserError) as caught:
        convert(source, out, **options)
    assert not out.parent.exists() or not list(out.parent.iterdir())
    return str(caught.value)


def test_a_nested_folder_becomes_a_host_format_zip_in_the_order_of_names(tmp_path, out):
    folder_of(tmp_path / "in" / "b", 2)
    folder_of(tmp_path / "in" / "a" / "deep", 3)
    (tmp_path / "in" / "notes.txt").write_text("no image")
    (tmp_path / "in" / ".hidden.png").write_bytes(b"")
    info = convert(tmp_path / "in", out)
    assert (info.nimg, info.resolution_px) == (5, 8)
    with zipfile.ZipFile(out) as archive:
        assert archive.namelist()[:5] == [f"00000/img{i:08d}.png" for i in range(5)]
        assert json.loads(archive.read("dataset.json")) == {"labels": None}
        assert all(member.compress_type == zipfile.ZIP_STORED for member in archive.infolist())
    assert pixels(out, 2)[0, 0].tolist() == [2, 4, 6]
    assert pixels(out, 3)[0, 0].tolist() == [0, 0, 0]


def test_the_middle_square_is_kept_and_resized_with_lanczos(tmp_path, out):
    rng = np.random.default_rng(0)
    values = rng.integers(0, 256, (20, 41, 3), dtype=np.uint8)
    (tmp_path / "in").mkdir()
    for name in "ab":
        Image.fromarray(values).save(tmp_path / "in" / f"{name}.png")
    convert(tmp_path / "in", out)
    expected = Image.fromarray(values[:, 10:30]).resize((8, 8), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(pixels(out, 0), np.asarray(expected))


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("L", 100, [100, 100, 100]),
        ("RGBA", (255, 0, 0, 0), [255, 255, 255]),
        ("LA", (0, 255), [0, 0, 0]),
        ("P", 0, [0, 0, 0]),
        ("1", 1, [255, 255, 255]),
        ("I;16", 0x8080, [128, 128, 128]),
    ],
)
def test_every_kind_of_image_becomes_rgb(tmp_path, out, mode, colour, expected):
    (tmp_path / "in").mkdir()
    for name in "ab":
        (tmp_path / "in" / f"{name}.png").write_bytes(png(16, 16, colour, mode))
    convert(tmp_path / "in", out)
    assert pixels(out, 0).shape == (8, 8, 3)
    assert pixels(out, 0)[4, 4].tolist() == expected


def test_a_photo_is_turned_upright(tmp_path, out):
    (tmp_path / "in").mkdir()
    values = np.zeros((16, 16, 3), np.uint8)
    values[:, :8] = 255  # white on the left; the camera was turned by 180 degrees
    exif = Image.Exif()
    exif[0x0112] = 3
    for name in "ab":
        Image.fromarray(values).save(tmp_path / "in" / f"{name}.jpg", exif=exif, quality=95)
    convert(tmp_path / "in", out)
    assert pixels(out, 0)[4, 0].max() < 20
    assert pixels(out, 0)[4, 7].min() > 235


def test_the_content_hash_knows_pixels_and_their_order_only(tmp_path, out):
    folder_of(tmp_path / "in", 3)
    first = convert(tmp_path / "in", out)
    first_bytes = out.read_bytes()
    again = convert(tmp_path / "in", out)
    assert (again, out.read_bytes()) == (first, first_bytes)
    for i in range(3):
        image = Image.open(tmp_path / "in" / f"{i:03d}.png")
        image.load()
        (tmp_path / "in" / f"{i:03d}.png").unlink()
        image.save(tmp_path / "in" / f"{i:03d}.bmp")
    assert convert(tmp_path / "in", out).content_sha256 == first.content_sha256
    assert describe(out).content_sha256 == first.content_sha256
    (tmp_path / "in" / "000.bmp").rename(tmp_path / "in" / "zzz.bmp")
    assert convert(tmp_path / "in", out).content_sha256 != first.content_sha256


def test_a_zip_of_images_equals_the_folder_it_was_made_from(tmp_path, out):
    source = folder_of(tmp_path / "in", 3)
    members = {f"photos/{path.name}": path.read_bytes() for path in sorted(source.iterdir())}
    packed = zip_of(tmp_path / "in.zip", members | {"__MACOSX/photos/._000.png": b"junk", "readme.md": b""})
    from_zip = convert(packed, tmp_path / "b.zip")
    assert from_zip == convert(source, out)


@pytest.mark.parametrize("unpacked", [False, True])
def test_the_hosts_format_is_taken_as_it_is_with_its_labels(tmp_path, out, unpacked):
    labels = [[f"00000/img{i:08d}.png", 9 - i] for i in range(3)]
    source = host_zip(tmp_path / "host.zip", labels=labels)
    if unpacked:
        zipfile.ZipFile(source).extractall(tmp_path / "host")
    convert(tmp_path / "host" if unpacked else source, out)
    with zipfile.ZipFile(out) as archive:
        assert json.loads(archive.read("dataset.json"))["labels"] == labels
    np.testing.assert_array_equal(pixels(out, 1), pixels(source, 1))
    assert describe(out).content_sha256 == describe(source).content_sha256


def test_the_hosts_format_at_another_size_is_refused_until_asked_to_resample(tmp_path, out):
    source = host_zip(tmp_path / "host.zip", side=16)
    message = refused(source, out)
    assert "expected 8 x 8 px, got 16 x 16 (3)" in message
    assert f"tools.data images {source} NEW.zip --resize --resolution 8 (or use it at --resolution 16)" in message
    assert convert(source, out, resize=True).resolution_px == 8


@pytest.mark.parametrize(("sides", "found"), [((8, 16), "8 x 8 (1), 16 x 16 (1)"), ((12, 12), "12 x 12 (2)")])
def test_the_hosts_format_with_mixed_or_odd_sizes_is_refused(tmp_path, out, sides, found):
    members = {f"00000/img{i:08d}.png": png(side, side) for i, side in enumerate(sides)}
    message = refused(zip_of(tmp_path / "host.zip", members), out)
    assert f"got {found}" in message
    assert "--resize" in message
    assert "or use it at" not in message


def test_all_broken_images_are_named_at_once(tmp_path, out):
    source = folder_of(tmp_path / "in", 4)
    (source / "truncated.png").write_bytes(png(64, 64)[:-30])
    (source / "text.jpg").write_text("not an image")
    (source / "empty.webp").write_bytes(b"")
    message = refused(source, out)
    assert "3 of 7 are broken" in message
    for name in ("truncated.png", "text.jpg", "empty.webp"):
        assert f"{source}/{name}: " in message
    assert "--skip-broken" in message


def test_of_many_broken_images_ten_are_listed(tmp_path, out):
    source = folder_of(tmp_path / "in", 4)
    for i in range(23):
        (source / f"bad{i:02d}.png").write_text("bad")
    message = refused(source, out)
    assert message.count("not an image that can be read") == 10
    assert "... and 13 more" in message


def test_skip_broken_goes_on_without_them_and_counts_them(tmp_path, out):
    source = folder_of(tmp_path / "in", 4)
    (source / "001.png").write_text("bad")
    arguments = ["images", str(source), str(out), "--resolution", "8", "--min-nimg", "2", "--skip-broken"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "3 images of 8 x 8 px, 1 broken ones skipped" in result.output
    assert pixels(out, 1)[0, 0].tolist() == [2, 4, 6]


def test_too_few_left_after_skipping_is_refused(tmp_path, out):
    source = folder_of(tmp_path / "in", 3)
    (source / "001.png").write_text("bad")
    assert "expected at least 3, got 2" in refused(source, out, skip_broken=True, min_nimg=3)


def test_too_few_images_are_refused(tmp_path, out):
    assert "expected at least 9, got 3" in refused(folder_of(tmp_path / "in", 3), out, min_nimg=9)


def test_a_damaged_member_of_a_zip_is_a_broken_image(tmp_path, out):
    source = zip_of(tmp_path / "in.zip", {f"{i}.png": png(colour=(i, 0, 0)) for i in range(3)})
    data = bytearray(source.read_bytes())
    at = data.index(b"IDAT")
    data[at + 8] ^= 0xFF
    source.write_bytes(data)
    message = refused(source, out)
    assert "1 of 3 are broken" in message
    assert "0.png: " in message


def test_a_missing_path_is_said(tmp_path, out):
    assert "expected a path that exists, got" in refused(tmp_path / "nowhere", out)


def test_a_folder_without_images_says_what_it_holds(tmp_path, out):
    (tmp_path / "in").mkdir()
    for name in ("a.mp4", "b.mp4", "c.txt"):
        (tmp_path / "in" / name).write_text("x")
    assert "got 2 x .mp4, 1 x .txt" in refused(tmp_path / "in", out)


def test_a_zip_without_images_is_refused(tmp_path, out):
    assert "must hold images" in refused(zip_of(tmp_path / "in.zip", {"a.csv": b"1"}), out)


@pytest.mark.parametrize("content", [b"GIF89a and so on", b"", b"PK\x03\x04 cut short"])
def test_a_file_that_is_no_zip_is_refused_by_name(tmp_path, out, content):
    (tmp_path / "cats.zip").write_bytes(content)
    message = refused(tmp_path / "cats.zip", out)
    assert "expected a zip archive" in message
    assert "cats.zip" in message


@pytest.mark.parametrize("name", ["../evil.png", "/etc/evil.png", "a/../../evil.png", "..\\evil.png", "C:\\evil.png"])
def test_a_zip_whose_names_lead_out_of_it_is_refused(tmp_path, out, name):
    source = zip_of(tmp_path / "in.zip", {"ok.png": png(), "x" * len(name): png()})
    source.write_bytes(source.read_bytes().replace(b"x" * len(name), name.encode()))
    assert "names in a zip must stay inside it" in refused(source, out)


def test_a_decompression_bomb_is_a_broken_image_and_is_not_decoded(tmp_path, out):
    source = folder_of(tmp_path / "in", 3)
    header = png(1, 1)
    bomb = bytearray(header)
    bomb[16:24] = (50_000).to_bytes(4, "big") * 2
    import zlib

    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    (source / "bomb.png").write_bytes(bomb)
    assert "bomb.png: " in refused(source, out)
    assert "bomb.png: a decompression bomb" in refused(source, out, max_mpx=1e9)
    (source / "bomb.png").write_bytes(png(2000, 2000))
    assert "bomb.png: 2000 x 2000 px is more than --max-mpx 1" in refused(source, out, max_mpx=1.0)


@pytest.mark.parametrize("resolution", [0, 3, 33, 100])
def test_a_resolution_that_is_no_power_of_two_is_refused(tmp_path, out, resolution):
    assert "must be a power of two" in refused(folder_of(tmp_path / "in", 3), out, resolution=resolution)


def test_a_dataset_json_that_is_none_is_refused(tmp_path, out):
    source = zip_of(tmp_path / "in.zip", {"a.png": png(8, 8), "dataset.json": b"[1, 2"})
    assert "dataset.json must be the hosts'" in refused(source, out)


def failing(error_number: int):
    def fail(*_: object, **__: object) -> None:
        raise OSError(error_number, os.strerror(error_number))

    return fail


def test_a_full_disk_is_said_and_nothing_is_left(tmp_path, out, monkeypatch):
    source = folder_of(tmp_path / "in", 3)
    monkeypatch.setattr(zipfile.ZipFile, "writestr", failing(errno.ENOSPC))
    message = refused(source, out)
    assert f"{out}: the disk is full" in message
    assert "free" in message


def test_an_out_folder_that_cannot_be_written_is_said(tmp_path, monkeypatch):
    source = folder_of(tmp_path / "in", 3)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written \(File exists\)"):
        convert(source, tmp_path / "file" / "out.zip")
    monkeypatch.setattr(zips.zipfile, "ZipFile", failing(errno.EROFS))
    with pytest.raises(UserError, match=r"out.zip: cannot be written \(Read-only file system\)"):
        convert(source, tmp_path / "out.zip")


def test_an_old_zip_survives_a_conversion_that_fails(tmp_path, out):
    convert(folder_of(tmp_path / "in", 3), out)
    before = out.read_bytes()
    (tmp_path / "in" / "bad.png").write_text("bad")
    with pytest.raises(UserError):
        convert(tmp_path / "in", out)
    assert out.read_bytes() == before
    assert list(out.parent.iterdir()) == [out]


def test_what_a_killed_conversion_left_is_removed_by_the_next(tmp_path):
    dead, alive = tmp_path / ".a.zip.partial-99999999", tmp_path / f".a.zip.partial-{os.getppid()}"
    for path in (dead, alive):
        path.write_text("half")
    with atomic_output(tmp_path / "a.zip") as temporary:
        temporary.write_text("whole")
    assert (tmp_path / "a.zip").read_text() == "whole"
    assert not dead.exists()
    assert alive.exists()


def test_a_file_that_another_machine_writes_is_left_to_it_for_a_day(tmp_path):
    theirs = [tmp_path / f".a.zip.partial-{'0' * 8}-{pid}" for pid in (99999999, 99999998)]
    for path in theirs:
        path.write_text("half")
    os.utime(theirs[1], (0, 0))
    with atomic_output(tmp_path / "a.zip") as temporary:
        temporary.write_text("whole")
    assert [path.exists() for path in theirs] == [True, False]


def test_few_images_are_in_memory_at_a_time(tmp_path, out, monkeypatch):
    source = folder_of(tmp_path / "in", 200)
    decoded, written, ahead = [], [], []
    decode, add = own.decode_square, zips.ContentHash.add_digest
    monkeypatch.setattr(own, "decode_square", lambda *a: (decoded.append(1), decode(*a))[1])

    def count(self: zips.ContentHash, digest: bytes) -> None:
        written.append(1)
        ahead.append(len(decoded) - len(written))
        add(self, digest)

    monkeypatch.setattr(zips.ContentHash, "add_digest", count)
    convert(source, out)
    assert len(written) == 200
    assert max(ahead) <= 4 * len(os.sched_getaffinity(0)) + 1
