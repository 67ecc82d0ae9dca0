"""The output folder OUT: its content, its owner, and the folders of its runs. docs/running.md shows the layout.

A run's folder is OUT/runs/<row>/<seed>-<identity8>. The identity is everything that decides the result of the training:
trainer, options, the data's content, and the host's commit and patches. So a changed option makes another folder, and
an old result is never mistaken for a new one. A new row, title, metric or number of samples changes no run.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from experiments.checked import Checked, read_json, read_object
from experiments.files import UserError, atomic_output, disk_errors
from experiments.paper_tables import merged
from experiments.provenance import host_state
from experiments.table import Row, Table, table_from_dict
from experiments.trainers import TRAINERS
from experiments.trainers.contract import RUN, Run

STATE_NAME = "table.json"
STATE_SCHEMA = 2
LOCK = ".lock"


class OutState(Checked):
    """OUT's table.json: the table of the last call, its data, and the folder of each run, relative to OUT, by row and
    seed."""

    schema_version: int
    table: dict[str, Any]
    datasets: dict[str, dict[str, Any]]
    runs: dict[str, dict[str, str]]


def identity(row: Row, content_sha256: str) -> dict[str, Any]:
    """Everything that must be unchanged for a run of this row to be continued, except the seed, which is in the
    folder's name."""
    trainer = TRAINERS[row.trainer]
    return {
        "trainer": trainer.name,
        "version": trainer.version,
        "options": row.options,
        "data": content_sha256,
        "host": host_state(trainer.host) if trainer.host else None,
    }


def run_folder(out: Path, row: str, seed: int, identity: dict[str, Any]) -> Path:
    """The folder of the run."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return out / "runs" / row / f"{seed}-{digest[:8]}"


def differences(before: Any, now: Any, where: str = "") -> list[str]:
    """The differences of two identities, as lines such as 'options.kimg: there 20, here 30'."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*before, *[key for key in now if key not in before]]
        return [
            line
            for key in keys
            for line in differences(before.get(key), now.get(key), f"{where}.{key}" if where else key)
        ]
    return [] if before == now else [f"{where}: there {_short(before)}, here {_short(now)}"]


def _short(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value)
    return text if len(text) <= 40 else text[:18] + "..." + text[-18:]


def others(run: Run) -> list[str]:
    """One line for each other run of this row and seed in OUT, with the differences."""
    lines = []
    for folder in sorted(run.folder.parent.glob(f"{run.seed}-*")):
        if folder != run.folder and (folder / RUN).exists():
            try:
                what = "; ".join(differences(read_object(folder / RUN).get("identity"), run.identity)[:4])
            except UserError as error:
                what = str(error)
            lines.append(f"{folder.name} is kept: {what}")
    return lines


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Locks OUT for one runner at a time. Raises UserError if another one holds it. Runs have locks of their own."""
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(out / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            raise UserError(
                f"run: out must be used by one runner at a time; expected a free folder, got {str(out)!r}, which "
                f"process {holder} still uses. Wait for it, or choose another folder: OUT=..."
            ) from None
        except OSError as error:  # ENOLCK, ENOSYS: some shared file systems
            raise UserError(
                f"run: out must be on a file system with file locks (flock); got {str(out)!r}, where they fail: "
                f"{error.strerror}. Choose a folder on another one: OUT=..."
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def in_use(folder: Path) -> bool:
    """Whether a run's process, or a trainer that outlived that process, holds the run's lock."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)


def read_state(out: Path) -> OutState | None:
    """OUT's table.json, or None if there is none."""
    return read_json(OutState, out / STATE_NAME) if (out / STATE_NAME).exists() else None


def check_owner(out: Path, table: Table) -> OutState | None:
    """Raises UserError if OUT holds another table or preset, or files that do not come from a run. Tables with the same
    base may share a folder: a run that appears in several of them is done once."""
    state = read_state(out)
    if state is not None:
        there = (state.table.get("base") or state.table["name"], state.table["preset"])
        here = (table.family, table.preset)
        if there != here:
            raise UserError(
                f"run: out must hold this table and preset, or nothing; expected {' '.join(here)}, got {str(out)!r}, "
                f"which holds {' '.join(there)}. Choose another folder: OUT=..."
            )
    elif out.exists() and not out.is_dir():
        raise UserError(f"run: OUT must be a folder; got the file {str(out)!r}. Choose another: OUT=...")
    elif out.exists() and (foreign := sorted(p.name for p in out.iterdir() if p.name != LOCK)):
        raise UserError(
            f"run: out must be a run's folder or empty; expected no other files, got {', '.join(foreign[:5])} in "
            f"{str(out)!r}. Choose another folder: OUT=..."
        )
    return state


def claim(out: Path, table: Table, datasets: dict[str, dict[str, Any]], runs: list[Run]) -> None:
    """Records table, data and runs in OUT; keeps what an earlier call recorded about other rows."""
    before = check_owner(out, table)
    if before and table.base:
        table = merged(table_from_dict(before.table, STATE_NAME), table)
    known = {**before.runs} if before else {}
    for run in runs:
        known[run.row] = known.get(run.row, {}) | {str(run.seed): run.folder.relative_to(out).as_posix()}
    values = {
        "schema_version": STATE_SCHEMA,
        "table": table.model_dump(),
        "datasets": (before.datasets if before else {}) | datasets,
        "runs": known,
    }
    _write(out / STATE_NAME, values)
    for run in runs:
        _write(run.folder / RUN, run.written())


def _write(path: Path, values: dict[str, Any]) -> None:
    with atomic_output(path) as temporary:
        temporary.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
