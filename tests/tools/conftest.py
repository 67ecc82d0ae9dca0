import pytest
from http_lab import serve


@pytest.fixture(scope="module")
def running():
    """A server that several tests share. It has no answers until a test adds some."""
    with serve() as lab:
        yield lab
