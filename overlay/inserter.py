"""From pristine bytes and insertions to patched bytes; and the reverse: which insertions are in given bytes."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations

from .errors import OverlayError
from .patchfile import Insertion

BOM = b"\xef\xbb\xbf"
UPSTREAM = ""  # in place of a concern's name
Place = tuple[str, int]  # (concern or UPSTREAM, line number in the pristine file; for our lines, the one they follow)


def blob_hash(data: bytes) -> str:
    """git's name for a file with these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def split_lines(data: bytes) -> list[bytes]:
    """Lines as git counts them: split at \\n only, which is kept (splitlines() would also split at \\r and \\f)."""
    lines = data.split(b"\n")
    last = lines.pop()
    return [line + b"\n" for line in lines] + ([last] if last else [])


def compose(
    pristine: bytes, concerns: Mapping[str, Sequence[Insertion]], name: str = "file"
) -> list[tuple[Place, list[bytes]]]:
    """The file with every concern's lines, in pieces: upstream's lines one by one, ours an insertion at a time.

    All line numbers are the pristine file's. If two concerns insert after the same line, the earlier in `concerns` (the
    series' order) comes first. Refuses what git would not call an insertion (after a last line without a newline), and
    what would move a byte-order mark from the start of the file.
    """
    lines = split_lines(pristine)
    at: dict[int, list[tuple[Place, list[bytes]]]] = defaultdict(list)
    for concern, insertions in concerns.items():
        for insertion in insertions:
            _check_place(lines, insertion.after, name)
            at[insertion.after].append(((concern, insertion.after), list(insertion.lines)))
    pieces = at[0]
    for number, line in enumerate(lines, start=1):
        pieces += [((UPSTREAM, number), [line]), *at.get(number, ())]
    return pieces


def insert(pristine: bytes, concerns: Mapping[str, Sequence[Insertion]], name: str = "file") -> bytes:
    """The bytes of what `compose` returns."""
    return b"".join(line for _, lines in compose(pristine, concerns, name) for line in lines)


def _check_place(lines: list[bytes], after: int, name: str) -> None:
    if after > len(lines):
        raise OverlayError(
            f"insert: {name} must have the line to insert after; expected line {after}, got {len(lines)} lines. "
            "Renew the patch with: python tools/apply_patches.py refresh"
        )
    if after and after == len(lines) and not lines[-1].endswith(b"\n"):
        raise OverlayError(
            f"insert: {name} must end in a newline to be appended to; expected an insertion before line {after}, "
            f"got one after it. Insert earlier in the file: the last line would have to change."
        )
    if after == 0 and lines and lines[0].startswith(BOM):
        raise OverlayError(
            f"insert: {name} must keep its byte-order mark first; expected an insertion after line 1 or later, "
            "got one at the top. Insert after line 1."
        )


def recognise(data: bytes, pristine: bytes, concerns: Mapping[str, Sequence[Insertion]]) -> frozenset[str] | None:
    """The set of concerns whose lines alone turn `pristine` into `data`; None if there is no such set."""
    names = list(concerns)
    sizes = {n: sum(len(line) for i in concerns[n] for line in i.lines) for n in names}
    grown = len(data) - len(pristine)
    for count in range(len(names) + 1):
        for chosen in combinations(names, count):
            # Compare lengths first: that is cheap, building the bytes is not.
            if sum(sizes[n] for n in chosen) == grown and insert(pristine, {n: concerns[n] for n in chosen}) == data:
                return frozenset(chosen)
    return None
