"""What state each file of a checkout is in: which concerns it has, or why nobody can tell."""

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from . import git
from .catalog import Host, load_patches
from .git import Checkout
from .inserter import blob_hash, recognise
from .patchfile import FilePatch, Patch
from .record import Record
from .record import load as load_record


@dataclass
class FileView:
    """One file that some concern patches, or that an earlier version of the patches did."""

    path: str
    target: Path
    pristine: bytes | None  # at the checkout's HEAD; None: not there, or no regular file
    pristine_blob: str
    patches: dict[str, FilePatch]  # those made for this pristine blob, in the series' order
    stale: tuple[str, ...]  # concerns made for another blob
    raw: bytes | None  # on disk; None: no regular file
    mode: int
    crlf: bool  # the checkout turned every line ending into CRLF
    current: frozenset[str] | None = None  # None: edits that nothing explains
    older: bool = False  # written by us from other patches than today's: holds nothing of the user's
    interrupted: bool = False  # belongs to a run that was killed on its way to `current`
    recorded: tuple[str, ...] = ()  # concerns it had when last written

    @property
    def concerns(self) -> set[str]:
        """Every concern with a stake in this file."""
        return set(self.patches) | set(self.stale) | set(self.current or ()) | set(self.recorded)

    @property
    def content(self) -> bytes | None:
        return self.raw if self.raw is None or not self.crlf else self.raw.replace(b"\r\n", b"\n")

    def on_disk(self, content: bytes) -> bytes:
        return content.replace(b"\n", b"\r\n") if self.crlf else content


@dataclass
class Tree:
    """One host's checkout, read once."""

    host: Host
    patches: dict[str, Patch]
    checkout: Checkout | None  # None: not fetched
    record: Record = field(default_factory=Record)
    files: dict[str, FileView] = field(default_factory=dict)

    @property
    def at_pin(self) -> bool:
        return self.checkout is not None and self.checkout.head == self.host.commit


def read_tree(host: Host, checkout: Checkout | None, missing_ok: str | None = None) -> Tree:
    patches = load_patches(host, missing_ok)
    if checkout is None:
        return Tree(host, patches, None)
    record = load_record(checkout)
    paths = {f.path: None for p in patches.values() for f in p.files} | dict.fromkeys(record.written)
    paths |= dict.fromkeys(record.pending)
    files = {v.path: v for v in _views(checkout, list(paths), patches)}
    for view in files.values():
        _classify(view, record)
    _mark_interrupted(files, record)
    return Tree(host, patches, checkout, record, files)


def view_file(checkout: Checkout, path: str, patches: dict[str, Patch]) -> FileView:
    """One file, patched by some concern or not."""
    return _views(checkout, [path], patches)[0]


def _views(checkout: Checkout, paths: list[str], patches: dict[str, Patch]) -> list[FileView]:
    blobs = git.tree_blobs(checkout, checkout.head) or {}
    regular = {p: blob for p in paths for mode, blob in [blobs.get(p, ("", ""))] if mode.startswith("100")}
    contents = git.read_blobs(checkout, sorted(set(regular.values())))
    views = []
    for path in paths:
        pristine = contents.get(regular.get(path, ""))
        of_path = {c: f for c, p in patches.items() for f in p.files if f.path == path}
        fresh = {c: f for c, f in of_path.items() if f.before == regular.get(path)}
        raw, mode = _read(checkout.folder / path)
        crlf = raw is not None and pristine is not None and _is_crlf(raw, pristine)
        view = FileView(
            path=path,
            target=checkout.folder / path,
            pristine=pristine,
            pristine_blob=regular.get(path, ""),
            patches=fresh,
            stale=tuple(c for c in of_path if c not in fresh),
            raw=raw,
            mode=mode,
            crlf=crlf,
        )
        views.append(view)
    return views


def _read(target: Path) -> tuple[bytes | None, int]:
    # A link is not followed: replacing it would change something outside the checkout, or turn it into a file.
    try:
        facts = os.lstat(target)
        return (target.read_bytes() if stat.S_ISREG(facts.st_mode) else None), stat.S_IMODE(facts.st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return None, 0


def _is_crlf(raw: bytes, pristine: bytes) -> bool:
    """Whether `raw` is a text that core.autocrlf checked out: every ending CRLF, none in the repository's blob."""
    if b"\r\n" not in raw or b"\r" in pristine:
        return False
    return raw.count(b"\n") == raw.count(b"\r\n") == raw.count(b"\r")


def _classify(view: FileView, record: Record) -> None:
    if view.path in record.written:
        view.recorded = record.written[view.path].concerns
    content = view.content
    if content is None or view.pristine is None:
        return
    view.current = recognise(content, view.pristine, {c: f.insertions for c, f in view.patches.items()})
    if view.current is None and blob_hash(content) in record.ours(view.path):
        view.older = True
        view.current = frozenset(view.recorded)


def _mark_interrupted(files: dict[str, FileView], record: Record) -> None:
    """Take a killed run's aim as the state, so that the next run finishes it; unless it had not begun, or ended."""
    hashes = {p: blob_hash(files[p].content or b"") for p in record.pending}
    begun = any(hashes[p] != w.before for p, w in record.pending.items())
    ended = all(hashes[p] == w.after for p, w in record.pending.items())
    for path, aim in record.pending.items():
        view = files[path]
        if begun and not ended and view.current is not None and hashes[path] in (aim.before, aim.after):
            view.interrupted = True
            view.current = frozenset(aim.concerns)
        elif ended and view.older:
            view.current = frozenset(aim.concerns)
