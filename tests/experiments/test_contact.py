"""The contact sheet: one row for each trainer with images of a plain run and of an MTM run."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments import contact
from experiments.table import Row


class Result:
    """A row's result, with images of one colour each."""

    def __init__(self, folder: Path, id: str, baseline: str | None, colours: dict[str, str]) -> None:
        self.row = Row(id=id, title=id.title(), mtm="none", baseline=baseline)
        self._files = {}
        for name, colour in colours.items():
            self._files[name] = folder / f"{id}-{name}.png"
            Image.new("RGB", (40, 10), colour).save(self._files[name])

    def image(self, name: str) -> Path | None:
        return self._files.get(name)


def pair(folder: Path, id: str, **mtm: str) -> list[Result]:
    return [Result(folder, id, None, {"strip": "red"}), Result(folder, f"{id}-mtm", id, mtm)]


@pytest.fixture
def groups(tmp_path):
    colours = {"strip": "lime", "strip-off": "blue", "strip-field": "yellow"}
    return [
        pair(tmp_path, "one", **colours),
        pair(tmp_path, "two", **{k: v for k, v in colours.items() if k == "strip"}),
    ]


def colour_at(sheet: Image.Image, column: int, row: int) -> tuple[int, ...]:
    cell = contact.STRIP_PX // 4
    x = contact.LABEL_PX + column * (contact.STRIP_PX + contact.GAP_PX) + contact.STRIP_PX // 2
    return sheet.getpixel((x, contact.HEAD_PX + row * (cell + contact.GAP_PX) + cell // 2))


def test_columns_are_plain_mtm_offsets_off_and_field_and_what_is_absent_is_said(groups):
    sheet = contact.contact_sheet(groups)
    first = [colour_at(sheet, column, 0) for column in range(4)]
    assert first == [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)]
    assert [colour_at(sheet, column, 1) for column in range(2)] == first[:2]
    absent = np.asarray(sheet)[-contact.STRIP_PX // 4 :, contact.LABEL_PX + 2 * (contact.STRIP_PX + contact.GAP_PX) :]
    assert (absent[..., 0] > absent[..., 1].astype(int) + 60).sum() > 30  # "not there", in red


def test_one_pair_and_rows_without_images_make_no_sheet(groups, tmp_path):
    assert contact.contact_sheet(groups[:1]) is None
    bare = [Result(tmp_path, "bare", None, {}), Result(tmp_path, "bare-mtm", "bare", {})]
    assert contact.contact_sheet([groups[0], bare]) is None
    assert contact.contact_sheet([groups[0], groups[1][:1]]) is None


def test_a_damaged_strip_is_left_out(groups):
    groups[0][0].image("strip").write_bytes(b"no image")
    assert colour_at(contact.contact_sheet(groups), 0, 0) != (255, 0, 0)
