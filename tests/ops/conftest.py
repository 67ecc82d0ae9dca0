"""Shared fixtures for the op tests: single-threaded torch, and the CUDA kernels compiled for the CPU."""

import ctypes
from collections.abc import Iterator

import pytest
import torch
from cuda_host import build_host, use_cuda_kernels


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Run torch on one thread, then restore the old count. The inputs are tiny, and on a busy machine threads stall."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def host(tmp_path_factory) -> ctypes.CDLL:
    """The CUDA kernels, compiled to run on the CPU."""
    return build_host(tmp_path_factory.mktemp("host") / "host.so")


@pytest.fixture
def on_host(host, monkeypatch) -> Iterator[None]:
    """Route the op's calls on CPU tensors to the CUDA kernels, in the chunks that CUDA uses."""
    with monkeypatch.context() as patch:
        use_cuda_kernels(patch, host)
        yield
