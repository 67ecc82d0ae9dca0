"""Write one concern's patch anew from an edited checkout, taking nothing of the other concerns into it."""

from collections.abc import Collection
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import combinations, pairwise

from . import git
from .catalog import Host
from .errors import ABSENT, MODIFIED, STALE, OverlayError, Problem
from .inserter import blob_hash, insert, split_lines
from .patchfile import FilePatch, Insertion, Patch
from .plan import COMMAND, fetch_message, where
from .record import Written
from .tree import FileView, Tree, view_file


@dataclass(frozen=True)
class Refreshed:
    patch: Patch
    written: dict[str, Written]  # path -> what its bytes on disk are, from now on


def refresh(tree: Tree, concern: str, why: str | None, drop: Collection[str] = ()) -> Refreshed:
    """The concern's patch as the checkout has it; refuses what is no insertion, naming each file:line.

    `drop` names files that the patch touched and shall not any more: their lines never go without being asked for.
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
        view = tree.files.get(path) or view_file(checkout, path, tree.patches)
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
    """Lines that the patch had and the checkout lacks must have been taken out on purpose, not never put in."""
    if concern not in view.patches and concern not in view.stale:
        return
    apply = f"{COMMAND} apply --host {host.name} --concern {concern}"
    name = where(host, view)
    if file is None and view.path not in drop:
        text = f"refresh: {name} must have lines of {concern}, as the patch does; got none. Put them back: {apply}. "
        raise OverlayError(Problem(f"{text}Or take the file out of the patch: --drop {view.path}", MODIFIED))
    if file is None or concern not in view.patches or concern in view.recorded:
        return
    assert view.pristine is not None
    # Never applied here as far as is known: then all its lines must be there beside the edit.
    alone = insert(view.pristine, [view.patches[concern].insertions])
    edited = insert(view.pristine, [file.insertions])
    if _insertions(split_lines(alone), split_lines(edited)) is None:
        text = f"refresh: {name} must have been edited with {concern} applied; got an edit that lacks its lines. "
        stash = f"git -C {host.vendor} stash; {apply}; git -C {host.vendor} stash pop"
        raise OverlayError(Problem(f"{text}Save your edit, put them in, edit again: {stash}", MODIFIED))


def _refresh_file(tree: Tree, view: FileView, concern: str) -> tuple[FilePatch | None, Written]:
    """The concern's part in one file (None: none), and what the file now is."""
    host, content, name = tree.host, view.content, where(tree.host, view)
    if view.pristine is None or content is None:
        rule = "be a file of upstream's, for a patch can only insert lines into one"
        raise OverlayError(Problem(f"refresh: {name} must {rule}; got a new, removed or irregular file.", MODIFIED))
    others = {c: p.insertions for c, p in view.patches.items() if c != concern}
    present = _others_present(tree, view, others, concern)
    base = insert(view.pristine, [others[c] for c in present], name)
    blocks = _insertions(split_lines(base), split_lines(content))
    if blocks is None:
        raise OverlayError(*_not_insertions(name, base, content, present))
    if not blocks:
        return None, Written(blob_hash(content), tuple(present))
    insertions = _to_pristine(view.pristine, {c: others[c] for c in present}, blocks)
    _refuse_foreign(name, view, concern, present, insertions)
    chosen = {**{c: others[c] for c in present}, concern: insertions}
    order = [c for c in host.series if c in chosen]
    if insert(view.pristine, [chosen[c] for c in order], name) != content:
        raise OverlayError(_mixed_up(name, insert(view.pristine, [chosen[c] for c in order], name), content, order))
    alone = insert(view.pristine, [insertions], name)
    file = FilePatch(view.path, view.pristine_blob, blob_hash(alone), insertions)
    return file, Written(blob_hash(content), tuple(order))


def _others_present(tree: Tree, view: FileView, others: dict[str, tuple[Insertion, ...]], concern: str) -> list[str]:
    """Which other concerns an edited file has: what we last wrote there, else the most that fit into it."""
    if view.current is not None or view.recorded:
        known = view.current if view.current is not None else view.recorded
        return [c for c in others if c in known]
    assert view.pristine is not None
    assert view.content is not None
    lines = split_lines(view.content)
    # Without a record, what the host's other files have is expected here: else a spoilt line would count as absent.
    expected = {c for v in tree.files.values() if v is not view for c in v.current or ()}
    for count in range(len(others), -1, -1):
        fitting = []
        for chosen in combinations(others, count):
            base = insert(view.pristine, [others[c] for c in chosen])
            if _insertions(split_lines(base), lines) is not None:
                fitting.append(chosen)
        if len(fitting) > 1:
            raise OverlayError(_unclear(view, concern, " or ".join("+".join(f) for f in fitting)))
        if fitting:
            return [c for c in others if c in fitting[0] or c in expected]
    return [c for c in others if c in expected]


def _unclear(view: FileView, concern: str, got: str) -> Problem:
    text = f"refresh: {view.path} must tell which concerns it has besides {concern}; got {got}. "
    return Problem(f"{text}Save your edit, run {COMMAND} apply, and edit again.", MODIFIED)


def _refuse_foreign(
    name: str, view: FileView, concern: str, present: Collection[str], insertions: tuple[Insertion, ...]
) -> None:
    """Refuse half a line at the file's end, and lines that are, to the letter, those of a concern thought absent."""
    lines = {line for i in insertions for line in i.lines}
    if half := [line for line in lines if not line.endswith(b"\n")]:
        rule = f"end in a newline; got {half[0].decode('utf-8', 'replace')!r} as its last line. Add the newline."
        raise OverlayError(Problem(f"refresh: {name} must {rule}", MODIFIED))
    own = {line for i in view.patches[concern].insertions for line in i.lines} if concern in view.patches else set()
    for other, file in view.patches.items():
        theirs = {line for i in file.insertions for line in i.lines if line.strip()} & lines - own
        if other != concern and other not in present and theirs:
            raise OverlayError(_unclear(view, concern, f"lines of {other}, but not all of them"))


def _insertions(base: list[bytes], edited: list[bytes]) -> list[tuple[int, list[bytes]]] | None:
    """(after line of `base`, lines) blocks that make it into `edited`; None where something else was done to it.

    Where equal lines leave a choice (a blank line before or after the block), the fewest blocks win, then the
    lowest place in the file, which is git's habit.
    """
    late = _match(base, edited)
    early = _match(base[::-1], edited[::-1])
    if late is None or early is None:
        return None
    mirrored = [len(edited) - 1 - at for at in reversed(early)]
    return min((_blocks(late, edited), _blocks(mirrored, edited)), key=len)


def _match(base: list[bytes], edited: list[bytes]) -> list[int] | None:
    """For each line of `base` the first line of `edited` it can be, in order. Greedy finds a way if there is one."""
    places: list[int] = []
    at = 0
    for line in base:
        while at < len(edited) and edited[at] != line:
            at += 1
        if at == len(edited):
            return None
        places.append(at)
        at += 1
    return places


def _blocks(places: list[int], edited: list[bytes]) -> list[tuple[int, list[bytes]]]:
    ends = [-1, *places, len(edited)]
    gaps = ((n, edited[start + 1 : end]) for n, (start, end) in enumerate(pairwise(ends)))
    return [(n, lines) for n, lines in gaps if lines]


def _to_pristine(
    pristine: bytes, others: dict[str, tuple[Insertion, ...]], blocks: list[tuple[int, list[bytes]]]
) -> tuple[Insertion, ...]:
    """Blocks numbered by lines of pristine + others, renumbered by the pristine file's lines."""
    inserted: dict[int, int] = {}
    for insertions in others.values():
        for insertion in insertions:
            inserted[insertion.after] = inserted.get(insertion.after, 0) + len(insertion.lines)
    origin: list[int] = [0] * (inserted.get(0, 0) + 1)  # line of the base -> last pristine line at or before it
    for number in range(1, len(split_lines(pristine)) + 1):
        origin.extend([number] * (1 + inserted.get(number, 0)))
    merged: dict[int, list[bytes]] = {}
    for after, lines in blocks:
        merged.setdefault(origin[after], []).extend(lines)
    return tuple(Insertion(after, tuple(lines)) for after, lines in merged.items())


def _not_insertions(name: str, base: bytes, content: bytes, present: Collection[str]) -> list[Problem]:
    """One problem for each place where a line of upstream's, or of another concern's, was changed or removed."""
    old, new = split_lines(base), split_lines(content)
    owner = "upstream's" + (f" or {', '.join(present)}'s" if present else "")
    problems = []
    for kind, start, end, at, at_end in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind not in ("delete", "replace"):
            continue
        did = "changed" if at_end > at else "removed"
        if old[start].rstrip(b"\n") == new[min(at, len(new) - 1)].rstrip(b"\n"):
            did = "given another ending (an insertion cannot follow a last line without newline)"
        lines = f"line {start + 1}" if end == start + 1 else f"lines {start + 1}-{end}"
        text = f"refresh: {name}:{at + 1} must keep {owner} lines; got {lines} of the file before your edit {did}. "
        problems.append(
            Problem(text + "Put it back and insert beside it (shadow a name, reassign, return early).", MODIFIED)
        )
    return problems


def _mixed_up(name: str, composed: bytes, content: bytes, order: Collection[str]) -> Problem:
    pairs = zip(split_lines(composed), split_lines(content), strict=False)
    line = next((n for n, (a, b) in enumerate(pairs, start=1) if a != b), 1)
    return Problem(
        f"refresh: {name}:{line} must keep each concern's lines together, in the series' order "
        f"({', '.join(order)}); got them mixed. Move your lines before or after the other concern's.",
        MODIFIED,
    )
