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
from experiments.table import Dataset, Table
from experiments.trainers.contract import ROOT, Step


class Data:
    """The datasets of one table. `sources` are the user's own by the data set they stand for; `cache` is the folder
    that keeps what was made."""

    def __init__(self, table: Table, sources: dict[str, Path], cache: Path, skip_broken: bool = False) -> None:
        self._table, self._sources, self._cache, self._skip_broken = table, sources, cache, skip_broken

    def path(self, name: str) -> Path:
        """Where the zip of dataset `name` is, or will be; the name changes with whatever changes its content."""
        identity = json.dumps([self._recipe(name), self._source_stamp(name)])
        key = hashlib.sha256(identity.encode())
        for source in self._table.datasets[name].sources:
            key.update((ROOT / source).read_bytes() if (ROOT / source).exists() else b"")
        return self._cache / f"{self._table.name}-{name}-{key.hexdigest()[:12]}.zip"

    def step(self, name: str) -> Step:
        """The command that makes it."""
        return Step(name="data", argv=[*self._recipe(name), f"--out={self.path(name)}"])

    def prepare(self, name: str) -> tuple[Path, DatasetInfo]:
        """Makes the dataset unless it is there, and returns its zip and what it holds.

        Raises UserError when the recipe fails (its own message stands above, on stderr).
        """
        path = self.path(name)
        if not path.exists():
            with disk_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
            command = [sys.executable if word == "python" else word for word in self.step(name).argv]
            code = subprocess.run(command, stdout=2).returncode  # what it says goes to stderr
            if code or not path.exists():
                raise UserError(
                    f"Failed to create the data set {name!r} (exit code {code}); what it says stands above."
                )
        return path, described(path)

    def known(self, name: str) -> DatasetInfo | None:
        """What the data set holds, where it is made and was described already; writes nothing."""
        path = self.path(name)
        return described(path) if path.exists() and path.with_suffix(".json").exists() else None

    def check_source(self) -> None:
        """Raises UserError now, before any work, if the user's data cannot be what it should."""
        for source in self._sources.values():
            open_source(source)

    def _recipe(self, name: str) -> list[str]:
        dataset: Dataset = self._table.datasets[name]
        words = [*dataset.make, *[f"--{key}={value}" for key, value in dataset.options.items()]]
        if name in self._sources:
            words += [f"--source={self._sources[name]}"] + ["--skip-broken"] * self._skip_broken
        return words

    def _source_stamp(self, name: str) -> list:
        """Names, sizes and times of the user's files: cheap, and changes whenever they do."""
        source = self._sources.get(name)
        if source is None or not source.exists():
            return []
        files = [source] if source.is_file() else sorted(source.rglob("*"))
        kept = [f for f in files if f.is_file() and (f == source or _matters(f))]
        return [[str(source.resolve())], *[[str(f), f.stat().st_size, f.stat().st_mtime_ns] for f in kept]]


def described(path: Path) -> DatasetInfo:
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
