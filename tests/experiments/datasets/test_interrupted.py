"""A build that is killed or stopped ends its worker processes, and the next run continues where it stopped."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from test_parts import SHARD_BYTES, SHARD_NIMG, build, images, work_of

from experiments.datasets import published
from experiments.datasets.decode import Decoder

BUILD = """
import sys
from experiments.datasets import published
published.SHARD_BYTES = {shard_bytes}
from tools.data import main
main(prog_name="data")
"""


@pytest.fixture
def slow_source(tmp_path: Path) -> Path:
    """Images large enough that a build is still running when it is killed."""
    return images(tmp_path / "slow", 1200, 900)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the items decoded in this process. Shards are as small as in the builds that the tests start."""
    names: list[str] = []
    decode = Decoder.__call__
    monkeypatch.setattr(published, "SHARD_BYTES", SHARD_BYTES)
    monkeypatch.setattr(Decoder, "__call__", lambda self, item: (names.append(item.name), decode(self, item))[1])
    return names


def started(source: Path, dest: Path, processes: int = 2) -> subprocess.Popen:
    command = [sys.executable, "-c", BUILD.format(shard_bytes=SHARD_BYTES), "imagenet-128", str(source), str(dest)]
    options = ["--partial", f"--processes={processes}"]
    return subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for_parts(work: Path, count: int) -> None:
    end = time.monotonic() + 30
    while len(list(work.glob("*.json"))) < count:
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_build_that_is_killed_goes_on_where_it_was_and_gives_the_same_bytes(slow_source, tmp_path, decoded):
    whole = build(slow_source, tmp_path / "whole.zip")
    assert len(decoded) == 60
    dest = tmp_path / "killed.zip"
    process = started(slow_source, dest)
    wait_for_parts(work_of(dest), 3)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    assert not dest.exists()
    psutil.wait_procs(workers, timeout=10)
    assert not [worker for worker in workers if worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE]
    there = len(list(work_of(dest).glob("*.json")))
    assert 3 <= there < 15
    decoded.clear()
    assert build(slow_source, dest) == whole
    assert len(decoded) == 60 - there * SHARD_NIMG


def test_ctrl_c_ends_the_workers_and_says_how_to_go_on(slow_source, tmp_path, decoded):
    dest = tmp_path / "stopped.zip"
    process = started(slow_source, dest)
    wait_for_parts(work_of(dest), 2)
    workers = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "Stopped. Decoded files are kept: run the same command again to resume." in said
    assert "Traceback" not in said
    psutil.wait_procs(workers, timeout=10)
    assert not [worker for worker in workers if worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE]
    assert len(build(slow_source, dest)) > 60 * 3 * 128**2
