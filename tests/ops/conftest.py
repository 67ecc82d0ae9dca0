"""Fixtures of the op's tests."""

import ctypes
from collections.abc import Iterator

import pytest
import torch
from cuda_host import build_host, use_cuda_kernels


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """One thread: these inputs are tiny, and on a busy machine threads wait for each other. Restored afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def host(tmp_path_factory) -> ctypes.CDLL:
    """The CUDA kernels, to be run on the CPU."""
    return build_host(tmp_path_factory.mktemp("host") / "host.so")


@pytest.fixture
def on_host(host, monkeypatch) -> Iterator[None]:
    """The op's calls on CPU tensors go to the CUDA kernels, in chunks as on CUDA."""
    with monkeypatch.context() as patch:
        use_cuda_kernels(patch, host)
        yield
