"""Writes all changes or none: records the aim, stages every file, renames them into place, and undoes all on an error.

If a run is killed, each file has its old or its new bytes, and the record says which bytes were intended.
"""

from contextlib import suppress

from . import fs
from .errors import COMMAND, MODIFIED, OverlayError, Problem
from .git import Checkout
from .plan import Change
from .record import Pending, Record, Written, save
from .tree import Tree, linked_folder


def commit(trees: list[Tree], changes: list[Change], verb: str) -> None:
    """Makes the changes. `trees` are all selected ones: leftovers of a killed run are removed from each."""
    done: list[Change] = []
    try:
        _clear_litter(trees)
        for tree in _touched(trees, changes):
            save(_checkout(tree), Record(_written(tree, []), _pending(tree, changes)))
        for change in changes:
            fs.stage(change.target, change.after, change.mode)
        for change in changes:
            _check_unchanged(change, verb)
            done.append(change)  # before the rename: an error after it must be undone as well
            fs.promote(change.target)
        for tree in trees:
            record = Record(_written(tree, changes))
            if tree.checkout is not None and (record != _known(tree) or tree in _touched(trees, changes)):
                save(tree.checkout, record)
    except BaseException as error:  # including Ctrl-C
        _undo(trees, changes, done, verb, error)
        raise


def note(tree: Tree, written: dict[str, Written]) -> None:
    """Record what these files, which somebody else wrote, are known to contain."""
    known = {p: w for p, w in (_known(tree).written | written).items() if w.concerns}
    save(_checkout(tree), Record(known))


def _clear_litter(trees: list[Tree]) -> None:
    for tree in trees:
        for path in _known(tree).pending:
            if not linked_folder(_checkout(tree).folder, path):
                fs.discard(_checkout(tree).folder / path)


def _known(tree: Tree) -> Record:
    return tree.record or Record()


def _touched(trees: list[Tree], changes: list[Change]) -> list[Tree]:
    return [t for t in trees if any(c.tree is t for c in changes)]


def _checkout(tree: Tree) -> Checkout:
    assert tree.checkout is not None
    return tree.checkout


def _pending(tree: Tree, changes: list[Change]) -> dict[str, Pending]:
    return {c.path: Pending(*c.blobs, c.aim) for c in changes if c.tree is tree}


def _written(tree: Tree, changes: list[Change]) -> dict[str, Written]:
    """What each of this tree's files is known to contain from now on; files without our lines need no entry."""
    written = dict(_known(tree).written)
    for view in tree.files.values():
        if view.current is not None:
            written[view.path] = Written(view.base_blob, view.present)
    written |= {c.path: c.aim for c in changes if c.tree is tree}
    return {p: w for p, w in written.items() if w.concerns}


def _check_unchanged(change: Change, verb: str) -> None:
    # Somebody may have saved the file in an editor since it was read: do not overwrite that.
    if change.target.read_bytes() != change.before:
        name = f"{change.tree.host.vendor}/{change.path}"
        raise OverlayError(
            Problem(
                f"{verb}: {name} must not change during the run; got an edit meanwhile. "
                f"Run: {COMMAND} status --host {change.tree.host.name}",
                MODIFIED,
            )
        )


def _undo(trees: list[Tree], changes: list[Change], done: list[Change], verb: str, error: BaseException) -> None:
    """Restores the replaced files. If that also fails, the record still has the run's intended state."""
    try:
        for change in changes:
            fs.discard(change.target)
        for change in done:
            if change.target.read_bytes() == change.after:
                fs.write_atomic(change.target, change.before, change.mode)
    except OSError as second:
        raise OverlayError(
            f"{verb}: I/O error while writing: {error}; and while undoing it: {second}. Nothing of yours is lost. Fix "
            f"the cause, then finish with {COMMAND} apply, or undo with {COMMAND} revert"
        ) from error
    with suppress(OSError):  # the record of a run that changed nothing does no harm: every file has its old hash
        for tree in _touched(trees, changes):
            save(_checkout(tree), tree.record or Record(_written(tree, [])))
    if isinstance(error, OSError):
        at = f" ({error.filename})" if error.filename else ""
        raise OverlayError(
            f"{verb}: I/O error while writing: {error.strerror}{at}. Every file is as it was. Fix the cause, then run "
            "the same command again."
        ) from error
