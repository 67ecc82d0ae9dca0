"""The pretrained networks that the metrics need: their list (weights.toml), and their verified files.

A weights folder holds the files under the names in weights.toml, and beside them:

    stand-ins.toml    name -> sha256 of seeded random weights in place of the real file; their numbers are labelled
    pinned.toml       name -> sha256 recorded at first use, for files whose hash nobody publishes
    .FILE.sha256      cached hash of FILE with its size and times, so that 1 GB is not read at every start

A file's hash is checked before anything opens the file, because some files are pickles, which can execute code.
"""

import importlib.util
import os
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import model_validator

from experiments.checked import Bytes, Checked, check
from experiments.files import UserError, atomic_output, file_sha256, locked

ROOT = Path(__file__).resolve().parents[1]
STAND_INS = "stand-ins.toml"
PINNED = "pinned.toml"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PREFIX = re.compile(r"|[0-9a-f]{8,64}")
_ARCHIVE = re.compile(r"|npm:(@[\w.-]+/)?[\w.-]+@[\w.-]+|pip:[\w.-]+==[\w.-]+")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")  # usable as a bare TOML key and as a word on the command line


class Weights(Checked):
    """A file of weights. `sha256` is the whole hash, or "" if nobody publishes it; `sha256_prefix` is the part that the
    publisher gives; `hash_from` says who recorded the hash. `size_bytes` is 0 if unknown. `used_by` names metrics.

    `archive` names a package that also holds the file, as its `member`: "npm:NAME@VERSION" or "pip:NAME==VERSION"
    (tools.archives). `reader` is the package that reads the file, if that must be installed by `make setup`."""

    name: str
    title: str
    file: str
    url: str
    licence: str
    sha256: str = ""
    sha256_prefix: str = ""
    hash_from: str = ""
    size_bytes: Bytes = 0
    archive: str = ""
    member: str = ""
    reader: str = ""
    used_by: list[str] = []

    @model_validator(mode="after")
    def _consistent(self) -> "Weights":
        if not _NAME.fullmatch(self.name) or Path(self.file).name != self.file or self.file.startswith("."):
            raise ValueError("a name of a-z, 0-9 and -, and a plain file name")
        if self.sha256 and not _SHA256.fullmatch(self.sha256):
            raise ValueError("a sha256 of 64 hexadecimal digits, or none")
        if not _PREFIX.fullmatch(self.sha256_prefix) or not (self.sha256 or self.sha256_prefix).startswith(
            self.sha256_prefix
        ):
            raise ValueError("a sha256_prefix of 8 hexadecimal digits or more, with which the sha256 begins")
        if bool(self.archive) != bool(self.member) or not _ARCHIVE.fullmatch(self.archive):
            raise ValueError("an archive npm:NAME@VERSION or pip:NAME==VERSION with its member, or neither")
        return self

    def accepts(self, sha256: str) -> bool:
        """Whether a file with this hash may be the published one."""
        return sha256 == self.sha256 if self.sha256 else sha256.startswith(self.sha256_prefix)

    @property
    def terms(self) -> str:
        """Size and licence as text."""
        size = f"{self.size_bytes / 1e6:.1f} MB, " if self.size_bytes else ""
        return f"{size}licence: {self.licence}"


@dataclass(frozen=True)
class Located:
    """A verified file. `stand_in`: it holds random weights, so numbers computed with it must be labelled."""

    path: Path
    sha256: str
    stand_in: bool


@dataclass(frozen=True)
class State:
    """The state of one entry in a weights folder. `reason` says why it is "wrong". "unpinned": nobody publishes the
    hash, and it is not recorded yet."""

    kind: Literal["present", "unpinned", "stand-in", "missing", "wrong"]
    path: Path
    sha256: str = ""
    reason: str = ""


def weights_from_toml(text: str, where: str) -> dict[str, Weights]:
    """The entries of a file such as weights.toml, by name. Raises UserError if one is invalid."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{where}: expected TOML, got {error}. Correct that line.") from None
    entries = {}
    for name, fields in values.items():
        fields = {"name": name, **fields} if isinstance(fields, dict) else fields
        entries[name] = check(Weights, fields, f"{where}: {name}")
    return entries


WEIGHTS: dict[str, Weights] = weights_from_toml(
    (Path(__file__).parent / "weights.toml").read_text(encoding="utf-8"), "weights.toml"
)


def weights_folder() -> Path:
    """The folder in MTM_WEIGHTS, or `weights` in the repository; it need not exist. A relative path is relative to the
    repository, because the hosts run in folders of their own."""
    return ROOT / (os.environ.get("MTM_WEIGHTS") or "weights")


def select(names: Collection[str]) -> list[Weights]:
    """The entries of these names, each once; all entries if no name is given. Raises UserError for an unknown name."""
    unknown = [name for name in names if name not in WEIGHTS]
    if unknown:
        raise UserError(f"weights: name must be one of {', '.join(WEIGHTS)}; got {', '.join(unknown)}. Correct it.")
    return [WEIGHTS[name] for name in dict.fromkeys(names or WEIGHTS)]


def locate(names: Collection[str], folder: Path | None = None) -> dict[str, Located]:
    """The verified files of these names in `folder` (weights_folder() if it is None).

    Raises one UserError that lists every missing or wrong file with its URL, licence and path. Records the hash of a
    file for which nobody publishes one.
    """
    folder = folder or weights_folder()
    states = {entry.name: (entry, examine(entry, folder)) for entry in select(names)} if names else {}
    refused = [(entry, state) for entry, state in states.values() if state.kind in ("missing", "wrong")]
    if refused:
        raise UserError(missing_text(refused, folder))
    for name, (_, state) in states.items():
        if state.kind == "unpinned":
            _record(folder / PINNED, name, state.sha256)
    return {name: Located(s.path, s.sha256, s.kind == "stand-in") for name, (_, s) in states.items()}


def check_readers(names: Collection[str]) -> None:
    """Raises UserError if a package that reads one of these files is not installed."""
    readers = dict.fromkeys(entry.reader for entry in select(names) if entry.reader) if names else {}
    if absent := [name for name in readers if importlib.util.find_spec(name.replace("-", "_")) is None]:
        raise UserError(
            f"weights: the packages that read them must be installed; {', '.join(absent)} is not. Run make setup."
        )


def official(url: str) -> Path | None:
    """The verified file in weights_folder() of the entry with this URL; None if there is no such entry, no file, or
    only a stand-in. Raises UserError if the file is wrong."""
    entry = next((entry for entry in WEIGHTS.values() if entry.url == url), None)
    state = examine(entry, weights_folder()) if entry else None
    if entry is None or state is None or state.kind in ("missing", "stand-in"):
        return None
    return locate([entry.name])[entry.name].path


def missing_text(refused: Collection[tuple[Weights, State]], folder: Path) -> str:
    """The list of missing or wrong files as text: where to get each file, its licence, and where to put it."""
    names = " ".join(entry.name for entry, _ in refused)
    lines = [f"weights: {folder} must hold the weights that were requested; got {len(refused)} missing or wrong:"]
    for entry, state in refused:
        lines += [
            f"  {entry.name}: {state.kind}{f' ({state.reason})' if state.reason else ''}",
            f"      {entry.title} ({entry.terms})",
            f"      from {entry.url}",
            *([f"      or   {entry.member} of {entry.archive}"] if entry.archive else []),
            f"      to   {state.path}",
        ]
    lines.append(f'Fetch them: make weights WEIGHTS="{names}". Or put them there by hand: docs/weights.md.')
    return "\n".join(lines)


def examine(entry: Weights, folder: Path) -> State:
    """The state of this entry in `folder`. Reads the whole file if its hash is not cached; does not record the hash in
    pinned.toml."""
    path = folder / entry.file
    if not os.path.exists(path):  # Path.exists raises if a folder cannot be searched
        return State("missing", path)
    if not path.is_file():
        return State("wrong", path, reason="not a file")
    sha256 = file_sha256(path)
    if sha256 == recorded(folder / STAND_INS).get(entry.name) and sha256 != entry.sha256:
        return State("stand-in", path, sha256)
    if not entry.accepts(sha256):
        expected = entry.sha256 or f"{entry.sha256_prefix}..."
        return State("wrong", path, sha256, f"its sha256 must be {expected}; got {sha256}")
    pinned = recorded(folder / PINNED).get(entry.name)
    if entry.sha256 or sha256 == pinned:
        return State("present", path, sha256)
    if pinned:
        reason = f"its sha256 must be {pinned}, as {PINNED} recorded it at first use; got {sha256}"
        return State("wrong", path, sha256, reason)
    return State("unpinned", path, sha256)


def record_stand_in(name: str, folder: Path) -> Located:
    """Records in stand-ins.toml that the file of this entry in `folder` holds random weights."""
    path = folder / WEIGHTS[name].file
    sha256 = file_sha256(path)
    _record(folder / STAND_INS, name, sha256)
    return Located(path, sha256, stand_in=True)


def recorded(path: Path) -> Mapping[str, str]:
    """The hashes in stand-ins.toml or pinned.toml, by name; empty if the file does not exist. Raises UserError if it
    cannot be read or is invalid."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: expected TOML, got {error}. Correct the file, or remove it.") from error
    if not all(isinstance(value, str) and _SHA256.fullmatch(value) for value in values.values()):
        raise UserError(f'{path}: expected lines such as name = "sha256 of 64 hexadecimal digits". Correct it.')
    return values


def _record(path: Path, name: str, sha256: str) -> None:
    with locked(path):
        lines = [f'{key} = "{value}"\n' for key, value in {**recorded(path), name: sha256}.items()]
        with atomic_output(path) as partial:
            partial.write_text("".join(lines), encoding="utf-8")
