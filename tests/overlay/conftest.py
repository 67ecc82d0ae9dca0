import shutil

import pytest
from engine_lab import Lab, build_template


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    return build_template(tmp_path_factory.mktemp("engine") / "template")


@pytest.fixture
def lab(template, tmp_path):
    """A repository of ours with two small patched hosts, alpha and beta, as the tests like to have it."""
    shutil.copytree(template, tmp_path / "lab", symlinks=True)
    return Lab(tmp_path / "lab")
