import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from engine_lab import Lab, build_template
from stylegan3_lab import make_checkouts, make_pictures


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    return build_template(tmp_path_factory.mktemp("engine") / "template")


@pytest.fixture
def lab(template, tmp_path):
    """A repository of ours with two small patched hosts, alpha and beta, as the tests like to have it."""
    shutil.copytree(template, tmp_path / "lab", symlinks=True)
    return Lab(tmp_path / "lab")


@pytest.fixture(scope="session")
def stylegan3(tmp_path_factory):
    """name -> clone of the official stylegan3: pristine, base (compat and cpu), patched (all concerns)."""
    return make_checkouts(tmp_path_factory.mktemp("stylegan3"))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    return make_pictures(tmp_path_factory.mktemp("data") / "pictures")
