"""The runner makes the paper's data sets from the user's sources, and keeps them as it keeps all others."""

from dataclasses import replace

import pytest
from sources_lab import folder, image, lmdb_folder

from experiments.data import Data
from experiments.datasets.zips import describe
from experiments.files import UserError
from experiments.table import Dataset, Table, load_table


def table_of(recipe: str) -> Table:
    dataset = Dataset(recipe=recipe, title="the paper's", options={"partial": True})
    return load_table("smoke").model_copy(update={"datasets": {"paper": dataset}})


def test_a_data_set_is_made_from_an_lmdb_and_made_anew_when_that_changes(tmp_path):
    source = lmdb_folder(tmp_path / "church_lmdb", {"a": image(1, kind="webp"), "b": b"junk"})
    table = table_of("lsun-church-256")

    def data(**options: bool) -> Data:
        return Data(table, {"paper": source}, tmp_path / "cache", **options)

    data().check_sources(["paper"])
    assert {"--skip-broken", "--partial"} <= set(data(skip_broken=True).step("paper").argv)
    with pytest.raises(UserError, match="Failed to create the data set 'paper'"):
        data().prepare("paper")
    path, info = data(skip_broken=True).prepare("paper")
    assert (info.nimg, info.resolution_px, info.skipped) == (1, 256, 1)
    assert info.notes == {"found": {"images": 2}}
    assert info == replace(describe(path), skipped=1)
    assert data(skip_broken=True).known("paper") == info
    lmdb_folder(source, {"b": image(2, kind="webp")})
    assert data().path("paper") != path
    assert data().prepare("paper")[1].nimg == 2


def test_a_source_of_the_wrong_kind_is_refused_before_any_work(tmp_path):
    (tmp_path / "notes.txt").write_text("text")
    data = Data(table_of("imagenet-128"), {"paper": tmp_path / "notes.txt"}, tmp_path / "cache")
    with pytest.raises(UserError, match="must be a folder, a zip, a tar"):
        data.check_sources(["paper"])
    missing = Data(table_of("imagenet-128"), {}, tmp_path / "cache")
    with pytest.raises(UserError, match=r"data set paper must be given: --data paper=PATH\. Register at"):
        missing.check_sources(["paper"])


def test_published_clips_take_a_source_and_rendered_ones_do_not(tmp_path):
    table = table_of("sky-timelapse-256")
    assert table.with_data(["paper"]).datasets["paper"].recipe == "sky-timelapse-256"
    with pytest.raises(UserError, match="must stand for a data set of images"):
        load_table("smoke").with_data(["openmoji-clips"])
    source = folder(tmp_path / "in", {f"sky_train/a/{i}.jpg": image(i, kind="jpeg") for i in range(4)})
    path, info = Data(table, {"paper": source}, tmp_path / "cache").prepare("paper")
    assert (info.clips, info.nimg) == (1, 4)
    assert path.exists()
