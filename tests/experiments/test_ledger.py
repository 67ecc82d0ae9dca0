"""experiments.ledger: what an entry contains, and that the file survives crashes, full disks and bad lines."""

import errno
import json
import multiprocessing
import os
import re
from pathlib import Path

import pytest

from experiments import ledger
from experiments.files import UserError
from experiments.ledger import append_entry, read_entries

ROW = {
    "event": "row",
    "seed": 0,
    "run": "runs/a/0-1",
    "status": "done",
    "wall_s": 1.0,
    "peak_rss_bytes": 1,
    "metrics": {},
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out" / "ledger.jsonl"


def append_many(path: Path, name: int) -> None:
    for i in range(20):
        append_entry(path, ROW | {"row": f"{name}", "i": i, "padding": "x" * 10_000})


def test_entries_come_back_in_order_with_schema_and_utc_time(path):
    append_entry(path, ROW | {"row": "plain", "text": 'ü "|\n'})
    append_entry(path, ROW | {"row": "low"})
    entries, problems = read_entries(path)
    assert [entry.row for entry in entries] == ["plain", "low"]
    assert entries[0].model_extra["text"] == 'ü "|\n'
    assert json.loads(path.read_text().splitlines()[0])["schema"] == ledger.SCHEMA
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", entries[0].time_utc)
    assert problems == []


def test_appending_never_changes_what_is_there(path):
    append_entry(path, ROW | {"row": "a"})
    before = path.read_bytes()
    append_entry(path, ROW | {"row": "b"})
    assert path.read_bytes().startswith(before)
    assert path.read_bytes().count(b"\n") == 2


def test_a_torn_last_line_is_reported_and_does_not_swallow_the_next_entry(path):
    append_entry(path, ROW | {"row": "a"})
    with path.open("a") as file:
        file.write('{"schema": 1, "row": "to')
    entries, problems = read_entries(path)
    assert [entry.row for entry in entries] == ["a"]
    assert problems == ["ledger.jsonl: line 2 is incomplete (its writer was stopped) and was left out"]
    append_entry(path, ROW | {"row": "b"})
    entries, problems = read_entries(path)
    assert [entry.row for entry in entries] == ["a", "b"]
    assert len(problems) == 1


@pytest.mark.parametrize(
    "line",
    [
        "[1]",
        "null",
        '{"event": "row"}',
        '{"schema": 2}',
        "\x00\x00",
        '{"schema": 1',
        '{"event": "row", "schema": Infinity}',
    ],
)
def test_a_damaged_line_is_left_out_and_reported(path, line):
    append_entry(path, ROW | {"row": "a"})
    with path.open("a") as file:
        file.write(line + "\n")
    append_entry(path, ROW | {"row": "b"})
    entries, problems = read_entries(path)
    assert [entry.row for entry in entries] == ["a", "b"]
    assert problems == ["ledger.jsonl: line 2 is damaged and was left out"]


def test_processes_that_append_at_once_do_not_mix_their_lines(path):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=append_many, args=(path, name)) for name in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    entries, problems = read_entries(path)
    assert problems == []
    for name in range(4):
        assert [entry.model_extra["i"] for entry in entries if entry.row == str(name)] == list(range(20))


def test_a_full_disk_leaves_the_ledger_as_it_was(path, monkeypatch):
    append_entry(path, ROW | {"row": "a"})
    before = path.read_bytes()
    real_write = os.write

    def write_a_little(descriptor: int, data: bytes) -> int:
        if len(data) > 10:
            return real_write(descriptor, data[: len(data) - 10])
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(ledger.os, "write", write_a_little)
    with pytest.raises(UserError, match="the disk is full"):
        append_entry(path, ROW | {"row": "b"})
    assert path.read_bytes() == before


def test_a_ledger_of_a_newer_version_is_refused(path):
    append_entry(path, ROW | {"row": "a"})
    path.write_text(path.read_text().replace('"schema": 2', '"schema": 99'))
    with pytest.raises(UserError, match="schema 2 or older; got 99 in line 1"):
        read_entries(path)


def test_numbers_that_json_cannot_hold_become_null(path):
    append_entry(path, ROW | {"row": "a", "value": float("nan"), "deep": [{"x": float("-inf")}], "kimg": float("inf")})
    (entry,), problems = read_entries(path)
    assert problems == []
    assert entry.kimg is None
    assert entry.model_extra["value"] is None
    assert entry.model_extra["deep"] == [{"x": None}]
    assert not re.search("NaN|Infinity", path.read_text())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"wall_s": ...}, "ledger.jsonl: line 1 must have the keys wall_s; got none"),
        (
            {"metrics": {"fid": "abc"}},
            "ledger.jsonl: line 1: metrics.fid must have the right type; expected a table, got",
        ),
        (
            {"metrics": {"fid": {"value": [3], "fingerprint": {}}}},
            r"metrics.fid.value must have the right type; expected a number, got \[3\]",
        ),
        (
            {"status": "great"},
            "status must have the right type; expected 'done', 'failed' or 'interrupted', got 'great'",
        ),
        ({"wall_s": float("nan")}, "wall_s must have the right type; expected a number, got None"),
        ({"peak_rss_bytes": 10**400}, "peak_rss_bytes must have the right type; expected .*, got 1000"),
    ],
)
def test_an_entry_that_is_wrong_is_left_out_and_says_why(path, change, message):
    values = {k: v for k, v in (ROW | {"row": "a"} | change).items() if v is not ...}
    append_entry(path, values)
    append_entry(path, ROW | {"row": "b"})
    entries, problems = read_entries(path)
    assert [entry.row for entry in entries] == ["b"]
    assert len(problems) == 1
    assert re.search(message, problems[0]), problems


def test_characters_that_utf_8_cannot_hold_are_replaced(path):
    """Paths may be in another encoding. Covers an entry that we write and a line written by another program."""
    append_entry(path, ROW | {"row": "a", "commands": ["train --data=/tmp/\udcff"]})
    path.write_text(path.read_text() + json.dumps(json.loads(path.read_text()) | {"message": "\ud800"}) + "\n")
    entries, problems = read_entries(path)
    assert problems == []
    assert [entry.commands for entry in entries] == [["train --data=/tmp/\N{REPLACEMENT CHARACTER}"]] * 2
    assert entries[1].message == "\N{REPLACEMENT CHARACTER}"


def test_a_missing_ledger_is_empty(path):
    assert read_entries(path) == ([], [])
