"""experiments.ledger: what an entry says, and that the file survives what happens to files."""

import errno
import json
import multiprocessing
import os
import re
from pathlib import Path

import pytest

from experiments import ledger
from experiments.files import UserError
from experiments.ledger import append_entry, portable_command, provenance, read_entries


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out" / "ledger.jsonl"


def append_many(path: Path, name: int) -> None:
    for i in range(20):
        append_entry(path, {"event": "row", "row": f"{name}", "i": i, "padding": "x" * 10_000})


def test_entries_come_back_in_order_with_schema_and_utc_time(path):
    append_entry(path, {"event": "row", "row": "plain", "text": 'ü "|\n'})
    append_entry(path, {"event": "row", "row": "low"})
    entries, problems = read_entries(path)
    assert [entry["row"] for entry in entries] == ["plain", "low"]
    assert entries[0]["text"] == 'ü "|\n'
    assert entries[0]["schema"] == ledger.SCHEMA
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", entries[0]["time_utc"])
    assert problems == []


def test_appending_never_changes_what_is_there(path):
    append_entry(path, {"event": "row", "row": "a"})
    before = path.read_bytes()
    append_entry(path, {"event": "row", "row": "b"})
    assert path.read_bytes().startswith(before)
    assert path.read_bytes().count(b"\n") == 2


def test_a_torn_last_line_is_reported_and_does_not_swallow_the_next_entry(path):
    append_entry(path, {"event": "row", "row": "a"})
    with path.open("a") as file:
        file.write('{"schema": 1, "row": "to')
    entries, problems = read_entries(path)
    assert [entry["row"] for entry in entries] == ["a"]
    assert problems == ["ledger.jsonl: line 2 is torn (its writer was stopped) and was left out"]
    append_entry(path, {"event": "row", "row": "b"})
    entries, problems = read_entries(path)
    assert [entry["row"] for entry in entries] == ["a", "b"]
    assert len(problems) == 1


@pytest.mark.parametrize("line", ["[1]", "null", '{"event": "row"}', '{"schema": 1}', "\x00\x00", '{"schema": 1'])
def test_a_damaged_line_is_left_out_and_reported(path, line):
    append_entry(path, {"event": "row", "row": "a"})
    with path.open("a") as file:
        file.write(line + "\n")
    append_entry(path, {"event": "row", "row": "b"})
    entries, problems = read_entries(path)
    assert [entry["row"] for entry in entries] == ["a", "b"]
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
        assert [entry["i"] for entry in entries if entry["row"] == str(name)] == list(range(20))


def test_a_full_disk_leaves_the_ledger_as_it_was(path, monkeypatch):
    append_entry(path, {"event": "row", "row": "a"})
    before = path.read_bytes()
    real_write = os.write

    def write_a_little(descriptor: int, data: bytes) -> int:
        if len(data) > 10:
            return real_write(descriptor, data[: len(data) - 10])
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(ledger.os, "write", write_a_little)
    with pytest.raises(UserError, match="the disk is full"):
        append_entry(path, {"event": "row", "row": "b"})
    assert path.read_bytes() == before


def test_a_ledger_of_a_newer_version_is_refused(path):
    append_entry(path, {"event": "row", "row": "a"})
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 99'))
    with pytest.raises(UserError, match="schema 1 or older; got 99 in line 1"):
        read_entries(path)


def test_numbers_that_json_cannot_hold_are_refused(path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        append_entry(path, {"event": "row", "value": float("nan")})
    assert not path.exists()


def test_a_missing_ledger_is_empty(path):
    assert read_entries(path) == ([], [])


def test_the_provenance_names_versions_machine_and_commit():
    values = json.loads(json.dumps(provenance()))
    assert {"python", "torch", "numpy", "pillow", "mtm-ops"} <= set(values["versions"])
    assert values["versions"]["torch"] != "absent"
    assert values["machine"]["cores"] >= 1
    assert values["machine"]["cpu"]
    commit = values["git"]["commit"]
    assert commit is None or re.fullmatch("[0-9a-f]{40}", commit)


def test_a_copy_inside_another_repository_does_not_take_its_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "ROOT", tmp_path / "copy")
    (tmp_path / "copy").mkdir()
    ledger.subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    assert ledger.git_state() == {"commit": None, "dirty": None}


def test_commands_name_no_place_on_this_machine(tmp_path):
    out = tmp_path / "out"
    command = ["/opt/v/bin/python3.11", "-m", "x", "--outdir", str(out / "rows/a"), "--kimg", "3"]
    command += ["--data", "/home/me/cats.zip", "--table", str(ledger.ROOT / "experiments/run.py"), "--mtm", "low"]
    expected = "python -m x --outdir OUT/rows/a --kimg 3 --data .../cats.zip --table experiments/run.py --mtm low"
    assert " ".join(portable_command(command, out)) == expected


def test_what_trainers_note_names_no_place_on_this_machine(tmp_path):
    noted = {
        "run_dir": str(tmp_path / "rows/a"),
        "deep": [{"path": "/home/me/cats.zip"}],
        "kimg": 3,
        "text": "",
        "on": True,
    }
    expected = {"run_dir": "OUT/rows/a", "deep": [{"path": ".../cats.zip"}], "kimg": 3, "text": "", "on": True}
    assert ledger.portable_values(noted, tmp_path) == expected
