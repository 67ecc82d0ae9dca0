"""Diffs for reading: our insertions (the audit), and the user's edits. Upstream's lines are printed, never stored."""

import re
from collections.abc import Collection, Iterator

from . import git
from .catalog import Host, composed
from .errors import ABSENT, STALE, OverlayError, Problem
from .fetch import fetch_message
from .inserter import insert
from .patchfile import FilePatch, Patch
from .tree import FileView, Tree


def show(trees: Collection[Tree], selected: Collection[str], *options: str) -> Iterator[str]:
    """For each host, the reason of every concern, then one diff of all of them, which `git apply` accepts in the
    repository.

    It is made from the pinned commit's files, whatever the state of the checkout.
    """
    shown = [t for t in trees if t.patches]
    if absent := [t.host for t in shown if t.checkout is None]:
        raise OverlayError(Problem(fetch_message(absent, "show"), ABSENT))
    for tree in shown:
        patches = {c: p for c, p in tree.patches.items() if not selected or c in selected}
        for concern, patch in patches.items():
            size = f"{_count(len(patch.files), 'file')}, {_count(patch.line_count, 'line')} inserted"
            yield f"# ==== {tree.host.name}/{concern}: {size}\n"
            yield from (f"# {text}".rstrip() + "\n" for text in patch.why)
        yield git.diff_files(_versions(tree, patches), *options)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _versions(tree: Tree, patches: dict[str, Patch]) -> dict[str, tuple[bytes, bytes]]:
    """path in the repository -> (upstream's file, with the patches' lines)."""
    assert tree.checkout is not None
    host, pinned = tree.host, git.tree_blobs(tree.checkout, tree.host.commit) or {}
    files: dict[str, dict[str, FilePatch]] = {}
    for concern, patch in patches.items():
        for file in patch.files:
            files.setdefault(file.path, {})[concern] = file
            if pinned.get(file.path, ("", ""))[1] != file.before:
                text = f"show: {host.vendor}/{file.path} must be the file that {concern} was made for; expected "
                got = pinned[file.path][1] if file.path in pinned else "none at the pinned commit"
                raise OverlayError(Problem(f"{text}{file.before}, got {got}. See: status --host {host.name}", STALE))
    blobs = git.read_blobs(tree.checkout, sorted({f.before for of in files.values() for f in of.values()}))
    pristine = {path: blobs[next(iter(of.values())).before] for path, of in files.items()}
    return {f"{host.vendor}/{p}": (pristine[p], composed(host, p, pristine[p], of)) for p, of in files.items()}


def edits(trees: Collection[Tree], *options: str) -> Iterator[str]:
    """The user's edits in every file that a concern touches; git itself shows edits in other files."""
    for tree in trees:
        yield file_edits(tree.host, list(tree.files.values()), *options)


def changed_lines(host: Host, views: Collection[FileView]) -> list[str]:
    """The user's edits in these files, briefly: where, and the lines added (+) and removed (-)."""
    lines = file_edits(host, views, "--unified=0").splitlines()
    return [re.sub(r"^(@@ .*? @@).*", r"\1", line) for line in lines if line.startswith(("+", "-", "@@"))]


def file_edits(host: Host, views: Collection[FileView], *options: str) -> str:
    pairs = {}
    for view in views:
        if view.found is not None and view.base is not None and view.raw is not None and view.edited:
            here = {c: i for c, i in view.found.concerns.items() if c in view.damaged or c in view.present}
            pairs[f"{host.vendor}/{view.path}"] = (view.on_disk(insert(view.base, here)), view.raw)
    return git.diff_files(pairs, *options)
