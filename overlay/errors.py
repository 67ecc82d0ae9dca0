"""Refusals, and the exit code for each kind."""

from dataclasses import dataclass

COMMAND = "python tools/apply_patches.py"

OK = 0
FAILED = 1  # a patch file or a setting is wrong, or a file could not be written
USAGE = 2  # click's own exit code
NOT_APPLIED = 3  # status only: a selected concern is not, or not completely, in the tree
ABSENT = 4  # the submodule is not fetched
STALE = 5  # the patches are for another upstream commit or blob, or the tree has an older version of them
MODIFIED = 6  # a file has edits that do not come from a patch

EXIT_CODES = """\b
Exit codes (the highest that holds):
  0  nothing wrong        3  status: not or only partly applied    5  stale: another upstream, or older patches
  1  wrong patch, failed  4  absent: the submodule is not fetched  6  modified: edits that no patch explains
  2  wrong usage
"""


@dataclass(frozen=True)
class Problem:
    """One reason for a refusal, worded for the person who has to fix it."""

    text: str
    code: int = FAILED


class OverlayError(Exception):
    """Nothing was written; every reason is in `problems`."""

    def __init__(self, *problems: Problem | str):
        self.problems = [Problem(p) if isinstance(p, str) else p for p in problems]
        super().__init__("\n".join(p.text for p in self.problems))

    @property
    def code(self) -> int:
        return max(p.code for p in self.problems)
