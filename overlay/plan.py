"""Which bytes apply and revert would write, all computed and checked in memory; or every reason why not."""

import stat
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from .catalog import Host
from .errors import ABSENT, MODIFIED, STALE, OverlayError, Problem
from .inserter import blob_hash, insert
from .tree import FileView, Tree

COMMAND = "python tools/apply_patches.py"


@dataclass(frozen=True)
class Change:
    """One file to replace. `before` and `after` are the file's bytes on disk, in the checkout's line endings."""

    tree: Tree
    path: str
    target: Path
    before: bytes
    after: bytes
    mode: int
    blobs: tuple[str, str]  # the same two as git hashes them
    concerns: tuple[str, ...]


def plan(trees: list[Tree], verb: str, selected: Collection[str]) -> list[Change]:
    """The changes that `verb` ('apply' or 'revert') makes for the selected concerns (all where none is named)."""
    problems = _host_problems(trees, verb)
    changes: list[Change] = []
    for tree in trees:
        if tree.checkout is None:
            continue
        for view in tree.files.values():
            try:
                changes.extend(_change(tree, view, verb, selected))
            except OverlayError as refusal:
                problems.extend(refusal.problems)
    if problems:
        raise OverlayError(*problems)
    return changes


def _host_problems(trees: list[Tree], verb: str) -> list[Problem]:
    if verb == "revert":
        return []  # nothing is applied in an absent tree, and our lines may always leave
    absent = [t.host for t in trees if t.checkout is None and t.patches]
    problems = [Problem(fetch_message(absent, verb), ABSENT)] if absent else []
    for tree in trees:
        if tree.checkout is not None and tree.patches and not tree.at_pin:
            problems.append(Problem(_wrong_commit(tree, verb), STALE))
    return problems


def fetch_message(hosts: list[Host], verb: str) -> str:
    """How to fetch submodules, in one message for all of them."""
    folders = " ".join(h.vendor for h in hosts)
    got = "; ".join(f"{h.vendor} is {_what_is_there(h.folder)}" for h in hosts)
    mirrors = "\n".join(f"    git config --global url.<mirror of it>.insteadOf {h.url}" for h in hosts)
    return (
        f"{verb}: {folders} must be fetched; {got}. Fetch with:\n"
        f"    git submodule update --init {folders}\n"
        "  Where that address cannot be reached, name a mirror (an address or a folder) first, then fetch:\n"
        f"{mirrors}\n"
        "    git config --global protocol.file.allow always    (only where the mirror is a folder)\n"
        f"  Or leave it out: {COMMAND} {verb} --host <another host>"
    )


def _what_is_there(folder: Path) -> str:
    if not folder.exists():
        return "missing"
    if not any(folder.iterdir()):
        return "an empty folder"
    return "a folder that is no finished checkout (move it away if it holds your own files)"


def _wrong_commit(tree: Tree, verb: str) -> str:
    head = tree.checkout.head if tree.checkout else "nothing"
    host = tree.host
    ours = any(v.current for v in tree.files.values())
    first = f"{COMMAND} revert --host {host.name}, then: " if ours else ""
    return (
        f"{verb}: {host.vendor} must be at the commit the patches were made for; expected {host.commit}, got {head}. "
        f"Run: {first}git -C {host.vendor} checkout {host.commit}"
    )


def _change(tree: Tree, view: FileView, verb: str, selected: Collection[str]) -> list[Change]:
    wanted = set(selected) or view.concerns | set(tree.patches)
    if not wanted & view.concerns and not view.interrupted:
        return []
    if view.current is None or view.pristine is None:
        raise OverlayError(_unknown_file(tree.host, view, verb))
    target = view.current | (wanted & view.concerns) if verb == "apply" else view.current - wanted
    if stale := target & set(view.stale):
        raise OverlayError(_stale_file(tree, view, verb, sorted(stale)))
    chosen = [c for c in view.patches if c in target]
    content = composed(tree.host, view, chosen)
    after = view.on_disk(content)
    if after == view.raw:
        return []
    if not view.mode & stat.S_IWUSR:
        name = where(tree.host, view)
        raise OverlayError(f"{verb}: {name} must be writable; got a read-only file. Run: chmod u+w {name}")
    assert view.raw is not None
    assert view.content is not None
    blobs = (blob_hash(view.content), blob_hash(content))
    return [Change(tree, view.path, view.target, view.raw, after, view.mode, blobs, tuple(chosen))]


def composed(host: Host, view: FileView, concerns: Collection[str]) -> bytes:
    """The file with these concerns' lines; each must first hash, alone, to what its patch claims."""
    assert view.pristine is not None
    for concern in concerns:
        file = view.patches[concern]
        got = blob_hash(insert(view.pristine, [file.insertions], where(host, view)))
        if got != file.after:
            raise OverlayError(
                f"insert: {host.patch_name(concern)} must make {view.path} into what its index line says; "
                f"expected {file.after}, got {got}. Undo the edit to the patch (git diff {host.patch_name(concern)}), "
                f"or write it anew from a checkout: {COMMAND} refresh --host {host.name} --concern {concern}"
            )
    return insert(view.pristine, [view.patches[c].insertions for c in concerns], where(host, view))


def where(host: Host, view: FileView) -> str:
    return f"{host.vendor}/{view.path}"


def _unknown_file(host: Host, view: FileView, verb: str) -> Problem:
    name = where(host, view)
    if view.pristine is None:
        got = "nothing of that name at this commit"
        return Problem(f"{verb}: {name} must be a file of the checkout; got {got}. {_renew(host, view)}", STALE)
    if view.raw is None:
        text = f"{verb}: {name} must be a regular file; got none. Run: git -C {host.vendor} checkout -- {view.path}"
        return Problem(text, MODIFIED)
    concern = next(iter([*view.recorded, *view.patches, *view.stale]), "<name>")
    return Problem(
        f"{verb}: {name} must hold upstream's lines and our patches' only; got other edits. Nothing was written. "
        f"See them: git -C {host.vendor} diff {view.path}. "
        f"Keep them: {COMMAND} refresh --host {host.name} --concern {concern}, or save that diff. "
        f"Drop them: git -C {host.vendor} checkout -- {view.path}",
        MODIFIED,
    )


def _stale_file(tree: Tree, view: FileView, verb: str, concerns: list[str]) -> Problem:
    host = tree.host
    name = where(host, view)
    expected = ", ".join(f.before for c in concerns for f in tree.patches[c].files if f.path == view.path)
    return Problem(
        f"{verb}: {name} must be the file that {', '.join(concerns)} was made for; expected {expected}, "
        f"got {view.pristine_blob or 'none'}. {_renew(host, view)}",
        STALE,
    )


def _renew(host: Host, view: FileView) -> str:
    concern = next(iter([*view.stale, *view.patches]), "<name>")
    return f"Insert the lines by hand, then: {COMMAND} refresh --host {host.name} --concern {concern}"
