"""Every test here needs a GPU and is skipped without; `make test-gpu` fails instead."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tools.gpu import why_no_gpu

sys.path.insert(0, str(Path(__file__).parents[1] / "ops"))  # op_cases
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # torch's condition for deterministic products


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = why_no_gpu()
    for item in items:
        if item.get_closest_marker("gpu") and reason is not None:
            item.add_marker(pytest.mark.skip(reason=f"no GPU: {reason}"))


@pytest.fixture(autouse=True)
def float32_is_float32() -> Iterator[None]:
    """No TF32, and back: torch's default for convolutions, which the op follows, is TF32."""
    conv = torch.backends.cudnn.conv
    before = conv.fp32_precision
    conv.fp32_precision = "ieee"
    yield
    conv.fp32_precision = before


@pytest.fixture
def deterministic() -> Iterator[None]:
    """torch.use_deterministic_algorithms(True), and back."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
