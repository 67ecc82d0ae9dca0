"""The state of each file of a checkout: which concerns it has, which edits are the user's, or why that is unknown."""

import os
import stat
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from . import git
from .catalog import Host, load_patches
from .git import Checkout
from .inserter import blob_hash, insert, recognise
from .locate import Concerns, Found, locate
from .patchfile import FilePatch, Patch
from .record import Record, Written
from .record import load as load_record


@dataclass
class FileView:
    """One file that a concern patches, or that an earlier version of the patches changed."""

    path: str
    target: Path
    base: bytes | None  # upstream's file, into which ours are inserted; None: missing, or not a regular file
    base_blob: str
    patches: dict[str, FilePatch]  # the patches made for this blob, in the series' order
    stale: tuple[str, ...]  # concerns made for another blob
    raw: bytes | None  # on disk; None: no regular file inside the checkout
    mode: int = 0
    crlf: bool = False  # the checkout turned every line ending into CRLF
    found: Found | None = None
    current: Concerns | None = None  # what it has, or (interrupted) will have; None: our lines are not intact
    damaged: tuple[str, ...] = ()  # concerns whose lines were changed, removed in part, or moved
    older: bool = False  # has lines from an earlier version of the patches
    interrupted: bool = False  # belongs to a run that was killed on its way to `current`
    recorded: tuple[str, ...] = ()  # concerns it had when we last wrote it

    @property
    def concerns(self) -> set[str]:
        """Every concern that touches this file."""
        return set(self.patches) | set(self.stale) | set(self.current or ()) | set(self.recorded)

    @property
    def present(self) -> Concerns:
        """The concerns whose lines are complete in the file, with these lines."""
        found = self.found
        return {c: i for c, i in found.concerns.items() if found.state(c) == "whole"} if found else {}

    @property
    def content(self) -> bytes | None:
        return self.raw if self.raw is None or not self.crlf else self.raw.replace(b"\r\n", b"\n")

    def on_disk(self, content: bytes) -> bytes:
        return content.replace(b"\n", b"\r\n") if self.crlf else content

    @property
    def edited(self) -> bool:
        """Whether the user has edited the file: a line added, changed or removed."""
        return self.base is None or self.content != insert(self.base, self.present)


@dataclass
class Tree:
    """One host's checkout, read once."""

    host: Host
    patches: dict[str, Patch]
    checkout: Checkout | None  # None: not fetched
    record: Record | None = None
    files: dict[str, FileView] = field(default_factory=dict)
    committed: tuple[str, ...] = ()  # files whose version in HEAD has our lines: somebody committed a patched tree

    @property
    def at_pin(self) -> bool:
        return self.checkout is not None and self.checkout.head == self.host.commit


def read_tree(host: Host, checkout: Checkout | None, missing_ok: str | None = None) -> Tree:
    patches = load_patches(host, missing_ok)
    if checkout is None:
        return Tree(host, patches, None)
    record = load_record(checkout)
    tree = Tree(host, patches, checkout, record)
    known = record or Record()
    reader = _Reader(tree, [*(f.path for p in patches.values() for f in p.files), *known.written, *known.pending])
    exact = {p: v for p in reader.paths if (v := reader.exact(p)).current is not None}
    # Without a record, expect the concerns of the host's other files here: else a damaged line would count as absent.
    elsewhere = {c for v in exact.values() for c in v.current or ()} if record is None else set()
    tree.files = {p: exact.get(p) or reader.edited(p, elsewhere) for p in reader.paths}
    tree.committed = tuple(reader.committed)
    _mark_interrupted(tree.files, known)
    return tree


def view_file(tree: Tree, path: str) -> FileView:
    """One file, whether or not a concern patches it."""
    if path in tree.files:
        return tree.files[path]
    reader = _Reader(tree, [path])
    view = reader.exact(path)
    return view if view.current is not None else reader.edited(path, ())


class _Reader:
    """Reads the given paths from the disk, the commit, the patches and the record."""

    def __init__(self, tree: Tree, paths: list[str]):
        assert tree.checkout is not None
        self.tree, self.checkout, self.paths = tree, tree.checkout, list(dict.fromkeys(paths))
        self.record = tree.record or Record()
        tracked = git.tree_blobs(tree.checkout, tree.checkout.head) or {}
        regular = {p: tracked.get(p, ("", "")) for p in self.paths}
        self.heads = {p: blob for p, (mode, blob) in regular.items() if mode.startswith("100")}
        self.of_path = {p: {c: f for c, h in tree.patches.items() for f in h.files if f.path == p} for p in self.paths}
        bases = {w.base for p in self.paths for w in self._writings(p)}
        bases |= {f.before for files in self.of_path.values() for f in files.values()}
        self.blobs = git.read_blobs(tree.checkout, sorted({*self.heads.values(), *bases} - {""}), missing_ok=True)
        self.committed: dict[str, str] = {}
        if not tree.at_pin:
            self.committed = {p: base for p in self.heads if (base := self._base_of_committed(p))}

    def _writings(self, path: str) -> list[Written]:
        pending, written = self.record.pending.get(path), self.record.written.get(path)
        return [w for w in (pending and pending.aim, written) if w]

    def _today(self, path: str, base: str) -> dict[str, FilePatch]:
        return {c: f for c, f in self.of_path[path].items() if f.before == base}

    def _base_of_committed(self, path: str) -> str | None:
        """The upstream blob to which HEAD's version of the file adds our lines; None if it has none of ours."""
        head = self.heads[path]
        tries = [(w.base, w.concerns) for w in self._writings(path)]
        for base in dict.fromkeys(f.before for f in self.of_path[path].values()):
            tries.append((base, {c: f.insertions for c, f in self._today(path, base).items()}))
        for base, concerns in tries:
            if base != head and base in self.blobs and head in self.blobs:
                found = locate(self.blobs[head], self.blobs[base], concerns)
                if any(found.state(c) == "whole" for c in concerns):
                    return base
        return None

    def _view(self, path: str, base: str) -> FileView:
        fresh = self._today(path, base)
        raw, mode = _read(self.checkout.folder, path)
        pristine = self.blobs.get(base)
        return FileView(
            path=path,
            target=self.checkout.folder / path,
            base=pristine,
            base_blob=base if pristine is not None else "",
            patches=fresh,
            stale=tuple(c for c in self.of_path[path] if c not in fresh),
            raw=raw,
            mode=mode,
            crlf=raw is not None and pristine is not None and _is_crlf(raw, pristine),
            recorded=tuple(self.record.written[path].concerns) if path in self.record.written else (),
        )

    def exact(self, path: str) -> FileView:
        """The file, with `current` set if it is byte for byte upstream's with our lines; else with `current` None."""
        view = self._view(path, self.committed.get(path, self.heads.get(path, "")))
        if view.raw is None or view.base is None:
            return view
        content = view.content or b""
        today: Concerns = {c: f.insertions for c, f in view.patches.items()}
        chosen = recognise(content, view.base, today)
        if chosen is not None:
            return _found(view, {c: today[c] for c in today if c in chosen})
        for written in self._writings(path):
            base = self.blobs.get(written.base)
            if base is not None and insert(base, written.concerns) == content:
                return _found(self._view(path, written.base), written.concerns)
        return view

    def edited(self, path: str, expected: Collection[str]) -> FileView:
        """The file with a user's edits, relative to the upstream blob that leaves the fewest edits."""
        head = self.committed.get(path, self.heads.get(path, ""))
        view = self._view(path, head)
        if view.raw is None or view.base is None:
            return view
        written = self._last_written(path, blob_hash(view.content or b""))
        had = set(written.concerns) if written else set()
        views = [self._located(view, {}, had | set(expected))]
        if written and written.base in self.blobs:
            views = [] if written.base == head else views
            views.append(self._located(self._view(path, written.base), written.concerns, had))
        return min(views, key=lambda v: (v.current is None, _edits(v)))

    def _last_written(self, path: str, blob: str) -> Written | None:
        pending = self.record.pending.get(path)
        return pending.aim if pending and blob != pending.before else self.record.written.get(path)

    def _located(self, view: FileView, written: Concerns, expected: Collection[str]) -> FileView:
        assert view.raw is not None
        assert view.base is not None
        known = {c: f.insertions for c, f in view.patches.items()} | dict(written)
        order = [c for c in [*self.tree.host.series, *known] if c in known]
        found = locate(view.raw, view.base, {c: known[c] for c in dict.fromkeys(order)}, view.path)
        strange = {found.lines[i].strip() for i in found.strangers}
        damaged = []
        for concern, insertions in found.concerns.items():
            state = found.state(concern)
            lines = {line.strip() for i in insertions for line in i.lines} - {b""}
            spoilt = concern in expected and not found.removed(concern)
            if state == "damaged" or (state == "none" and (spoilt or lines & strange)):
                damaged.append(concern)
        view.found, view.damaged = found, tuple(damaged)
        return view if damaged else _found(view, view.present, found)


def _found(view: FileView, current: Concerns, found: Found | None = None) -> FileView:
    assert view.raw is not None
    assert view.base is not None
    view.current, view.found = current, found or locate(view.raw, view.base, current)
    view.older = any(c not in view.patches or view.patches[c].insertions != tuple(i) for c, i in current.items())
    return view


def _edits(view: FileView) -> int:
    assert view.found is not None
    return len(view.found.strangers) + sum(None in found for found in view.found.at.values())


def _read(folder: Path, path: str) -> tuple[bytes | None, int]:
    # Links are not followed, neither on the way nor at the end: writing would change something outside the checkout.
    target = folder / path
    if linked_folder(folder, path):
        return None, 0
    try:
        facts = os.lstat(target)
        return (target.read_bytes() if stat.S_ISREG(facts.st_mode) else None), stat.S_IMODE(facts.st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return None, 0


def linked_folder(folder: Path, path: str) -> str | None:
    """The first folder between the checkout and a file that is a symbolic link; None if there is none."""
    ways = [str(p) for p in reversed(Path(path).parents)][1:]
    return next((way for way in ways if (folder / way).is_symlink()), None)


def _is_crlf(raw: bytes, pristine: bytes) -> bool:
    """Whether core.autocrlf converted this text: all line endings are CRLF in `raw`, none in the repository's blob."""
    if b"\r\n" not in raw or b"\r" in pristine:
        return False
    return raw.count(b"\n") == raw.count(b"\r\n") == raw.count(b"\r")


def _mark_interrupted(files: dict[str, FileView], record: Record) -> None:
    """Takes a killed run's intended state as the current one, so that the next run finishes it, unless the killed run
    had changed nothing or everything."""
    hashes = {p: blob_hash(files[p].content or b"") for p in record.pending}
    begun = any(hashes[p] != w.before for p, w in record.pending.items())
    ended = all(hashes[p] == w.after for p, w in record.pending.items())
    for path, pending in record.pending.items():
        view = files[path]
        if begun and not ended and view.current is not None and hashes[path] in (pending.before, pending.after):
            view.interrupted = True
            view.current = pending.aim.concerns
