"""Insertions by line number of the pristine file, for any file and any insertions. git is the reference."""

import subprocess

import pytest
from engine_lab import GIT, make_repo
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from overlay.errors import OverlayError
from overlay.inserter import blob_hash, insert, recognise, split_lines
from overlay.locate import align
from overlay.patchfile import FilePatch, Insertion, Patch, render
from overlay.refresh import _blocks

# Few different lines, so that repeated neighbours, which make a position ambiguous, are frequent.
LINES = st.sampled_from([b"\n", b"a\n", b"b\n", b"  a\n", b"a\r\n", b"\x0c\n", b"@@ -1 +1 @@\n", b"--- a/f\n", b"+x\n"])


@st.composite
def files(draw):
    """A file; its last line sometimes has no newline."""
    lines = draw(st.lists(LINES, min_size=1, max_size=12))
    bare = draw(st.sampled_from([b"", b"end"]))
    return b"".join(lines) + bare


@st.composite
def insertion_sets(draw, pristine):
    lines = split_lines(pristine)
    last = len(lines) if lines[-1].endswith(b"\n") else len(lines) - 1
    places = draw(st.lists(st.integers(0, last), unique=True, min_size=1, max_size=5).map(sorted))
    return tuple(Insertion(p, tuple(draw(st.lists(LINES, min_size=1, max_size=3)))) for p in places)


@pytest.fixture(scope="module")
def repo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("git") / "repo"
    make_repo(folder, {"f": b"x\n"})
    return folder


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), pristine=files())
def test_inserting_equals_git_apply_and_undoing_is_the_identity(repo, data, pristine):
    insertions = data.draw(insertion_sets(pristine))
    patched = insert(pristine, {"c": insertions})
    patch = Patch(("why",), (FilePatch("f", blob_hash(pristine), blob_hash(patched), insertions),))
    (repo / "f").write_bytes(pristine)
    for arguments, expected in ((("apply", "--unidiff-zero"), patched), (("apply", "--unidiff-zero", "-R"), pristine)):
        command = [*GIT, "-C", str(repo), *arguments, "-"]
        done = subprocess.run(command, input=render(patch), capture_output=True)
        assert done.returncode == 0, done.stderr
        assert (repo / "f").read_bytes() == expected
    assert recognise(patched, pristine, {"c": insertions}) == {"c"}
    assert recognise(pristine, pristine, {"c": insertions}) == frozenset()


@settings(max_examples=200, deadline=None)
@given(data=st.data(), pristine=files())
def test_any_subset_of_concerns_is_recognised_from_the_bytes_alone(data, pristine):
    concerns = {}
    for name in ("compat", "cpu", "mtm"):  # `check` demands a line that only this concern has
        drawn = data.draw(insertion_sets(pristine))
        concerns[name] = tuple(Insertion(i.after, (*i.lines, name.encode() + b"\n")) for i in drawn)
    chosen = data.draw(st.sets(st.sampled_from(list(concerns))))
    patched = insert(pristine, {n: i for n, i in concerns.items() if n in chosen})
    assert recognise(patched, pristine, concerns) == chosen
    assert recognise(patched.replace(b"a", b"A", 1) + b"more\n", pristine, concerns) is None


@settings(max_examples=300, deadline=None)
@given(data=st.data(), pristine=files())
def test_insertions_read_off_an_edited_file_give_it_back(data, pristine):
    insertions = data.draw(insertion_sets(pristine))
    edited = insert(pristine, {"c": insertions})
    matched = align(split_lines(pristine), split_lines(edited))
    assert None not in matched
    found = _blocks(list(range(1, len(matched) + 1)), matched, split_lines(edited))
    assert insert(pristine, {"c": found}) == edited
    assert len(found) <= len(insertions) + 2  # ambiguous lines must not split a block into many


@settings(max_examples=300, deadline=None)
@given(pristine=files(), edited=files())
def test_only_supersequences_count_as_insertions(pristine, edited):
    old, new = split_lines(pristine), split_lines(edited)
    rest = iter(new)
    subsequence = all(line in rest for line in old)
    assert (None not in align(old, new)) == subsequence


def test_two_concerns_at_one_line_come_in_the_series_order():
    first, second = (Insertion(1, (b"first\n",)),), (Insertion(1, (b"second\n",)),)
    assert insert(b"a\nb\n", {"a": first, "b": second}) == b"a\nfirst\nsecond\nb\n"
    assert insert(b"a\nb\n", {"b": second, "a": first}) == b"a\nsecond\nfirst\nb\n"


def test_the_top_and_the_end_of_a_file_are_places():
    assert insert(b"a\n", {"c": (Insertion(0, (b"top\n",)), Insertion(1, (b"end\n",)))}) == b"top\na\nend\n"


@pytest.mark.parametrize(
    ("pristine", "after", "said"),
    [
        (b"a\nb", 2, "must end in a newline"),
        (b"a\n", 2, "must have the line to insert after; expected line 2, got 1 lines"),
        (b"\xef\xbb\xbfa\n", 0, "must keep its byte-order mark first"),
    ],
    ids=["after a last line without newline", "past the end", "before a byte-order mark"],
)
def test_places_where_no_line_can_be_inserted_are_refused(pristine, after, said):
    with pytest.raises(OverlayError, match=r"^insert: file ") as refused:
        insert(pristine, {"c": (Insertion(after, (b"x\n",)),)})
    assert said in str(refused.value)


def test_git_too_refuses_to_insert_after_a_last_line_without_newline(repo):
    """Some versions of git join the two lines instead. Either way git gives no bytes that ours could equal."""
    (repo / "f").write_bytes(b"a\nb")
    file = FilePatch("f", blob_hash(b"a\nb"), "0" * 40, (Insertion(2, (b"x\n",)),))
    command = [*GIT, "-C", str(repo), "apply", "--unidiff-zero", "-"]
    done = subprocess.run(command, input=render(Patch(("why",), (file,))), capture_output=True)
    assert done.returncode != 0 or (repo / "f").read_bytes() != b"a\nb\nx\n"


def test_the_blob_hash_is_gits(repo):
    done = subprocess.run([*GIT, "hash-object", "--stdin"], input=b"a\r\n", capture_output=True, check=True)
    assert blob_hash(b"a\r\n") == done.stdout.decode().strip()
