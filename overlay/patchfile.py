"""What a patch file may contain: a reason, then for each upstream file the lines to insert, and nothing else.

    # Why this exists ...
    diff --git a/train.py b/train.py
    index <pristine blob>..<blob with this patch alone> 100644
    --- a/train.py
    +++ b/train.py
    @@ -43,0 +44,3 @@
    +...

This subset of git's format cannot contain an upstream line: only `+` lines, bare hunk headings, no context.
"""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from .errors import OverlayError

_DIFF = re.compile(rb"diff --git a/(\S+) b/(\S+)\n")
_INDEX = re.compile(rb"index ([0-9a-f]{40})\.\.([0-9a-f]{40}) (100644|100755)\n")
_HUNK = re.compile(rb"@@ -(\d+),0 \+(\d+)(?:,(\d+))? @@\n")


@dataclass(frozen=True)
class Insertion:
    """Lines (bytes, each ending in a newline) that go after line `after` of the pristine file; 0 is its top."""

    after: int
    lines: tuple[bytes, ...]


@dataclass(frozen=True)
class FilePatch:
    path: str
    before: str  # blob hash of the pristine file
    after: str  # blob hash with only this concern's lines
    insertions: tuple[Insertion, ...]
    mode: str = "100644"

    @property
    def line_count(self) -> int:
        return sum(len(i.lines) for i in self.insertions)


@dataclass(frozen=True)
class Patch:
    why: tuple[str, ...]  # the opening comment, without `#`
    files: tuple[FilePatch, ...]

    @property
    def line_count(self) -> int:
        return sum(f.line_count for f in self.files)


class _Lines:
    """The lines of one patch file, with the current position for error messages."""

    def __init__(self, data: bytes, name: str):
        self.name = name
        self.lines = data.split(b"\n")
        self.unfinished = self.lines.pop() != b""  # the last line has no newline
        self.at = 0

    def peek(self) -> bytes | None:
        return self.lines[self.at] + b"\n" if self.at < len(self.lines) else None

    def take(self) -> bytes:
        line = self.peek()
        if line is None:
            raise self.refusal("continue", "more lines", b"the end of the file")
        self.at += 1
        return line

    def expect(self, pattern: re.Pattern[bytes], form: str) -> re.Match[bytes]:
        found = pattern.fullmatch(self.peek() or b"")
        if not found:
            raise self.refusal("be one heading of an insert-only patch", form, self.peek() or b"the end of the file")
        self.at += 1
        return found

    def refusal(self, rule: str, expected: str, got: bytes | str) -> OverlayError:
        shown = got if isinstance(got, str) else repr(got.decode("utf-8", "replace"))[1:-1][:60]
        where = f"{self.name}:{self.at + 1}"
        return OverlayError(
            f"parse: {where} must {rule}; expected {expected}, got {shown}. "
            "Write patches with: python tools/apply_patches.py refresh"
        )


def parse(data: bytes, name: str) -> Patch:
    """Read a patch file; `name` is its name in errors. Refuses anything but insertions."""
    lines = _Lines(data, name)
    if lines.unfinished:
        lines.at = len(lines.lines)
        raise lines.refusal("end in a newline", "a whole last line", "the end of the file")
    why = _opening(lines)
    files: list[FilePatch] = []
    while lines.peek() is not None:
        files.append(_file(lines))
        if files[-1].path in {f.path for f in files[:-1]}:
            raise lines.refusal("name each file once", "one section a file", files[-1].path + " again")
    if not files:
        raise lines.refusal("insert something", "diff --git a/FILE b/FILE", "the end of the file")
    return Patch(why, tuple(files))


def _opening(lines: _Lines) -> tuple[str, ...]:
    why: list[str] = []
    while (line := lines.peek()) is not None and (line.startswith(b"#") or line == b"\n"):
        if line.startswith(b"#"):
            why.append(line.decode("utf-8", "replace").lstrip("#").strip())
        lines.take()
    if not any(re.search(r"\w", text) for text in why):
        lines.at = 0
        raise lines.refusal("open with why the patch exists", "a comment, '# Why ...'", lines.peek() or b"nothing")
    return tuple(why)


def _file(lines: _Lines) -> FilePatch:
    old, new = lines.expect(_DIFF, "diff --git a/FILE b/FILE").groups()
    path = _safe_path(lines, old, new)
    before, after, mode = lines.expect(_INDEX, "index <40 hex>..<40 hex> 100644").groups()
    for mark in (b"--- a/", b"+++ b/"):
        lines.expect(re.compile(re.escape(mark + old) + rb"\n"), (mark + old).decode())
    insertions: list[Insertion] = []
    while (line := lines.peek()) is not None and line.startswith(b"@@"):
        insertions.append(_hunk(lines, insertions))
    if not insertions:
        raise lines.refusal("open a hunk", "@@ -LINE,0 +LINE,COUNT @@", lines.peek() or b"the end of the file")
    return FilePatch(path, before.decode(), after.decode(), tuple(insertions), mode.decode())


def _safe_path(lines: _Lines, old: bytes, new: bytes) -> str:
    path = old.decode("utf-8", "replace")
    pure = PurePosixPath(path)
    bad = pure.is_absolute() or {"..", ".git", "."} & set(path.split("/")) or re.search(r'[\\:"]', path)
    if old != new or bad or not path.isascii():
        lines.at -= 1
        raise lines.refusal("name a file inside the checkout, the same twice", "a/FILE b/FILE", old + b" " + new)
    return path


def _hunk(lines: _Lines, earlier: list[Insertion]) -> Insertion:
    start, new_start, count = (int(n or 1) for n in lines.expect(_HUNK, "a bare @@ -43,0 +44,3 @@").groups())
    # git places a zero-context hunk by its new-side number, so a wrong one would land elsewhere under git apply.
    due = start + 1 + sum(len(i.lines) for i in earlier)
    if new_start != due or count < 1 or (earlier and start <= earlier[-1].after):
        lines.at -= 1
        raise lines.refusal("number its lines in order", f"+{due} after -{start},0", f"+{new_start},{count}")
    inserted = []
    for _ in range(count):
        line = lines.peek()
        if line is None or not line.startswith(b"+"):
            raise lines.refusal("be an inserted line", f"{count} lines with '+'", line or b"the end of the file")
        inserted.append(lines.take()[1:])
    return Insertion(start, tuple(inserted))


def render(patch: Patch) -> bytes:
    """The patch file's bytes; parse(render(p)) == p."""
    out = [f"# {text}".rstrip().encode() + b"\n" for text in patch.why]
    for file in patch.files:
        out.append(f"diff --git a/{file.path} b/{file.path}\n".encode())
        out.append(f"index {file.before}..{file.after} {file.mode}\n".encode())
        out.append(f"--- a/{file.path}\n+++ b/{file.path}\n".encode())
        shift = 1
        for insertion in file.insertions:
            count = len(insertion.lines)
            length = "" if count == 1 else f",{count}"
            out.append(f"@@ -{insertion.after},0 +{insertion.after + shift}{length} @@\n".encode())
            out.extend(b"+" + line for line in insertion.lines)
            shift += count
    return b"".join(out)
