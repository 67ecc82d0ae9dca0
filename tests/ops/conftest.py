"""Fixtures of the op's tests."""

from collections.abc import Iterator

import pytest
import torch

from mtm_ops import _native


@pytest.fixture(autouse=True)
def narrow_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices of 128 channels, so that a few hundred are cut."""
    monkeypatch.setattr(_native, "SLICE_CHANNELS", 128)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """One thread: these inputs are tiny, and on a busy machine threads wait for each other. Restored afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
