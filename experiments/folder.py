"""A run's output folder: held by one run at a time, and for ever by the same table, data and options."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from experiments.datasets.zips import DatasetInfo
from experiments.files import UserError, atomic_output, disk_errors
from experiments.results import STATE_NAME, read_state
from experiments.table import Table

STATE_SCHEMA = 1


def identity(table: Table, datasets: dict[str, DatasetInfo]) -> dict[str, Any]:
    """What must be the same for a run to be continued in a folder. Titles, credits and `parallel` may change."""
    rows = {row.id: asdict(row) | {"title": "", "paper": {}, "baseline": None} for row in table.rows}
    return {
        "table": table.name,
        "preset": table.preset,
        "rows": rows,
        "hosts": {name: asdict(host) for name, host in table.hosts.items()},
        "samples_nimg": {name: metric.samples_nimg for name, metric in table.metrics.items()},
        "data": {name: info.content_sha256 for name, info in datasets.items()},
    }


def differences(before: Any, now: Any, where: str = "") -> list[str]:
    """Where two identities differ, as lines 'rows.plain.options.kimg: there 20, here 30'."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*before, *[key for key in now if key not in before]]
        if where == "data":  # a run of some rows describes only their data
            keys = [key for key in before if key in now]
        return [
            line
            for key in keys
            for line in differences(before.get(key), now.get(key), f"{where}.{key}" if where else key)
        ]
    return [] if before == now else [f"{where}: there {_short(before)}, here {_short(now)}"]


def _short(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value)
    return text if len(text) <= 40 else text[:18] + "..." + text[-18:]


@contextmanager
def locked(out: Path) -> Iterator[int]:
    """Holds the folder for this run and its children; yields the lock's descriptor. Raises UserError if it is held."""
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(out / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            raise UserError(
                f"run: out must be used by one run at a time; expected a free folder, got {str(out)!r}, which process "
                f"{holder} (or its trainers) still uses. Wait for it, or choose another folder: OUT=..."
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def claim(out: Path, table: Table, datasets: dict[str, DatasetInfo], own_data: bool) -> None:
    """Makes the folder this run's, or checks that it is already. Raises UserError naming what differs."""
    now = identity(table, datasets)
    described = {name: asdict(info) for name, info in datasets.items()}
    if before := read_state(out):
        if lines := differences(before["identity"], now):
            refuse(out, lines)
        described = before["datasets"] | described
        now["data"] = before["identity"]["data"] | now["data"]
    elif foreign := sorted(p.name for p in out.iterdir() if p.name != ".lock"):
        raise UserError(
            f"run: out must be a run's folder or empty; expected no other files, got {', '.join(foreign[:5])} in "
            f"{str(out)!r}. Choose another folder: OUT=..."
        )
    values = {"schema": STATE_SCHEMA, "identity": now, "table": table.as_dict(), "datasets": described}
    with atomic_output(out / STATE_NAME) as temporary:
        temporary.write_text(json.dumps(values | {"own_data": own_data}, indent=1), encoding="utf-8")


def check_same_run(out: Path, table: Table) -> None:
    """The part of `claim` that needs no data."""
    state = read_state(out)
    if state and (lines := differences({**state["identity"], "data": {}}, identity(table, {}))):
        refuse(out, lines)


def refuse(out: Path, lines: list[str]) -> NoReturn:
    """Raises the UserError for a folder that holds another run."""
    raise UserError(
        f"run: out must hold this same run, or nothing; expected the same table, data and options, got {str(out)!r}, "
        "which differs:\n  " + "\n  ".join(lines[:12]) + "\nChoose another folder for this run: OUT=... "
        "(or remove that one)."
    )
