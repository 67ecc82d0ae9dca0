"""Which bytes apply and revert would write, all computed and checked in memory; or all reasons for a refusal."""

import stat
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from .catalog import Host, composed
from .errors import ABSENT, COMMAND, MODIFIED, STALE, OverlayError, Problem
from .fetch import fetch_message
from .inserter import blob_hash
from .locate import Concerns, NoPlaceError, exchange
from .record import Written
from .show import changed_lines
from .tree import FileView, Tree, linked_folder

_SHOWN = 20  # maximum lines of a user's edits in a message


@dataclass(frozen=True)
class Change:
    """One file to replace. `before` and `after` are the file's bytes on disk, in the checkout's line endings."""

    tree: Tree
    path: str
    target: Path
    before: bytes
    after: bytes
    mode: int
    blobs: tuple[str, str]  # git's hashes of those two
    aim: Written  # what the file has afterwards


def plan(trees: list[Tree], verb: str, selected: Collection[str]) -> list[Change]:
    """The changes that `verb` ('apply' or 'revert') makes for the selected concerns (all if none is named)."""
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
    problems = [Problem(committed_message(t, verb), STALE) for t in trees if t.committed]
    if verb == "revert":
        return problems  # nothing is applied in an absent tree, and our lines may always be removed
    absent = [t.host for t in trees if t.checkout is None and t.patches]
    problems += [Problem(fetch_message(absent, verb), ABSENT)] if absent else []
    for tree in trees:
        if tree.checkout is not None and tree.patches and not tree.at_pin and not tree.committed:
            problems.append(Problem(_wrong_commit(tree, verb), STALE))
    return problems


def committed_message(tree: Tree, verb: str) -> str:
    """What to do about a commit inside vendor/ that contains our lines; nothing in it gets lost."""
    assert tree.checkout is not None
    host, head = tree.host, tree.checkout.head
    files = ", ".join(f"{host.vendor}/{p}" for p in tree.committed)
    return (
        f"{verb}: {host.vendor} must not have our lines in its commits; commit {head[:10]} has them in {files}. Keep "
        f"that commit under another branch name, and go back to upstream's commit without changing any file:\n"
        f"    git -C {host.vendor} branch mine-{head[:10]} && git -C {host.vendor} reset {host.commit}\n"
        f"  Then: {COMMAND} {verb} --host {host.name}"
    )


def _wrong_commit(tree: Tree, verb: str) -> str:
    host = tree.host
    head = tree.checkout.head if tree.checkout else "none"
    ours = any(v.current or v.current is None for v in tree.files.values())
    first = f"{COMMAND} revert --host {host.name}, then: " if ours else ""
    return (
        f"{verb}: {host.vendor} must be at the commit the patches were made for; expected {host.commit}, got {head}. "
        f"Run: {first}git submodule update --init {host.vendor}"
    )


def _change(tree: Tree, view: FileView, verb: str, selected: Collection[str]) -> list[Change]:
    wanted = set(selected) or view.concerns | set(tree.patches)
    if not wanted & view.concerns and not view.interrupted:
        return []
    if view.current is None or view.base is None or view.found is None:
        raise OverlayError(_unknown_file(tree.host, view, verb))
    want = _want(tree, view, verb, wanted)
    after = _exchanged(tree.host, view, verb, want)
    if after == view.raw:
        return []
    if not view.mode & stat.S_IWUSR:
        name = where(tree.host, view)
        raise OverlayError(f"{verb}: {name} must be writable; got a read-only file. Run: chmod u+w {name}")
    assert view.raw is not None
    assert view.content is not None
    new = after.replace(b"\r\n", b"\n") if view.crlf else after
    blobs = (blob_hash(view.content), blob_hash(new))
    return [Change(tree, view.path, view.target, view.raw, after, view.mode, blobs, Written(view.base_blob, want))]


def _want(tree: Tree, view: FileView, verb: str, wanted: Collection[str]) -> Concerns:
    """The concerns the file shall have. apply updates all of them; revert leaves the others as they are."""
    assert view.current is not None
    if verb == "revert":
        return {c: insertions for c, insertions in view.current.items() if c not in wanted}
    target = set(view.current) | (set(wanted) & view.concerns)
    if stale := target & set(view.stale):
        raise OverlayError(_stale_file(tree, view, verb, sorted(stale)))
    chosen = {c: file for c, file in view.patches.items() if c in target}
    if view.base is not None:
        composed(tree.host, view.path, view.base, chosen)  # checks every hash
    return {c: file.insertions for c, file in chosen.items()}


def _exchanged(host: Host, view: FileView, verb: str, want: Concerns) -> bytes:
    assert view.base is not None
    assert view.found is not None
    try:
        return exchange(view.found, view.base, want, b"\r\n" if view.crlf else b"\n")
    except NoPlaceError as refusal:
        name, after = where(host, view), refusal.after
        text = f"{verb}: {name} must have upstream's lines {after} and {after + 1} as they are, for lines of "
        text += f"{refusal.concern} go between them; got an edit there. Nothing was written. {_ways_out(host, view)}"
        raise OverlayError(Problem(text, MODIFIED)) from None


def where(host: Host, view: FileView) -> str:
    return f"{host.vendor}/{view.path}"


def _unknown_file(host: Host, view: FileView, verb: str) -> Problem:
    name = where(host, view)
    if link := linked_folder(host.folder, view.path):
        text = f"{verb}: {name} must lie inside the checkout; got a link in its way, {host.vendor}/{link}. "
        return Problem(f"{text}Move the link away, then: git -C {host.vendor} checkout -- {link}", MODIFIED)
    if view.base is None:
        got = "nothing of that name at this commit"
        return Problem(f"{verb}: {name} must be a file of the checkout; got {got}. {_renew(host, view)}", STALE)
    if view.raw is None:
        text = f"{verb}: {name} must be a regular file; got none. Run: git -C {host.vendor} checkout -- {view.path}"
        return Problem(text, MODIFIED)
    rule = f"contain the lines of {', '.join(view.damaged)} complete and in place; got them edited"
    return Problem(f"{verb}: {name} must {rule}. Nothing was written. {_ways_out(host, view)}", MODIFIED)


def _ways_out(host: Host, view: FileView) -> str:
    """What the user can do about edits that prevent the command; shows only those edits."""
    lines = changed_lines(host, [view])[2:]
    yours = "".join(f"    {line}\n" for line in lines[:_SHOWN])
    yours += f"    (and {len(lines) - _SHOWN} lines more)\n" if len(lines) > _SHOWN else ""
    return (
        f"This is what was edited:\n{yours}"
        f"  Save it, then take it out: {COMMAND} edits --host {host.name} > mine.diff && git apply -R mine.diff\n"
        f"  Or undo your edits to these lines in an editor. Then run the same command again.\n"
        f"  Or make it part of a patch: {COMMAND} refresh --host {host.name} --concern <the patch it belongs to>"
    )


def _stale_file(tree: Tree, view: FileView, verb: str, concerns: list[str]) -> Problem:
    host = tree.host
    name = where(host, view)
    expected = ", ".join(f.before for c in concerns for f in tree.patches[c].files if f.path == view.path)
    return Problem(
        f"{verb}: {name} must be the file that {', '.join(concerns)} was made for; expected {expected}, "
        f"got {view.base_blob or 'none'}. {_renew(host, view)}",
        STALE,
    )


def _renew(host: Host, view: FileView) -> str:
    concern = next(iter([*view.stale, *view.patches]), "<name>")
    return f"Insert the lines by hand, then: {COMMAND} refresh --host {host.name} --concern {concern}"
