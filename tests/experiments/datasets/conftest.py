"""Fixtures for the tests of the people data sets."""

from pathlib import Path

import pytest
from people_lab import WALK, bvh, stand_in

from experiments.files import UserError
from experiments.people import sources


@pytest.fixture
def boxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set MTM_PEOPLE to a folder with the stand-in body; returns a motion file next to that folder."""
    folder = tmp_path / "people-sources"
    folder.mkdir()
    monkeypatch.setenv("MTM_PEOPLE", str(folder))
    stand_in().save(sources.body_path(folder))
    (tmp_path / "walk.bvh").write_text(bvh(WALK))
    return tmp_path / "walk.bvh"


@pytest.fixture(scope="session")
def real() -> tuple[Path, list[Path]]:
    """The real body's file and CMU's motions, fetched if needed. Skips the test if they are not available."""
    try:
        return sources.body_file(), sources.motion_files()
    except UserError as error:
        pytest.skip(f"body or motion are not available here: {error}")
