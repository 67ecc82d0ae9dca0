"""make smoke's table: every official codebase, plain and with MTM, each killed in its training and gone on with."""

import json
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest
from repository_lab import Repository

from experiments.files import UserError
from experiments.table import load_table
from mtm_hosts.hosts import HOSTS

WORDS = ("-m", "experiments.run", "smoke", "--out", "out")


def test_every_codebase_is_in_the_table_with_and_without_mtm() -> None:
    table = load_table("smoke")
    assert {row.trainer for row in table.rows} == HOSTS.keys()
    pairs = list(zip(table.rows[::2], table.rows[1::2], strict=True))
    for plain, mtm in pairs:
        assert (plain.mtm, mtm.mtm, mtm.baseline) == ("none", "low", plain.id)
        assert {**plain.options, "mtm": "low"} == mtm.options
    assert len(pairs) == 5
    assert table.meaningless


def test_images_of_ones_own_cannot_stand_in_for_clips() -> None:
    table = load_table("smoke")
    assert table.with_data(["openmoji", "openmoji-views"]).datasets["openmoji-views"].recipe == "images"
    with pytest.raises(UserError, match="--data must stand for a data set of images; got openmoji-clips"):
        table.with_data(["openmoji", "openmoji-clips"])


def kill_once_it_trains(repository: Repository, row: str) -> None:
    """Runs the table until that row has its first training state, and kills runner, rows and trainers."""
    runner = repository.start(*WORDS)
    out, end = repository.root / "out", time.monotonic() + 900
    while not list(out.glob(f"runs/{row}/*/train/**/training-state-*.pt")):
        assert runner.poll() is None, runner.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.05)
    states = [json.loads(path.read_text()) for path in out.glob("runs/*/*/state.json")]
    running = [state for state in states if state["status"] == "running"]
    for pid in (runner.pid, *(state[who] for state in running for who in ("pid", "child_pid"))):
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    runner.communicate()


@pytest.mark.slow
def test_killed_in_every_codebase_it_goes_on_and_shows_all_of_them(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "copy")
    for host in HOSTS:
        repository.patch(host)
    rows = [row.id for row in load_table("smoke").rows if row.baseline]
    for row in rows:
        kill_once_it_trains(repository, row)
    printed = repository.python(*WORDS)
    out = repository.root / "out"
    for row in rows:
        (log,) = out.glob(f"runs/{row}/*/log.txt")
        assert "Resume: exactly as" in log.read_text()
    entries = [json.loads(line) for line in (out / "ledger.jsonl").read_text().splitlines()]
    done = {entry["row"] for entry in entries if entry["event"] == "row" and entry["status"] == "done"}
    assert len(done) == 10, printed
    assert (out / "contact.png").is_file()
    assert 'href="contact.png"' in (out / "report.html").read_text()
    for video in ("stylegan-v", "stylesv"):
        assert list(out.glob(f"runs/{video}-mtm/*/images/films.png"))
