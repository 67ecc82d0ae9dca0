"""What is slow: `make test-fast` leaves it out. Single tests of other files are marked where they stand."""

from pathlib import Path

import pytest

SLOW_FILES = (
    "hosts/test_networks.py",  # these build, train or export official codebases
    "hosts/*_train.py",
    "hosts/*_resume.py",
    "hosts/*_snapshots.py",
    "hosts/*_adapter.py",
    "hosts/*_export.py",
    "tools/test_export.py",
    "experiments/test_run.py",  # these start runners, and kill them
    "experiments/test_seams.py",
    "experiments/test_slurm.py",
    "experiments/test_report_browser.py",  # these drive a browser, or read data sets with the official codebases
    "experiments/datasets/test_people_hosts.py",
    "experiments/datasets/test_host_readers.py",
    "overlay/test_engine_crash.py",
    "ops/test_build.py",  # these compile, or measure memory
    "ops/test_cuda_on_host.py",
    "ops/test_sampling_header.py",
    "ops/test_memory.py",
    "ops/test_onnx.py",
)


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if any(item.path.relative_to(here).match(pattern) for pattern in SLOW_FILES):
            item.add_marker(pytest.mark.slow)
