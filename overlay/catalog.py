"""Every host's facts (patches/upstreams.toml) and its patches, in the order of patches/<host>/series."""

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .errors import COMMAND, USAGE, OverlayError, Problem
from .inserter import blob_hash, insert
from .patchfile import FilePatch, Patch, parse

_FACTS = ("url", "commit", "licence", "vendor")


@dataclass(frozen=True)
class Host:
    name: str
    url: str
    commit: str
    licence: str
    vendor: str  # relative to the repository, with '/' as separator
    root: Path  # the repository
    series: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        return self.root / self.vendor

    @property
    def patch_folder(self) -> Path:
        return self.root / "patches" / self.name

    def patch_path(self, concern: str) -> Path:
        return self.patch_folder / f"{concern}.patch"

    def patch_name(self, concern: str) -> str:
        return f"patches/{self.name}/{concern}.patch"


def load_hosts(root: Path) -> list[Host]:
    facts_path = root / "patches" / "upstreams.toml"
    try:
        facts = tomllib.loads(facts_path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise OverlayError(f"catalog: {root.name} must hold patches/upstreams.toml; got none. Pass --root.") from None
    except tomllib.TOMLDecodeError as error:
        raise OverlayError(f"catalog: patches/upstreams.toml must be TOML; got: {error}. Fix that line.") from None
    return [_host(root, name, entry) for name, entry in facts.items()]


def _host(root: Path, name: str, entry: object) -> Host:
    given = entry if isinstance(entry, dict) else {}
    wrong = [f for f in _FACTS if not isinstance(given.get(f), str) or not given[f]]
    wrong += [f for f in given if f not in _FACTS]
    if not wrong and not re.fullmatch(r"[0-9a-f]{40}", given["commit"]):
        wrong = ["commit"]
    if wrong:
        raise OverlayError(
            f"catalog: patches/upstreams.toml [{name}] must have {', '.join(_FACTS)} (commit: 40 hex digits); "
            f"got {', '.join(wrong)} missing, malformed or unknown. Fix that table."
        )
    return Host(name=name, root=root, series=_series(root, name), **given)


def _series(root: Path, name: str) -> tuple[str, ...]:
    try:
        text = (root / "patches" / name / "series").read_text(encoding="utf-8")
    except FileNotFoundError:
        return ()  # no patches for this host yet
    concerns = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    bad = [c for c in concerns if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", c) or concerns.count(c) > 1]
    if bad:
        raise OverlayError(
            f"catalog: patches/{name}/series must list each concern once, by its file's name without .patch; "
            f"got {bad[0]!r}. Fix that line."
        )
    return tuple(concerns)


def select_hosts(hosts: list[Host], names: Iterable[str], concerns: Iterable[str]) -> list[Host]:
    """The requested hosts (all if none is named); refuses unknown names."""
    known = [h.name for h in hosts]
    chosen = [h for h in hosts if not names or h.name in names]
    listed = {c for h in chosen for c in h.series}
    problems = [_unknown("--host", n, known) for n in names if n not in known]
    if not problems:
        problems = [_unknown("--concern", c, sorted(listed)) for c in concerns if c not in listed]
    if problems:
        raise OverlayError(*problems)
    return chosen


def _unknown(option: str, got: str, known: list[str]) -> Problem:
    return Problem(f"{option} must be one of: {', '.join(known) or '(none is listed)'}; got {got!r}.", USAGE)


def load_patches(host: Host, missing_ok: str | None = None) -> dict[str, Patch]:
    """concern -> patch, in the series' order. The error names all unreadable patches."""
    patches: dict[str, Patch] = {}
    problems: list[Problem] = []
    for concern in host.series:
        try:
            patches[concern] = parse(host.patch_path(concern).read_bytes(), host.patch_name(concern))
        except FileNotFoundError:
            if concern != missing_ok:
                problems.append(Problem(_not_there(host, concern)))
        except OverlayError as refusal:
            problems.extend(refusal.problems)
    if problems:
        raise OverlayError(*problems)
    return patches


def _not_there(host: Host, concern: str) -> str:
    return (
        f"catalog: {host.patch_name(concern)} must exist, because patches/{host.name}/series lists it; got none. "
        f"Write it with: {COMMAND} refresh --host {host.name} --concern {concern} "
        "--why '...', or take it off the list"
    )


def composed(host: Host, path: str, pristine: bytes, files: Mapping[str, FilePatch]) -> bytes:
    """The file with these concerns' lines. First checks each alone against the hash in its patch."""
    for concern, file in files.items():
        got = blob_hash(insert(pristine, {concern: file.insertions}, f"{host.vendor}/{path}"))
        if got != file.after:
            raise OverlayError(
                f"insert: {host.patch_name(concern)} must make {path} into what its index line says; "
                f"expected {file.after}, got {got}. Undo the edit to the patch (git diff {host.patch_name(concern)}), "
                f"or write it anew from a checkout: {COMMAND} refresh --host {host.name} --concern {concern}"
            )
    return insert(pristine, {c: f.insertions for c, f in files.items()}, f"{host.vendor}/{path}")
