"""Every test here needs a GPU. Without one, tests are skipped and `make test-gpu` fails."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tools.gpu import why_no_gpu

sys.path.insert(0, str(Path(__file__).parents[1] / "ops"))  # for op_cases
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # torch requires this for deterministic matmuls


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = why_no_gpu()
    for item in items:
        if item.get_closest_marker("gpu") and reason is not None:
            item.add_marker(pytest.mark.skip(reason=f"no GPU: {reason}"))


@pytest.fixture(autouse=True)
def float32_is_float32() -> Iterator[None]:
    """Turn TF32 off, then restore it. TF32 is torch's default for convolutions, which the op follows."""
    conv = torch.backends.cudnn.conv
    before = conv.fp32_precision
    conv.fp32_precision = "ieee"
    yield
    conv.fp32_precision = before


@pytest.fixture
def deterministic() -> Iterator[None]:
    """Turn torch.use_deterministic_algorithms on, then off."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
