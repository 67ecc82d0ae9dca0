"""Rewrites one concern's patch from an edited checkout, without the lines of the other concerns."""

from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise

from . import git
from .catalog import Host
from .errors import ABSENT, COMMAND, MODIFIED, STALE, OverlayError, Problem
from .fetch import fetch_message
from .inserter import blob_hash, compose, insert, split_lines
from .locate import align
from .patchfile import FilePatch, Insertion, Patch
from .plan import where
from .record import Written
from .tree import FileView, Tree, view_file


@dataclass(frozen=True)
class Refreshed:
    patch: Patch
    written: dict[str, Written]  # path -> what the file is known to contain from now on


def refresh(tree: Tree, concern: str, why: str | None, drop: Collection[str] = ()) -> Refreshed:
    """The concern's patch, made from the checkout. Refuses anything but insertions, and names each file:line.

    `drop` names the files to remove from the patch: their lines are never removed without being named.
    """
    host, checkout = tree.host, tree.checkout
    if checkout is None:
        raise OverlayError(Problem(fetch_message([host], "refresh"), ABSENT))
    _refuse_unfinished(tree)
    old = tree.patches.get(concern)
    reason = tuple(why.splitlines()) if why else old.why if old else ()
    if not reason:
        name = host.patch_name(concern)
        raise OverlayError(f"refresh: {name} must open with why it exists; got no reason. Pass --why 'The reason'.")
    files: list[FilePatch] = []
    written: dict[str, Written] = {}
    problems: list[Problem] = []
    for path in _paths(tree, old):
        view = view_file(tree, path)
        try:
            file, written[path] = _refresh_file(tree, view, concern)
            _refuse_loss(host, view, concern, file, drop)
            files.extend([file] if file else [])
        except OverlayError as refusal:
            problems.extend(refusal.problems)
    if not problems and not files:
        problems = [Problem(_nothing(host, concern))]
    if problems:
        raise OverlayError(*problems)
    return Refreshed(Patch(reason, tuple(files)), written)


def _paths(tree: Tree, old: Patch | None) -> list[str]:
    assert tree.checkout is not None
    paths = [f.path for f in old.files] if old else []
    return list(dict.fromkeys([*paths, *sorted(git.changed_paths(tree.checkout))]))


def _nothing(host: Host, concern: str) -> str:
    return (
        f"refresh: {host.vendor} must hold lines of {concern}; got none. Nothing was written. Put them in first: "
        f"{COMMAND} apply --host {host.name} --concern {concern}, or edit the files"
    )


def _refuse_unfinished(tree: Tree) -> None:
    unfinished = [v for v in tree.files.values() if v.interrupted or v.older]
    if unfinished:
        names = ", ".join(where(tree.host, v) for v in unfinished)
        text = f"refresh: {names} must be up to date with the patches; got an unfinished run's or older lines."
        raise OverlayError(Problem(f"{text} Run: {COMMAND} apply --host {tree.host.name}", STALE))


def _refuse_loss(host: Host, view: FileView, concern: str, file: FilePatch | None, drop: Collection[str]) -> None:
    """Refuses if lines of the patch are not in the checkout, unless they were evidently removed on purpose."""
    if concern not in view.patches and concern not in view.stale:
        return
    apply = f"{COMMAND} apply --host {host.name} --concern {concern}"
    name = where(host, view)
    if file is None and view.path not in drop:
        text = f"refresh: {name} must have lines of {concern}, as the patch does; got none. Put them back: {apply}. "
        raise OverlayError(Problem(f"{text}Or take the file out of the patch: --drop {view.path}", MODIFIED))
    if file is None or concern not in view.patches or concern in view.recorded or concern in view.present:
        return
    # As far as is known, the concern was never applied here: its lines must be there in addition to the edit.
    text = f"refresh: {name} must have been edited with {concern} applied; got an edit that lacks its lines. "
    raise OverlayError(Problem(f"{text}Put them in, your edits stay: {apply}", MODIFIED))


def _refresh_file(tree: Tree, view: FileView, concern: str) -> tuple[FilePatch | None, Written]:
    """The concern's part of one file (None if it has none), and what the file now contains."""
    host, content, name = tree.host, view.content, where(tree.host, view)
    if view.base is None or content is None or view.found is None:
        rule = "be a file of upstream's, for a patch can only insert lines into one"
        raise OverlayError(Problem(f"refresh: {name} must {rule}; got a new, removed or irregular file.", MODIFIED))
    others = {c: i for c, i in view.found.concerns.items() if c != concern and (c in view.present or c in view.damaged)}
    pieces = compose(view.base, others, name)
    base = [line for _, piece in pieces for line in piece]
    lines = split_lines(content)
    matched = align(base, lines)
    if None in matched:
        raise OverlayError(*_not_insertions(name, base, lines, matched, list(others)))
    insertions = _blocks([place[1] for place, piece in pieces for _ in piece], matched, lines)
    if not insertions:
        return None, Written(view.base_blob, others)
    if not lines[-1].endswith(b"\n") and lines[-1] in insertions[-1].lines:
        rule = f"end in a newline; got {lines[-1].decode('utf-8', 'replace')!r} as its last line. Add the newline."
        raise OverlayError(Problem(f"refresh: {name} must {rule}", MODIFIED))
    chosen = {c: insertions if c == concern else others[c] for c in host.series if c == concern or c in others}
    if (got := insert(view.base, chosen, name)) != content:
        raise OverlayError(_mixed_up(name, got, content, list(chosen)))
    alone = insert(view.base, {concern: insertions}, name)
    return FilePatch(view.path, view.base_blob, blob_hash(alone), insertions), Written(view.base_blob, chosen)


def _blocks(origin: list[int], matched: list[int | None], lines: list[bytes]) -> tuple[Insertion, ...]:
    """The new lines, by the pristine line that they follow; `origin` gives that line for each line of the base."""
    ends = [-1, *(i for i in matched if i is not None), len(lines)]
    merged: dict[int, list[bytes]] = {}
    for after, (start, end) in zip([0, *origin], pairwise(ends), strict=True):
        if end > start + 1:
            merged.setdefault(after, []).extend(lines[start + 1 : end])
    return tuple(Insertion(after, tuple(block)) for after, block in merged.items())


def _not_insertions(
    name: str, base: list[bytes], lines: list[bytes], matched: list[int | None], present: Collection[str]
) -> list[Problem]:
    """One problem for each place where a line of upstream or of another concern was changed or removed."""
    owner = "upstream's" + (f" or {', '.join(present)}'s" if present else "")
    problems = []
    ends: list[int | None] = [*matched, len(lines)]
    start = 0
    while start < len(base):
        end = start
        while ends[end] is None:
            end += 1
        if end > start:
            at, at_end = ((matched[start - 1] or 0) + 1 if start else 0), ends[end] or 0
            did = "changed" if at_end > at else "removed"
            if base[start].rstrip(b"\n") == lines[min(at, len(lines) - 1)].rstrip(b"\n"):
                did = "given another ending (an insertion cannot follow a last line without newline)"
            which = f"line {start + 1}" if end == start + 1 else f"lines {start + 1}-{end}"
            text = f"refresh: {name}:{at + 1} must keep {owner} lines; got {which} of the file before your edit {did}. "
            text += "Put it back and insert beside it (shadow a name, reassign, return early)."
            problems.append(Problem(text, MODIFIED))
        start = end + 1
    return problems


def _mixed_up(name: str, composed: bytes, content: bytes, order: Collection[str]) -> Problem:
    pairs = zip(split_lines(composed), split_lines(content), strict=False)
    line = next((n for n, (a, b) in enumerate(pairs, start=1) if a != b), 1)
    return Problem(
        f"refresh: {name}:{line} must keep each concern's lines together, in the series' order "
        f"({', '.join(order)}); got them mixed. Move your lines before or after the other concern's.",
        MODIFIED,
    )
