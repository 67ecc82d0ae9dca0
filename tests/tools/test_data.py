"""Data sets plug in through a registry, one command and a manifest. Adding one takes one module and one line."""

import json
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from experiments import datasets
from experiments.datasets.recipe import read_manifest
from experiments.datasets.zips import describe
from experiments.files import UserError
from tools.data import main

MODULE = """
import click, numpy as np
from experiments.datasets.recipe import Recipe
from experiments.datasets.zips import write_zip

def make(source, file, level):
    colours = source.read_text().split()
    return write_zip(file, ((np.full((4, 4, 3), int(c) * level, np.uint8), None) for c in colours), 4)

RECIPE = Recipe("dots", "Dots.", make, obtain="Write numbers into a file.", licence="CC0", credit="Dots by Nobody.",
                options=(click.Option(["--level"], type=int, default=2),))
"""


@pytest.fixture
def dots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A data set made for the test: one module, and one line in the registry."""
    (tmp_path / "throw_away_dots.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    import throw_away_dots

    monkeypatch.setitem(datasets.RECIPES, throw_away_dots.RECIPE.name, throw_away_dots.RECIPE)
    yield throw_away_dots.RECIPE
    del __import__("sys").modules["throw_away_dots"]


def call(*words: object) -> str:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_new_data_set_is_listed_and_made_with_manifest_and_credit(dots, tmp_path: Path) -> None:
    listed = call("--help")
    assert "dots" in listed
    assert "Write numbers into a file. Licence: CC0" in " ".join(listed.split())
    (tmp_path / "numbers").write_text("1 2 3")
    told = call("dots", tmp_path / "numbers", tmp_path / "dots.zip", "--level", 5)
    assert "3 images of 4 x 4 px" in told
    assert "Dots by Nobody." in told
    manifest = read_manifest(tmp_path / "dots.zip")
    info = describe(tmp_path / "dots.zip")
    assert (info.nimg, info.resolution_px) == (manifest["nimg"], manifest["resolution_px"]) == (3, 4)
    assert info.content_sha256 == manifest["content_sha256"]
    assert (manifest["recipe"], manifest["options"]) == ("dots", {"level": 5})
    assert (manifest["licence"], manifest["credit"]) == ("CC0", "Dots by Nobody.")
    with zipfile.ZipFile(tmp_path / "dots.zip") as archive:
        assert archive.read("ATTRIBUTION.txt").decode() == "Dots by Nobody.\nLicence: CC0\n"
        assert json.loads(archive.read("dataset.json")) == {"labels": None}


def test_a_recipe_run_from_code_has_the_command_lines_defaults(dots, tmp_path: Path) -> None:
    (tmp_path / "numbers").write_text("1")
    dots.run(tmp_path / "numbers", tmp_path / "dots.zip")
    assert read_manifest(tmp_path / "dots.zip")["options"] == {"level": 2}
    assert dots.sources[0] == tmp_path / "throw_away_dots.py"


def test_a_recipe_that_fails_leaves_nothing(dots, tmp_path: Path) -> None:
    (tmp_path / "numbers").write_text("1 2 three")
    with pytest.raises(ValueError, match="three"):
        dots.run(tmp_path / "numbers", tmp_path / "dots.zip")
    assert not [path for path in tmp_path.iterdir() if "dots.zip" in path.name]


def test_sources_and_options_that_do_not_belong_are_refused(dots, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dots: source must be given; got none\. Write numbers into a file\."):
        dots.run(None, tmp_path / "dots.zip")
    with pytest.raises(UserError, match=r"openmoji: source must not be given; got '.*'\. Nothing to obtain"):
        datasets.RECIPES["openmoji"].run(tmp_path, tmp_path / "faces.zip")
    with pytest.raises(UserError, match="dots: options must be some of level; got size"):
        dots.run(tmp_path, tmp_path / "dots.zip", size=3)


def test_every_recipe_tells_how_to_obtain_it_and_its_licence() -> None:
    listed = "".join(call("--help").split())  # click also breaks lines at hyphens
    for name, recipe in datasets.RECIPES.items():
        said = f"{recipe.title} {recipe.obtain} Licence: {recipe.licence}"
        assert "".join(said.split()) in listed
        shown = "".join(call(name, "--help").split())
        for told in (recipe.licence, recipe.crop, *(f"{count:,} {what}" for what, count in recipe.expected.items())):
            assert "".join(told.split()) in shown


def test_a_manifest_that_is_not_there_is_said_with_the_file(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bare.zip", "w") as archive:
        archive.writestr("a.txt", "a")
    (tmp_path / "text.zip").write_text("text")
    for name, reason in (("bare.zip", "it has no mtm_manifest.json"), ("text.zip", "not a zip"), ("no.zip", "No such")):
        with pytest.raises(UserError, match=rf"{name}.*{reason}"):
            read_manifest(tmp_path / name)
