import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "overlay"))  # engine_lab

from eg3d_lab import make_posed_pictures
from lab import make_checkouts, make_clips, make_pictures

TRAINING = ("_train", "_resume", "_snapshots", "_adapter", "_export")


def pytest_collection_modifyitems(items):
    """Files whose fixtures train an official codebase, or export one, are slow as a whole."""
    for item in items:
        if item.path.parent == Path(__file__).parent and item.path.stem.endswith(TRAINING):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def stylegan3(tmp_path_factory):
    """name -> clone: pristine, base (compat and cpu), patched (all concerns)."""
    return make_checkouts(tmp_path_factory.mktemp("stylegan3"), "stylegan3")


@pytest.fixture(scope="session")
def eg3d(tmp_path_factory):
    return make_checkouts(tmp_path_factory.mktemp("eg3d"), "eg3d")


@pytest.fixture(scope="session")
def stylegan_v(tmp_path_factory):
    return make_checkouts(tmp_path_factory.mktemp("stylegan-v"), "stylegan-v")


@pytest.fixture(scope="session")
def stylesv(tmp_path_factory):
    return make_checkouts(tmp_path_factory.mktemp("stylesv"), "stylesv")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    return make_pictures(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="session")
def posed(tmp_path_factory):
    """Images with a camera each."""
    return make_posed_pictures(tmp_path_factory.mktemp("data") / "posed")


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    return make_clips(tmp_path_factory.mktemp("data") / "clips")
