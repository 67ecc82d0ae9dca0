"""Hostile and odd image files: each is decoded correctly, or refused with a message that says what is wrong."""

import errno
import io
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.datasets import images, own, paths
from experiments.datasets.images import decode_rgb, decode_square, open_source, printable
from experiments.datasets.zips import DatasetInfo
from experiments.files import UserError


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(value: int = 0, side: int = 8) -> bytes:
    return encoded(Image.new("RGB", (side, side), (value, value, value)), "png")


def rgb(data: bytes) -> np.ndarray:
    """The decoded image. Both decoders must agree, because nothing is cropped or resized."""
    whole = np.asarray(decode_rgb(data, 100))
    square = decode_square(data, len(whole), 100)
    np.testing.assert_array_equal(square, whole)
    return whole


def convert(source: Path, dest: Path, **options: bool | float) -> DatasetInfo:
    return own.RECIPE.run(source, dest, **({"resolution": 8, "min_nimg": 2} | options))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(3):
        (folder / f"{i}.png").write_bytes(png(i))
    return folder


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    return tmp_path / "out.zip"


RAMP = np.linspace(0, 1, 64).reshape(8, 8)


@pytest.mark.parametrize(
    ("array", "kind", "options"),
    [
        (RAMP.astype(np.float32), "tiff", {}),
        ((RAMP * 255).round().astype(np.int32), "tiff", {}),
        ((RAMP * 65535).round().astype(np.uint16), "tiff", {}),
        ((RAMP * 65535).round().astype(np.uint16), "png", {}),
        ((RAMP * 65535).round().astype(np.uint16), "ppm", {}),
    ],
    ids=["float tiff", "int32 tiff", "uint16 tiff", "16-bit png", "16-bit pgm"],
)
def test_every_width_of_grey_spans_black_to_white(array, kind, options):
    pixels = rgb(encoded(Image.fromarray(array), kind, **options))
    assert np.abs(pixels[..., 0] - RAMP * 255).max() <= 1
    assert (pixels == pixels[..., :1]).all()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (RAMP.astype(np.float32) * 255, "float values must lie in 0 to 1, got 0 to 255, so its white point"),
        (RAMP.astype(np.float32) * np.nan, "float values must lie in 0 to 1, got nan to nan"),
        (RAMP.astype(np.float32) - 1, "got -1 to 0"),
        ((RAMP * 65535).astype(np.int32), "32-bit integer values must lie in 0 to 255, got 0 to 65535"),
    ],
)
def test_grey_whose_white_cannot_be_known_is_refused(array, message):
    for decode in (lambda data: decode_rgb(data, 100), lambda data: decode_square(data, 8, 100)):
        with pytest.raises(ValueError, match=message):
            decode(encoded(Image.fromarray(array), "tiff"))


def test_a_palette_with_transparency_stands_on_white():
    image = Image.new("P", (8, 8), 0)
    image.putpalette([200, 0, 0, 0, 0, 200])
    image.paste(1, (0, 0, 4, 8))
    for kind in ("png", "gif"):
        pixels = rgb(encoded(image, kind, transparency=0))
        assert pixels[0, 0].tolist() == [0, 0, 200]
        assert pixels[0, 7].tolist() == [255, 255, 255]


def test_half_transparent_pixels_blend_with_white_in_every_band(monkeypatch):
    monkeypatch.setattr(images, "_BAND_PX", 16)  # two rows per band
    values = np.random.default_rng(0).integers(0, 256, (8, 8, 4), dtype=np.uint8)
    pixels = rgb(encoded(Image.fromarray(values), "png"))
    alpha = values[..., 3:] / 255
    assert np.abs(pixels - (values[..., :3] * alpha + 255 * (1 - alpha))).max() <= 1


def test_a_cmyk_jpeg_keeps_its_colours():
    pixels = rgb(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "jpeg", quality=95))
    assert np.abs(pixels.astype(int) - [255, 0, 0]).max() < 12


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_turned_upright(orientation):
    upright = Image.new("RGB", (8, 8), "black")
    upright.paste((255, 255, 255), (0, 0, 4, 4))  # the top left quarter is white
    stored = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(upright if stored is None else upright.transpose(stored), "png", exif=exif)
    np.testing.assert_array_equal(rgb(data), np.asarray(upright))


def test_of_an_animation_the_first_frame_is_taken():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for kind in ("gif", "webp", "png"):
        extra = {"lossless": True} if kind == "webp" else {}
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **extra)
        assert rgb(data)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "bmp", "tiff", "gif", "ppm"])
def test_truncated_files_are_refused_wherever_they_end(kind):
    noise = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    for end in (0, 1, 10, len(data) // 2, len(data) * 3 // 4):
        with pytest.raises(ValueError, match=r"\w"):
            decode_rgb(data[:end], 100)


def test_a_large_jpeg_is_decoded_at_a_reduced_scale_and_looks_the_same(monkeypatch):
    y, x = np.mgrid[0:512, 0:512] / 512
    photo = Image.fromarray((np.stack([x, y, np.sin(9 * x) ** 2], axis=2) * 255).astype(np.uint8))
    data = encoded(photo, "jpeg", quality=95)
    whole = decode_square(data, 16, 100)
    monkeypatch.setattr(images, "LARGE_MPX", 0.1)
    sizes = []
    to_rgb = images._to_rgb
    monkeypatch.setattr(images, "_to_rgb", lambda image: (sizes.append(image.size), to_rgb(image))[1])
    reduced = decode_square(data, 16, 100)
    assert sizes == [(64, 64)]
    assert np.abs(whole.astype(int) - reduced).max() <= 3
    decode_square(data, 128, 100)
    assert sizes[1] == (512, 512)  # all of it, because four times this resolution needs it


def test_large_images_are_decoded_one_at_a_time(source, dest, monkeypatch):
    monkeypatch.setattr(images, "LARGE_MPX", 1e-6)
    monkeypatch.setattr(own.os, "sched_getaffinity", lambda _: range(8))
    inside, most, load = [], [], images._load

    def slow(*arguments):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.01)
        inside.pop()
        return load(*arguments)

    monkeypatch.setattr(images, "_load", slow)
    for i in range(12):
        (source / f"more{i}.png").write_bytes(png(i))
    assert convert(source, dest).nimg == 15
    assert (max(most), len(most)) == (1, 15)


@pytest.mark.parametrize(("kind", "mode", "limit_mb"), [("jpeg", "RGB", 60), ("png", "RGBA", 280)])
def test_four_images_of_25_mpx_take_bounded_memory(source, dest, kind, mode, limit_mb):
    data = encoded(Image.new(mode, (5000, 5000), "teal"), kind)
    for i in range(4):
        (source / f"large{i}.{kind}").write_bytes(data)
    code = (
        "import resource, sys; from pathlib import Path; from experiments.datasets import own;"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "own.RECIPE.run(Path(sys.argv[1]), Path(sys.argv[2]), min_nimg=2);"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code, source, dest], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < limit_mb  # one decoded image takes 100 MB


def test_a_fifo_or_a_device_named_like_an_image_is_refused_at_once(source, dest):
    os.mkfifo(source / "fifo.png")
    (source / "zero.png").symlink_to("/dev/zero")
    started = time.monotonic()
    with pytest.raises(UserError, match="2 of 5 are broken") as caught:
        convert(source, dest)
    assert time.monotonic() - started < 5
    assert str(caught.value).count("not a regular file") == 2
    assert convert(source, dest, skip_broken=True).nimg == 3


def test_a_link_to_nothing_is_a_broken_image(source, dest):
    (source / "gone.png").symlink_to(source / "nowhere.png")
    with pytest.raises(UserError, match=r"gone\.png: .*No such file"):
        convert(source, dest)


def test_links_to_folders_are_followed_and_loops_end(tmp_path, source, dest):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "far.png").write_bytes(png(9))
    (source / "linked").symlink_to(elsewhere)
    (source / "loop").symlink_to(source)
    (elsewhere / "up").symlink_to(source)
    assert open_source(source).names == ["0.png", "1.png", "2.png", "linked/far.png"]
    (tmp_path / "root").symlink_to(source)
    assert convert(tmp_path / "root", dest).nimg == 4


def test_a_folder_that_cannot_be_listed_is_an_error_not_a_gap(source, dest, monkeypatch):
    (source / "secret").mkdir()
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "secret":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(paths.os, "scandir", refuse)
    with pytest.raises(UserError, match=r"every folder .* readable; got Permission denied for '.*secret'"):
        convert(source, dest)


def test_a_file_without_read_permission_is_a_broken_image(source, dest, monkeypatch):
    open_file = os.open

    def refuse(path, *arguments):
        if Path(path).name == "1.png":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return open_file(path, *arguments)

    monkeypatch.setattr(paths.os, "open", refuse)
    with pytest.raises(UserError, match=r"1 of 3 are broken:\n.*1\.png: .*Permission denied"):
        convert(source, dest)


NAMES = ["new\nline.png", "tab\t.png", "smile\N{GRINNING FACE}.png", "back\\slash.png", "quote'\".png", "-dash.png"]


def test_odd_names_are_read_and_printed_on_one_line(source, dest):
    for name in NAMES:
        (source / name).write_bytes(png(5))
    (source / os.fsdecode(b"latin\xe9.png")).write_bytes(png(6))
    assert convert(source, dest).nimg == 3 + len(NAMES) + 1
    for name in [*NAMES, os.fsdecode(b"latin\xe9.png")]:
        (source / name).write_bytes(b"broken")
    with pytest.raises(UserError) as caught:
        convert(source, dest)
    text = str(caught.value)
    text.encode()  # any terminal can print it
    assert len(text.splitlines()) == 2 + len(NAMES) + 1
    assert "new\\nline.png: not an image" in text
    assert "latin\\udce9.png" in text
    assert printable("plain ä.png") == "plain ä.png"


def write_zip(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


def test_a_zip_with_odd_names_is_read(tmp_path, dest):
    packed = write_zip(tmp_path / "in.zip", [(name, png(3)) for name in NAMES])
    assert convert(packed, dest).nimg == len(NAMES)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_stands_twice_in_a_zip_is_refused(tmp_path, dest):
    packed = write_zip(tmp_path / "in.zip", [("a.png", png(1)), ("b.png", png(2)), ("a.png", png(3))])
    with pytest.raises(UserError, match=r"got 'a.png' more than once in .*\(1 such names\)"):
        convert(packed, dest)


def test_a_zip_in_a_zip_is_not_opened_and_that_is_said(tmp_path, dest, capsys):
    inner = write_zip(tmp_path / "inner.zip", [("a.png", png())]).read_bytes()
    with pytest.raises(UserError, match=r"got 1 x \.zip .*Archives inside it are not opened: unpack them"):
        convert(write_zip(tmp_path / "outer.zip", [("inner.zip", inner)]), dest)
    convert(write_zip(tmp_path / "mixed.zip", [("a.png", png(1)), ("b.png", png(2)), ("inner.zip", inner)]), dest)
    assert "Ignored 1 files that are not images: 1 x .zip." in capsys.readouterr().err


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path, dest, monkeypatch):
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 1 << 20)
    members = [("a.png", png(1)), ("b.png", png(2)), ("bomb.png", bytes(64 << 20))]
    packed = write_zip(tmp_path / "in.zip", members)
    assert packed.stat().st_size < 1 << 17
    with pytest.raises(UserError, match=r"bomb\.png: unpacks to 67 MB, more than 1 MB"):
        convert(packed, dest)


def test_an_encrypted_member_is_a_broken_image(tmp_path, dest):
    packed = write_zip(tmp_path / "in.zip", [("a.png", png(1)), ("b.png", png(2)), ("c.png", png(3))])
    data = bytearray(packed.read_bytes())
    for signature, flag in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.rindex(signature) + flag] |= 1
    packed.write_bytes(data)
    with pytest.raises(UserError, match=r"1 of 3 are broken:\n.*encrypted"):
        convert(packed, dest)


def test_labels_for_some_images_only_are_refused(tmp_path, dest):
    labels = json.dumps({"labels": [["a.png", 1]]}).encode()
    packed = write_zip(tmp_path / "in.zip", [("a.png", png(1)), ("b.png", png(2)), ("dataset.json", labels)])
    with pytest.raises(UserError, match=r"label every image or none; got 1 of 2 .*'b\.png'"):
        convert(packed, dest)


def test_a_destination_that_is_a_folder_is_said(source, tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"folder: cannot be written \(Is a directory\)"):
        convert(source, tmp_path / "folder")
    assert list((tmp_path / "folder").iterdir()) == []


def test_many_files_are_converted_with_progress(source, dest, capsys):
    data = png(7)
    for i in range(3000):
        (source / f"{i:05d}.png").write_bytes(data)
    assert own.convert(source, dest, 8, min_nimg=2, progress=True).nimg == 3003
    assert "3003/3003" in capsys.readouterr().err
