"""What a run was trained with: each host's commit, our patches in it, and any other changes."""

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

from . import git
from .catalog import load_hosts
from .locate import exchange
from .status import status
from .tree import FileView, Tree, read_tree

# Untracked files that a run can pick up: code and settings. Results and data are there too, and change all the time.
_CODE = {".py", ".pyx", ".so", ".c", ".cc", ".cpp", ".cu", ".cuh", ".h", ".hpp", ".yaml", ".yml"}


class Provenance(TypedDict):
    commit: str | None  # the checkout's HEAD; None: not fetched
    state: str  # as in `apply_patches.py status`: 'applied', 'pristine', 'partly applied, modified', ...
    concerns: list[str]  # those whose lines are complete in all of their files, as in today's patch files
    patches: dict[str, str]  # concern -> sha256 of its patch file
    foreign: str | None  # sha256 of all that is neither the commit's nor these concerns' lines; None: nothing


def provenance(root: Path, name: str) -> Provenance:
    """The contents of the host's checkout under `root`. Writes nothing.

    `foreign` covers edited, added, removed and unreadable tracked files, lines of ours that belong to no listed concern
    (partly applied, or from older patches), and untracked source files that git does not ignore.

    Raises:
        KeyError: for an unknown host.
        OverlayError: if a patch file does not parse, or git fails.
    """
    host = {h.name: h for h in load_hosts(root)}[name]
    tree = read_tree(host, git.open_checkout(host.folder))
    heading = status(tree, ()).lines[0].partition(": ")[2]
    if tree.checkout is None:
        return Provenance(commit=None, state=heading, concerns=[], patches={}, foreign=None)
    concerns = [c for c in tree.patches if all(_has(tree.files[f.path], c) for f in tree.patches[c].files)]
    parts = sorted(_foreign(tree, set(concerns)))
    return Provenance(
        commit=tree.checkout.head,
        state=heading,
        concerns=concerns,
        patches={c: hashlib.sha256(host.patch_path(c).read_bytes()).hexdigest() for c in concerns},
        foreign=hashlib.sha256(json.dumps(parts).encode()).hexdigest() if parts else None,
    )


def _has(view: FileView, concern: str) -> bool:
    return concern in view.patches and tuple(view.present.get(concern, ())) == view.patches[concern].insertions


def _foreign(tree: Tree, concerns: set[str]) -> Iterator[tuple[str, str]]:
    """(path, mode and hash) of each file that is not HEAD's, with or without these concerns' lines."""
    assert tree.checkout is not None
    folder = tree.checkout.folder
    blobs = git.tree_blobs(tree.checkout, tree.checkout.head) or {}
    for path in {*git.changed_paths(tree.checkout), *tree.files}:
        mode, blob = blobs.get(path, ("", ""))
        got = _facts(folder / path, _without(tree.files[path], concerns) if path in tree.files else None)
        if got != f"{mode} {blob}".strip():
            yield path, got
    for path in git.untracked_paths(tree.checkout):
        if Path(path).suffix in _CODE or (folder / path).is_symlink():
            yield path, _facts(folder / path, None)


def _without(view: FileView, concerns: set[str]) -> bytes | None:
    """The file without these concerns' lines; None if they cannot be separated, so that the whole file counts."""
    if view.found is None or view.base is None or view.current is None:
        return None
    rest = {c: i for c, i in view.present.items() if c not in concerns}
    data = exchange(view.found, view.base, rest)
    return data.replace(b"\r\n", b"\n") if view.crlf else data


def _facts(target: Path, data: bytes | None) -> str:
    """git's mode and blob hash of the file; '' if there is none."""
    try:
        mode = os.lstat(target).st_mode
        if stat.S_ISLNK(mode):
            return f"120000 {git.blob_hash(os.fsencode(os.readlink(target)))}"
        if not stat.S_ISREG(mode):
            return "another kind of file"
        executable = "100755" if mode & stat.S_IXUSR else "100644"
        return f"{executable} {git.blob_hash(target.read_bytes() if data is None else data)}"
    except (FileNotFoundError, NotADirectoryError):
        return ""
