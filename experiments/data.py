"""Data sets for the runner: made once by their recipe, kept in a cache, described by their content."""

import hashlib
import json
import subprocess
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path

from experiments.datasets import RECIPES
from experiments.datasets.listing import SOURCE_SUFFIXES
from experiments.datasets.recipe import read_manifest
from experiments.datasets.zips import DatasetInfo, describe
from experiments.files import UserError, atomic_output, disk_errors
from experiments.table import Dataset, Table
from experiments.trainers.contract import Step

TOOL = ("-m", "tools.data")


class Data:
    """The data sets of one table. `sources` maps data sets to the user's paths: the publisher's files or, for a
    rendered data set, the user's own images (Table.with_data). `cache` is the folder of finished data sets."""

    def __init__(self, table: Table, sources: dict[str, Path], cache: Path, skip_broken: bool = False) -> None:
        self._table, self.sources, self.cache, self._skip_broken = table, sources, cache, skip_broken
        self._stamps: dict[str, list] = {}

    def path(self, name: str) -> Path:
        """The path of the zip of data set `name`, whether or not it exists yet. The file's name changes with everything
        that can change its content: options, source files and the code of the recipe."""
        if (made := self.given(name)) is not None:
            return made
        dataset = self._table.datasets[name]
        identity = json.dumps([dataset.recipe, self._options(dataset), self._source_stamp(name)])
        key = hashlib.sha256(identity.encode())
        for source in RECIPES[dataset.recipe].sources:
            key.update(source.read_bytes())
        return self.cache / f"{self._table.family}-{name}-{key.hexdigest()[:12]}.zip"

    def given(self, name: str) -> Path | None:
        """The user's source if it is the finished data set, as tools.data writes it; else None."""
        source = self.sources.get(name)
        if source is None or source.suffix != ".zip" or not source.is_file():
            return None
        try:
            made = read_manifest(source).get("recipe")
        except UserError:
            return None
        return source if made == self._table.datasets[name].recipe else None

    def step(self, name: str) -> Step:
        """The command that makes the data set; SOURCE is a placeholder for a source that the user has not given yet."""
        dataset = self._table.datasets[name]
        recipe = RECIPES[dataset.recipe]
        source = [str(self.sources.get(name, "SOURCE"))] * recipe.takes_source
        argv = ["python", *TOOL, dataset.recipe, *source, str(self.path(name)), *self._options(dataset)]
        if recipe.source_option and name in self.sources:
            argv.append(f"--{recipe.source_option}={self.sources[name]}")
        return Step(name="data", argv=argv)

    def prepare(self, name: str) -> tuple[Path, DatasetInfo]:
        """Makes the data set unless it exists; returns its zip and its description.

        Raises UserError if the recipe fails; by then the recipe has printed its own message to stderr.
        """
        path = self.path(name)
        if not path.exists():
            with disk_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
            command = [sys.executable, *self.step(name).argv[1:]]
            code = subprocess.run(command, stdout=2).returncode  # its stdout goes to our stderr
            if code or not path.exists():
                raise UserError(f"Failed to create the data set {name!r} (exit code {code}); see above.")
            _remember(path, _as_made(path))
        return path, described(path)

    def known(self, name: str) -> DatasetInfo | None:
        """The description of the data set if it exists and has been described before; else None. Writes nothing."""
        path = self.path(name)
        return described(path) if path.exists() and path.with_suffix(".json").exists() else None

    def check_sources(self, names: list[str]) -> None:
        """Raises UserError, before any work is done, if a source is missing or of the wrong kind."""
        for name in names:
            recipe = RECIPES[self._table.datasets[name].recipe]
            if recipe.takes_source and name not in self.sources and not self.path(name).exists():
                raise UserError(f"run: data set {name} must be given: --data {name}=PATH. {recipe.obtain}")
        for name in self.sources:
            self.check_source(name)

    def check_source(self, name: str) -> None:
        """Raises UserError if the user's source for the data set does not exist or is of the wrong kind."""
        if self.given(name) is None:
            RECIPES[self._table.datasets[name].recipe].check(self.sources[name])

    def _options(self, dataset: Dataset) -> list[str]:
        can_skip = any(option.name == "skip_broken" for option in RECIPES[dataset.recipe].options)
        options = dataset.options | ({"skip-broken": True} if self._skip_broken and can_skip else {})
        flags = [f"--{key}" for key, value in options.items() if value is True]
        return flags + [f"--{key}={value}" for key, value in options.items() if not isinstance(value, bool)]

    def _source_stamp(self, name: str) -> list:
        """`_stamp` of the user's files, computed once."""
        source = self.sources.get(name)
        if source is None or not source.exists():
            return []
        if name not in self._stamps:
            self._stamps[name] = _stamp(source)
        return self._stamps[name]


def _stamp(source: Path) -> list:
    """Names, sizes and modification times of a source's files: cheap to read, and changes whenever a file does."""
    files = [source] if source.is_file() else sorted(source.rglob("*"))
    kept = [f for f in files if f.is_file() and (f == source or _matters(f))]
    return [[str(source.resolve())], *[[str(f), f.stat().st_size, f.stat().st_mtime_ns] for f in kept]]


def described(path: Path) -> DatasetInfo:
    """`describe`, cached in a file beside the zip because it takes minutes for a large data set. Never overwrites a
    file that this module did not write."""
    info = remembered(path)
    if info is None:
        info = describe(path)
        if _is_ours(path.with_suffix(".json")):
            _remember(path, info)
    return info


def remembered(path: Path) -> DatasetInfo | None:
    """The description that `described` cached for the zip in its current state; None if there is none."""
    try:
        stat = path.stat()
        note = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        if note["stamp"] == [stat.st_size, stat.st_mtime_ns]:
            return DatasetInfo(**note["info"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # missing, truncated or of another version
    return None


def _is_ours(note: Path) -> bool:
    """Whether the file may be written: it does not exist, is empty, or begins as `_remember` writes it."""
    try:
        return note.read_bytes()[:9] in (b'{"stamp":', b"")
    except OSError:
        return not note.exists()


def _remember(path: Path, info: DatasetInfo) -> None:
    stat = path.stat()
    with atomic_output(path.with_suffix(".json")) as temporary:
        note = {"stamp": [stat.st_size, stat.st_mtime_ns], "info": asdict(info)}
        temporary.write_text(json.dumps(note), encoding="utf-8")


def _as_made(path: Path) -> DatasetInfo:
    """The description of a new zip from its manifest, without the lists in its notes. `describe` would read every image
    again, which takes the better part of an hour for a million images."""
    manifest = read_manifest(path)
    info = DatasetInfo(**{field.name: manifest[field.name] for field in fields(DatasetInfo)})
    return replace(info, notes={key: value for key, value in info.notes.items() if not isinstance(value, list)})


def _matters(file: Path) -> bool:
    return file.suffix.lower() in (*SOURCE_SUFFIXES, ".bvh") or file.name == "dataset.json"
