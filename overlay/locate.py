"""Our lines in a file that also has a user's edits: finds them, and exchanges them without changing the edits.

The pristine file with our insertions is aligned with the file on disk by a longest common subsequence of lines. One of
our lines is intact if it is matched; only then can it be removed. A line can be inserted only if upstream's lines on
both sides are unedited. It goes directly before the line that it precedes in the patched file, so that a guard stays
next to what it guards.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from .inserter import UPSTREAM, Place, compose, split_lines
from .patchfile import Insertion

Concerns = Mapping[str, Sequence[Insertion]]  # in the series' order
_MOST_EDITS = 600  # beyond this the search gives up: its time and memory grow with the square


class NoPlaceError(Exception):
    """Our lines cannot be inserted, because the lines around their place were edited."""

    def __init__(self, place: Place):
        self.concern, self.after = place
        super().__init__(place)


@dataclass(frozen=True)
class Found:
    """Which parts of a file are upstream's, ours and the user's."""

    lines: list[bytes]  # the file on disk
    concerns: Concerns  # those that were looked for
    at: dict[Place, list[int | None]]  # for each line of a piece, its index in `lines`; None: edited or removed

    def state(self, concern: str) -> str:
        """'whole', 'none' or 'damaged': how much of a concern the file has."""
        found = [i for insertion in self.concerns[concern] for i in self.at[concern, insertion.after]]
        return "whole" if None not in found else "damaged" if any(i is not None for i in found) else "none"

    def removed(self, concern: str) -> bool:
        """Whether an absent concern was removed cleanly: nothing is left in its places, not even a changed line."""
        return all(self._gap_is_clean(i.after) for i in self.concerns[concern])

    def _gap_is_clean(self, after: int) -> bool:
        start = self.at.get((UPSTREAM, after), [-1])[0]
        end = self.at.get((UPSTREAM, after + 1), [len(self.lines)])[0]
        return start is not None and end is not None and not self.strangers & set(range(start + 1, end))

    @property
    def strangers(self) -> set[int]:
        """Indices of lines that are neither upstream's nor ours."""
        return set(range(len(self.lines))) - {i for found in self.at.values() for i in found if i is not None}


def locate(data: bytes, pristine: bytes, concerns: Concerns, name: str = "file") -> Found:
    """Find upstream's lines, and each concern's, in an edited file."""
    pieces = compose(pristine, concerns, name)
    lines = split_lines(data)
    old = [line for _, piece in pieces for line in piece]
    matched = iter(align(*([line.replace(b"\r\n", b"\n") for line in side] for side in (old, lines))))
    return Found(lines, concerns, {place: [next(matched) for _ in piece] for place, piece in pieces})


def exchange(found: Found, pristine: bytes, want: Concerns, ending: bytes = b"\n") -> bytes:
    """The file with `want` instead of the concerns that were found; all of the user's edits stay.

    Raises:
        NoPlaceError: if an upstream line next to an insertion was edited.
    """
    have = {(c, i.after): i.lines for c, insertions in found.concerns.items() for i in insertions}
    new: dict[int, list[bytes]] = {}
    kept: set[Place] = set()
    anchor: int | None = len(found.lines)  # index of what comes after; a new piece goes before it
    for place, lines in reversed(compose(pristine, want)):
        if place[0] == UPSTREAM or (have.get(place) == tuple(lines) and found.at[place][0] is not None):
            kept.add(place)
            anchor = found.at[place][0]
            continue
        before = found.at.get((UPSTREAM, place[1]), [-1])[0]
        at_end = anchor == len(found.lines) and found.lines and not found.lines[-1].endswith(b"\n")
        if anchor is None or before is None or at_end:
            raise NoPlaceError(place)
        new[anchor] = [line[:-1] + ending for line in lines] + new.get(anchor, [])
    gone = {i for place, indices in found.at.items() if place[0] != UPSTREAM and place not in kept for i in indices}
    out = []
    for index, line in enumerate(found.lines):
        out += [*new.get(index, ()), *([] if index in gone else [line])]
    return b"".join(out + new.get(len(found.lines), []))


def align(old: list[bytes], new: list[bytes]) -> list[int | None]:
    """For each line of `old`, the index of the matching line in `new`, in ascending order; None if there is none.

    As few lines as possible stay unmatched. If equal lines leave a choice (a blank line before or after a block), it
    takes the fewest runs of new lines, then the lowest place in the file, which is git's habit.
    """
    late = _longest_common(old, new)
    early = [None if i is None else len(new) - 1 - i for i in reversed(_longest_common(old[::-1], new[::-1]))]
    return min(late, early, key=lambda matched: _runs(matched, len(new)))


def _runs(matched: list[int | None], length: int) -> int:
    ends = [-1, *(i for i in matched if i is not None), length]
    return sum(b > a + 1 for a, b in pairwise(ends))


def _longest_common(old: list[bytes], new: list[bytes]) -> list[int | None]:
    """Myers' greedy algorithm (An O(ND) difference algorithm, 1986), on the lines that both sides have."""
    common = set(old) & set(new)
    a = [i for i, line in enumerate(old) if line in common]
    b = [i for i, line in enumerate(new) if line in common]
    reach, rounds = {1: 0}, []  # diagonal -> how far along `a` a path with that many edits gets
    for edits in range(min(len(a) + len(b), _MOST_EDITS) + 1):
        rounds.append(dict(reach))
        for diagonal in range(-edits, edits + 1, 2):
            down = diagonal == -edits or (diagonal != edits and reach[diagonal - 1] < reach[diagonal + 1])
            x = reach[diagonal + 1] if down else reach[diagonal - 1] + 1
            while x < len(a) and 0 <= x - diagonal < len(b) and old[a[x]] == new[b[x - diagonal]]:
                x += 1
            reach[diagonal] = x
            if x >= len(a) and x - diagonal >= len(b):
                return _path(rounds, diagonal, a, b, len(old))
    return [None] * len(old)


def _path(rounds: list[dict[int, int]], diagonal: int, a: list[int], b: list[int], length: int) -> list[int | None]:
    """Trace the path back through the rounds; every step along a diagonal is a match."""
    matched: list[int | None] = [None] * length
    x = len(a)
    for edits in range(len(rounds) - 1, -1, -1):
        reach = rounds[edits]
        down = diagonal == -edits or (diagonal != edits and reach[diagonal - 1] < reach[diagonal + 1])
        before = diagonal + 1 if down else diagonal - 1
        start = reach[before] + (not down) if edits else 0
        while x > start:
            x -= 1
            matched[a[x]] = b[x - diagonal]
        x, diagonal = (reach[before] if edits else 0), before
    return matched
