"""Datasets for the runner: made by their recipe once, kept in a cache, described by their content."""

import hashlib
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from experiments.datasets.images import SUFFIXES, open_source
from experiments.datasets.zips import DatasetInfo, describe
from experiments.files import UserError, atomic_output, disk_errors
from experiments.ledger import ROOT
from experiments.table import Dataset, Table, Value


def flags(options: dict[str, Value]) -> list[str]:
    """{"snap-kimg": 1, "fast": True, "slow": False} as ["--snap-kimg", "1", "--fast"]."""
    words: list[str] = []
    for key, value in options.items():
        if value is False:
            continue
        words += [f"--{key}"] if value is True else [f"--{key}", f"{value}"]
    return words


class Data:
    """The datasets of one run. `source` is the user's DATA or None; `cache` the folder that keeps what was made."""

    def __init__(self, table: Table, source: Path | None, cache: Path, skip_broken: bool = False) -> None:
        self._table, self._source, self._cache, self._skip_broken = table, source, cache, skip_broken

    def path(self, name: str) -> Path:
        """Where the zip of dataset `name` is, or will be; the name changes with whatever changes its content."""
        identity = json.dumps([self._recipe(name), self._source_stamp(name)])
        key = hashlib.sha256(identity.encode())
        for source in self._table.datasets[name].sources:
            key.update((ROOT / source).read_bytes() if (ROOT / source).exists() else b"")
        return self._cache / f"{self._table.name}-{name}-{key.hexdigest()[:12]}.zip"

    def command(self, name: str) -> list[str]:
        """The command that makes it."""
        return [*self._recipe(name), "--out", str(self.path(name))]

    def prepare(self, name: str) -> tuple[Path, DatasetInfo]:
        """Makes the dataset unless it is there, and returns its zip and what it holds.

        Raises UserError when the recipe fails (its own message stands above, on stderr).
        """
        path = self.path(name)
        if not path.exists():
            with disk_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
            command = [sys.executable if word == "python" else word for word in self.command(name)]
            code = subprocess.run(command, stdout=2).returncode  # what it says goes to stderr
            if code or not path.exists():
                raise UserError(f"prepare: making dataset {name!r} must succeed; it ended with {code} (see above).")
        return path, self._described(path)

    def check_source(self) -> None:
        """Raises UserError now, before any work, if the user's DATA cannot be what it should."""
        if self._source is not None:
            open_source(self._source)

    def _recipe(self, name: str) -> list[str]:
        dataset: Dataset = self._table.datasets[name]
        words = [*dataset.make, *flags(dataset.options)]
        if name == "user":
            words += ["--source", str(self._source)] + ["--skip-broken"] * self._skip_broken
        return words

    def _source_stamp(self, name: str) -> list:
        """Names, sizes and times of the user's files: cheap, and changes whenever they do."""
        if name != "user" or self._source is None or not self._source.exists():
            return []
        files = [self._source] if self._source.is_file() else sorted(self._source.rglob("*"))
        kept = [f for f in files if f.is_file() and (f == self._source or _matters(f))]
        return [[str(self._source.resolve())], *[[str(f), f.stat().st_size, f.stat().st_mtime_ns] for f in kept]]

    def _described(self, path: Path) -> DatasetInfo:
        """`describe`, remembered beside the zip: for a large dataset it takes minutes."""
        note, stat = path.with_suffix(".json"), path.stat()
        stamp = [stat.st_size, stat.st_mtime_ns]
        try:
            remembered = json.loads(note.read_text(encoding="utf-8"))
            if remembered["stamp"] == stamp:
                return DatasetInfo(**remembered["info"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # absent, torn or of another version: made anew
        info = describe(path)
        with atomic_output(note) as temporary:
            temporary.write_text(json.dumps({"stamp": stamp, "info": asdict(info)}), encoding="utf-8")
        return info


def _matters(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES or file.name == "dataset.json"
