"""What several files test data sets of people with."""

from pathlib import Path

import pytest
from people_lab import WALK, bvh, stand_in

from experiments.files import UserError
from experiments.people import sources


@pytest.fixture
def boxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of sources (MTM_PEOPLE) whose body is the stand-in, and a motion beside it."""
    folder = tmp_path / "people-sources"
    folder.mkdir()
    monkeypatch.setenv("MTM_PEOPLE", str(folder))
    stand_in().save(sources.body_path(folder))
    (tmp_path / "walk.bvh").write_text(bvh(WALK))
    return tmp_path / "walk.bvh"


@pytest.fixture(scope="session")
def real() -> tuple[Path, list[Path]]:
    """The real body's file and CMU's motions, fetched where they are not there yet; else the test is skipped."""
    try:
        return sources.body_file(), sources.motion_files()
    except UserError as error:
        pytest.skip(f"body or motion are not available here: {error}")
