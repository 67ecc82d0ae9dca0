import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "overlay"))  # engine_lab

from stylegan3_lab import make_checkouts, make_pictures


@pytest.fixture(scope="session")
def stylegan3(tmp_path_factory):
    """name -> clone of the official stylegan3: pristine, base (compat and cpu), patched (all concerns)."""
    return make_checkouts(tmp_path_factory.mktemp("stylegan3"))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    return make_pictures(tmp_path_factory.mktemp("data") / "pictures")
