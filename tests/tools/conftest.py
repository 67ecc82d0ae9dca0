import pytest
from http_lab import serve


@pytest.fixture(scope="module")
def running():
    """A server that several tests use, with nothing to say yet."""
    with serve() as lab:
        yield lab
