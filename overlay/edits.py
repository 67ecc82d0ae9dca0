"""What in a patched checkout is the user's: a diff against upstream's lines and ours, which git apply -R undoes."""

import re
from collections.abc import Collection, Iterator

from .catalog import Host
from .git import diff_files
from .inserter import insert
from .tree import FileView, Tree


def edits(trees: Collection[Tree], *options: str) -> Iterator[str]:
    """The diff of every file that some concern has a part in; other files are git's own business."""
    for tree in trees:
        yield file_edits(tree.host, list(tree.files.values()), *options)


def changed_lines(host: Host, views: Collection[FileView]) -> list[str]:
    """What is the user's in these files, as short as can be told: where, and the lines added (+) and removed (-)."""
    lines = file_edits(host, views, "--unified=0").splitlines()
    return [re.sub(r"^(@@ .*? @@).*", r"\1", line) for line in lines if line.startswith(("+", "-", "@@"))]


def file_edits(host: Host, views: Collection[FileView], *options: str) -> str:
    pairs = {}
    for view in views:
        if view.found is not None and view.base is not None and view.raw is not None and view.edited:
            here = {c: i for c, i in view.found.concerns.items() if c in view.damaged or c in view.present}
            pairs[f"{host.vendor}/{view.path}"] = (view.on_disk(insert(view.base, here)), view.raw)
    return diff_files(pairs, *options)
