"""The ledger: one line of JSON for every attempt at a run and for every call of the runner. It is append-only.

It records what is needed to reproduce and judge a number: commands, commits, patches, versions, machine, seed, options,
the data's content, the metrics' fingerprints, cost and outcome. It contains no path of the machine; OUT stands for the
output folder.
"""

import fcntl
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict

from experiments.checked import Bytes, Checked, Number, Seconds, check, storable
from experiments.files import UserError, disk_errors
from experiments.trainers.contract import Measured

SCHEMA = 2
NAME = "ledger.jsonl"


class Attempt(Checked):
    """The part of an attempt's entry that the report reads; an entry holds more (experiments.row.ledger_entry)."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    time_utc: str
    row: str
    run: str  # the run's folder, relative to OUT
    seed: int
    status: Literal["done", "failed", "interrupted"]
    message: str = ""  # why it failed
    kimg: Number = None
    wall_s: Seconds
    peak_rss_bytes: Bytes
    metrics: dict[str, Measured]
    commands: list[str] = []
    dataset: dict[str, Any] = {}
    trainer: dict[str, Any] = {}  # what the trainer recorded about its options
    git: dict[str, Any] = {}
    host: dict[str, Any] | None = None
    versions: dict[str, str] = {}
    machine: dict[str, Any] = {}


class Call(Checked):
    """A call of the runner that had something to run."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    wall_s: Seconds
    peak_rss_bytes: Bytes


Entry = dict[str, Any]
KINDS: dict[str, type[Attempt] | type[Call]] = {"row": Attempt, "call": Call}


def append_entry(path: Path, entry: Entry) -> None:
    """Appends one entry, with schema and time added, and returns once it is on the disk.

    Replaces values that JSON or UTF-8 cannot hold (`storable`). Several processes may append at once. If the machine
    stopped in the middle of the last line, that line is ended first, so that it does not absorb the new entry.
    """
    values = storable({"schema": SCHEMA, "time_utc": utc_now(), **entry})
    line = json.dumps(values, allow_nan=False, ensure_ascii=False)
    if "\n" in line:
        raise AssertionError("json.dumps wrote a line break")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            size = os.fstat(descriptor).st_size
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            data = ("\n" * torn + line + "\n").encode()
            _write_all(descriptor, data, size)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _write_all(descriptor: int, data: bytes, size_before: int) -> None:
    try:
        written = os.write(descriptor, data)
        while written < len(data):
            written += os.write(descriptor, data[written:])
    except OSError:
        os.ftruncate(descriptor, size_before)  # on a full disk the ledger stays as it was
        raise


def read_entries(path: Path) -> tuple[list[Attempt | Call], list[str]]:
    """All entries in order, and a list of problems with the file as text (empty if there are none).

    Lines that are not entries are skipped and reported. Raises UserError for an entry of a newer schema.
    """
    entries: list[Attempt | Call] = []
    problems: list[str] = []
    if not path.exists():
        return entries, problems
    lines = path.read_bytes().decode("utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            values = storable(json.loads(line))
            kind, schema = KINDS[values.pop("event")], int(values.pop("schema"))
        except (ValueError, KeyError, TypeError, AttributeError):
            torn = "incomplete (its writer was stopped)" if number >= len(lines) - 1 else "damaged"
            problems.append(f"{path.name}: line {number} is {torn} and was left out")
            continue
        if schema > SCHEMA:
            raise UserError(
                f"read_entries: {path.name} must be of schema {SCHEMA} or older; got {schema} in line {number}. "
                "Update this checkout (git pull)."
            )
        try:
            entries.append(check(kind, values, f"{path.name}: line {number}"))
        except UserError as error:
            problems.append(f"left out: {error}")
    return entries, problems


def utc_now() -> str:
    """The current time in UTC, to the second, as 2026-01-31T12:00:00Z."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
