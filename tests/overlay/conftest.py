import shutil

import pytest
from engine_lab import Lab, build_template


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    return build_template(tmp_path_factory.mktemp("engine") / "template")


@pytest.fixture
def lab(template, tmp_path):
    """Our repository in small: two patched hosts, alpha and beta."""
    shutil.copytree(template, tmp_path / "lab", symlinks=True)
    return Lab(tmp_path / "lab")
