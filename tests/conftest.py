"""Which test files are slow; `make test-fast` skips them. Slow tests in other files carry the mark themselves."""

from pathlib import Path

import pytest

SLOW_FILES = (
    "hosts/*_networks.py",  # build, train or export official codebases
    "hosts/*_train.py",
    "hosts/*_resume.py",
    "hosts/*_snapshots.py",
    "hosts/*_adapter.py",
    "hosts/*_export.py",
    "tools/test_export.py",
    "experiments/test_run.py",  # start runners and kill them
    "experiments/test_seams.py",
    "experiments/test_slurm.py",
    "experiments/test_report_browser.py",  # drive a browser, or read data sets with the official codebases
    "experiments/datasets/test_people_hosts.py",
    "experiments/datasets/test_host_readers.py",
    "overlay/test_engine_crash.py",
    "ops/test_build.py",  # compile, or measure memory
    "ops/test_cuda_on_host.py",
    "ops/test_sampling_header.py",
    "ops/test_memory.py",
    "ops/test_onnx.py",
)


# The longest files run first. Two processes take file after file, and neither should wait for the other at the end.
FIRST = ("experiments/test_smoke.py", "experiments/test_slurm.py", "experiments/test_run.py", "hosts/test_networks.py",
         "hosts/*_resume.py", "hosts/*_train.py", "ops/test_build.py", "ops/test_cuda_*.py", "hosts/*.py")  # fmt: skip


def matches(item, patterns):
    path = item.path.relative_to(Path(__file__).parent)
    return next((i for i, pattern in enumerate(patterns) if path.match(pattern)), None)


def pytest_collection_modifyitems(items):
    for item in items:
        if matches(item, SLOW_FILES) is not None:
            item.add_marker(pytest.mark.slow)
    places = {item: place for item in items if (place := matches(item, FIRST)) is not None}
    items.sort(key=lambda item: places.get(item, len(FIRST)))
