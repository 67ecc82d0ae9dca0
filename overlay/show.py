"""The readable diff: each concern's lines among upstream's, which come from the checkout and are never stored."""

from collections.abc import Iterator, Sequence

from .errors import ABSENT, STALE, OverlayError, Problem
from .inserter import split_lines
from .patchfile import FilePatch, Insertion
from .plan import composed, fetch_message
from .tree import FileView, Tree


def show(trees: Sequence[Tree], selected: Sequence[str], context: int) -> Iterator[str]:
    """Lines of one unified diff per concern, against the pristine files, under the reason for it."""
    shown = [t for t in trees if t.patches]
    if absent := [t.host for t in shown if t.checkout is None]:
        raise OverlayError(Problem(fetch_message(absent, "show"), ABSENT))
    for tree in shown:
        for concern, patch in tree.patches.items():
            if selected and concern not in selected:
                continue
            name = f"{tree.host.name}/{concern}"
            yield f"# ==== {name}: {len(patch.files)} files, {patch.line_count} lines inserted"
            yield from (f"# {text}".rstrip() for text in patch.why)
            for file in patch.files:
                view = tree.files[file.path]
                yield from _file(tree, view, file, concern, context)
            yield ""


def _file(tree: Tree, view: FileView, file: FilePatch, concern: str, context: int) -> Iterator[str]:
    if view.pristine is None or concern not in view.patches:
        name = f"{tree.host.vendor}/{file.path}"
        text = f"show: {name} must be the file that {concern} was made for; expected {file.before}, got "
        raise OverlayError(Problem(f"{text}{view.pristine_blob or 'none'}. See: status --host {tree.host.name}", STALE))
    composed(tree.host, view, [concern])  # the hash must hold before anyone reads it
    yield f"diff --git a/{file.path} b/{file.path}"
    yield f"--- a/{file.path}"
    yield f"+++ b/{file.path}"
    yield from _hunks(split_lines(view.pristine), file.insertions, context)


def _hunks(lines: list[bytes], insertions: Sequence[Insertion], context: int) -> Iterator[str]:
    shift = 0
    for group in _grouped(insertions, context):
        first = max(group[0].after - context, 0)
        last = min(group[-1].after + context, len(lines))
        added = sum(len(i.lines) for i in group)
        kept = last - first
        start = first + 1 if kept else first
        yield f"@@ -{start},{kept} +{first + 1 + shift},{kept + added} @@"
        at = first
        for insertion in group:
            yield from (_text(" ", line) for line in lines[at : insertion.after])
            yield from (_text("+", line) for line in insertion.lines)
            at = insertion.after
        yield from (_text(" ", line) for line in lines[at:last])
        shift += added


def _grouped(insertions: Sequence[Insertion], context: int) -> list[list[Insertion]]:
    groups: list[list[Insertion]] = []
    for insertion in insertions:
        if groups and insertion.after - groups[-1][-1].after <= 2 * context:
            groups[-1].append(insertion)
        else:
            groups.append([insertion])
    return groups


def _text(mark: str, line: bytes) -> str:
    text = mark + line.decode("utf-8", "replace").rstrip("\n")
    return text if line.endswith(b"\n") else text + "\n\\ No newline at end of file"
