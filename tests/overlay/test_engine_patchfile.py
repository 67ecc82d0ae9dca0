"""What a patch file may contain: insertions, their positions and a reason, but no upstream text."""

import pytest
from engine_lab import CONCERNS, FILES, file_patch

from overlay.errors import OverlayError
from overlay.patchfile import Patch, parse, render

GOOD = b"""# Why: to test.
diff --git a/train.py b/train.py
index 1111111111111111111111111111111111111111..2222222222222222222222222222222222222222 100644
--- a/train.py
+++ b/train.py
@@ -3,0 +4,2 @@
+one
++++ two
@@ -7,0 +10 @@
+three
"""

BAD = {
    "no reason": (GOOD.replace(b"# Why: to test.\n", b""), "open with why"),
    "an empty reason": (GOOD.replace(b"# Why: to test.", b"#"), "open with why"),
    "a context line": (GOOD.replace(b"+one\n", b"+one\n upstream\n"), "be an inserted line"),
    "a removed line": (GOOD.replace(b"+one\n", b"-one\n"), "be an inserted line"),
    "a heading with upstream's text": (GOOD.replace(b"@@ -3,0 +4,2 @@", b"@@ -3,0 +4,2 @@ def f():"), "bare @@"),
    "a hunk that removes": (GOOD.replace(b"-3,0", b"-3,1"), "bare @@"),
    "a wrong new-side number": (GOOD.replace(b"+10 @@", b"+9 @@"), "expected +10 after -7,0"),
    "hunks out of order": (GOOD.replace(b"-7,0 +10", b"-2,0 +5"), "number its lines in order"),
    "too few lines": (GOOD.replace(b"+4,2", b"+4,3"), "3 lines with '+'"),
    "too many lines": (GOOD.replace(b"+4,2", b"+4"), "diff --git"),
    "no hunk": (GOOD[: GOOD.index(b"@@")], "open a hunk"),
    "no file": (b"# Why: to test.\n", "insert something"),
    "a short blob hash": (GOOD.replace(b"1" * 40, b"1111111"), "index <40 hex>"),
    "a new file": (GOOD.replace(b"--- a/train.py", b"--- /dev/null"), "--- a/train.py"),
    "a link": (GOOD.replace(b"100644", b"120000"), "100644"),
    "a rename": (GOOD.replace(b"b/train.py\nindex", b"b/other.py\nindex"), "the same twice"),
    "a path out of the checkout": (GOOD.replace(b"train.py", b"../train.py"), "inside the checkout"),
    "an absolute path": (GOOD.replace(b"a/train.py", b"a//train.py").replace(b"b/", b"b//"), "inside the checkout"),
    "a path into .git": (GOOD.replace(b"train.py", b".git/hooks/x"), "inside the checkout"),
    "the same file twice": (GOOD + GOOD.split(b"\n", 1)[1], "name each file once"),
    "a last line without newline": (GOOD[:-1], "end in a newline"),
    "a no-newline mark": (GOOD + b"\\ No newline at end of file\n", "diff --git"),
    "carriage returns": (GOOD.replace(b"\n", b"\r\n"), "diff --git"),
}


def test_a_good_patch_is_read_and_written_back_byte_for_byte():
    patch = parse(GOOD, "x.patch")
    assert render(patch) == GOOD
    assert [(i.after, i.lines) for i in patch.files[0].insertions] == [
        (3, (b"one\n", b"+++ two\n")),
        (7, (b"three\n",)),
    ]
    assert patch.line_count == 3


@pytest.mark.parametrize("name", BAD)
def test_anything_but_insertions_is_refused_with_file_and_line(name):
    data, said = BAD[name]
    with pytest.raises(OverlayError, match=r"^parse: x\.patch:\d+ must ") as refused:
        parse(data, "x.patch")
    assert said in str(refused.value)


def test_a_form_feed_or_carriage_return_in_a_line_is_part_of_it():
    files = (file_patch("train.py", FILES["alpha"]["train.py"], [(1, [b"a\x0cb\rc\r\n", b"\xff\n"])]),)
    patch = Patch(("why",), files)
    assert parse(render(patch), "x") == patch


def test_patches_hold_no_line_of_the_files_they_are_for(lab):
    for host, concerns in CONCERNS.items():
        upstream = {line for data in FILES[host].values() for line in data.split(b"\n") if line}
        for concern in concerns:
            text = (lab.root / "patches" / host / f"{concern}.patch").read_bytes()
            assert not upstream & {line.lstrip(b"+- ") for line in text.split(b"\n")}
