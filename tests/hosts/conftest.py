import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "overlay"))  # for engine_lab

from eg3d_lab import make_posed_images
from lab import make_checkouts, make_clips, make_images

from mtm_hosts.hosts import HOSTS


def checkouts(host):
    """A fixture: name -> clone of the host. Names: pristine, base (concerns compat and cpu), patched (all concerns)."""

    @pytest.fixture(scope="session", name=host.replace("-", "_"))
    def made(tmp_path_factory):
        return make_checkouts(tmp_path_factory.mktemp(host), host)

    return made


stylegan3, eg3d, stylegan_v, stylesv = map(checkouts, HOSTS)


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("data") / "images")


@pytest.fixture(scope="session")
def posed(tmp_path_factory):
    """Images, each with a camera."""
    return make_posed_images(tmp_path_factory.mktemp("data") / "posed")


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    return make_clips(tmp_path_factory.mktemp("data") / "clips")
