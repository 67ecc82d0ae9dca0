"""refresh writes a concern's patch from an edited checkout, and refuses edits that a patch cannot hold."""

import pytest
from engine_lab import FILES, LAYER, TRAIN, expected, file_patch, git

from overlay.patchfile import parse

ALL = ("compat", "cpu", "mtm")


def patch_of(lab, concern, host="alpha"):
    return parse((lab.root / "patches" / host / f"{concern}.patch").read_bytes(), concern)


def patch_bytes(lab):
    return {p.name: p.read_bytes() for p in (lab.root / "patches" / "alpha").glob("*.patch")}


def edit(lab, old, new, path="train.py"):
    data = lab.file(path).read_bytes()
    assert data.count(old) == 1
    lab.file(path).write_bytes(data.replace(old, new))


@pytest.mark.parametrize("record", ["kept", "lost"])
@pytest.mark.parametrize("concern", ALL)
def test_refresh_of_an_unedited_checkout_changes_nothing(lab, concern, record):
    lab.ok("apply")
    before = patch_bytes(lab)
    if record == "lost":
        lab.forget()
    assert "unchanged" in lab.ok("refresh", "--host", "alpha", "--concern", concern).out
    assert patch_bytes(lab) == before


@pytest.mark.parametrize("record", ["kept", "lost"])
def test_an_inserted_line_goes_into_the_named_concern_only(lab, record):
    lab.ok("apply")
    before = patch_bytes(lab)
    edit(lab, b"train 12\n", b"train 12\nmine\n")
    if record == "lost":
        lab.forget()
    lab.ok("refresh", "--host", "alpha", "--concern", "cpu")
    after = patch_bytes(lab)
    assert {n for n in after if after[n] != before[n]} == {"cpu.patch"}
    want = file_patch("train.py", TRAIN, [(7, [b"cpu\n"]), (12, [b"mine\n"]), (20, [b"cpu last\n"])])
    assert patch_of(lab, "cpu").files == (want,)
    assert patch_of(lab, "cpu").why == ("Why: a test needs it.",)
    assert "nothing to do" in lab.ok("apply", "--host", "alpha").out
    lab.ok("check")
    lab.ok("revert")
    assert lab.contents() == lab.want(())


def test_the_hunk_numbers_are_the_pristine_files_whatever_else_is_applied(lab):
    lab.ok("apply", "--concern", "compat", "--concern", "mtm")
    edit(lab, b"train 15\n", b"train 15\nmine\n")
    lab.ok("refresh", "--host", "alpha", "--concern", "mtm")
    lab.ok("revert")
    git(lab.folder(), "apply", "--unidiff-zero", str(lab.root / "patches" / "alpha" / "mtm.patch"))
    assert lab.file().read_bytes() == TRAIN.replace(b"train 7\n", b"train 7\nmtm\n").replace(b"15\n", b"15\nmine\n")


def test_a_line_taken_out_of_the_concern_leaves_its_patch(lab):
    lab.ok("apply")
    edit(lab, b"cpu last\n", b"")
    lab.ok("refresh", "--host", "alpha", "--concern", "cpu")
    assert patch_of(lab, "cpu").files == (file_patch("train.py", TRAIN, [(7, [b"cpu\n"])]),)


def test_a_changed_line_of_the_concern_itself_is_fine(lab):
    lab.ok("apply")
    edit(lab, b"cpu last\n", b"cpu very last\n")
    lab.ok("refresh", "--host", "alpha", "--concern", "cpu")
    assert patch_of(lab, "cpu").files[0].insertions[-1].lines == (b"cpu very last\n",)


def test_a_new_file_section_is_added_for_a_file_that_no_patch_touched(lab):
    lab.ok("apply")
    edit(lab, b"one\n", b"one\nmine\n", "bare.py")
    lab.ok("refresh", "--host", "alpha", "--concern", "cpu")
    assert patch_of(lab, "cpu").files[1] == file_patch("bare.py", b"one\ntwo", [(1, [b"mine\n"])])
    lab.ok("revert")
    assert lab.contents() == lab.want(())


def test_a_crlf_checkout_gives_the_same_patch(lab):
    lab.ok("apply")
    edit(lab, b"train 12\n", b"train 12\nmine\n")
    lab.file().write_bytes(lab.file().read_bytes().replace(b"\n", b"\r\n"))
    lab.ok("refresh", "--host", "alpha", "--concern", "cpu")
    assert patch_of(lab, "cpu").files[0].insertions[1].lines == (b"mine\n",)


REFUSED = {
    "an upstream line changed": ("train.py", b"train 12\n", b"train twelve\n", "train.py:16 must keep"),
    "an upstream line removed": ("train.py", b"train 12\n", b"", "train.py:16 must keep"),
    "an insertion and a change": ("train.py", b"train 12\n", b"mine\ntrain twelve\n", "train.py:16 must keep"),
    "another concern's line changed": ("train.py", b"compat A\n", b"compat a\n", "compat"),
    "another concern's line removed": ("train.py", b"compat A\n", b"", "compat"),
    "a line inside another concern's block": (
        "train.py",
        b"compat A\n",
        b"compat A\nmine\n",
        "train.py:5 must keep each",
    ),
    "a line before an earlier concern's": ("train.py", b"compat A\n", b"mine\ncompat A\n", "train.py:4 must keep each"),
    "an append without final newline": ("bare.py", b"two", b"two\nmine\n", "bare.py:2 must keep"),
    "a last line without newline inserted": ("train.py", b"cpu last\n", b"cpu last\nmine", "must end in a newline"),
}


@pytest.mark.parametrize("record", ["kept", "lost"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_insertion_is_refused_by_file_and_line_and_nothing_is_written(lab, name, record):
    path, old, new, said = REFUSED[name]
    lab.ok("apply")
    edit(lab, old, new, path)
    if record == "lost":
        lab.forget()
    before, patches = lab.contents(), patch_bytes(lab)
    done = lab.run("refresh", "--host", "alpha", "--concern", "cpu")
    assert (done.code != 0, said in done.err) == (True, True), done
    assert (lab.contents(), patch_bytes(lab)) == (before, patches)


def test_all_refused_places_are_named_at_once(lab):
    lab.ok("apply")
    edit(lab, b"train 2\n", b"")
    edit(lab, b"train 12\n", b"train twelve\n")
    edit(lab, b"layer 5\n", b"", "net/layer.py")
    done = lab.run("refresh", "--host", "alpha", "--concern", "cpu")
    assert done.code == 6
    assert [s in done.err for s in ("train.py:2 ", "train.py:15 ", "net/layer.py:8 ")] == [True] * 3


def test_lines_never_applied_are_not_lost_by_a_refresh(lab):
    edit(lab, b"train 12\n", b"train 12\nmine\n")
    before = patch_bytes(lab)
    done = lab.run("refresh", "--host", "alpha", "--concern", "mtm")
    assert done.code == 6
    assert "must have been edited with mtm applied" in done.err
    assert "net/layer.py must have lines of mtm" in done.err
    assert "apply --host alpha --concern mtm" in done.err
    assert patch_bytes(lab) == before


def test_a_files_lines_go_only_when_asked_for(lab):
    lab.ok("apply", "--concern", "mtm")
    lab.file("net/layer.py").write_bytes(LAYER)
    assert lab.run("refresh", "--host", "alpha", "--concern", "mtm").code == 6
    lab.ok("refresh", "--host", "alpha", "--concern", "mtm", "--drop", "net/layer.py")
    assert [f.path for f in patch_of(lab, "mtm").files] == ["train.py"]


def test_a_new_concern_needs_its_place_in_the_series_and_a_reason(lab):
    lab.ok("apply")
    edit(lab, b"train 12\n", b"train 12\nmine\n")
    done = lab.run("refresh", "--host", "alpha", "--concern", "launch", "--why", "Why: torchrun.")
    assert (done.code, "patches/alpha/series" in done.err) == (2, True)
    series = lab.root / "patches" / "alpha" / "series"
    series.write_text(series.read_text() + "launch\n")
    done = lab.run("refresh", "--host", "alpha", "--concern", "launch")
    assert (done.code, "--why" in done.err) == (1, True)
    lab.ok("refresh", "--host", "alpha", "--concern", "launch", "--why", "Why: torchrun.")
    assert patch_of(lab, "launch").why == ("Why: torchrun.",)
    assert patch_of(lab, "launch").files == (file_patch("train.py", TRAIN, [(12, [b"mine\n"])]),)
    lab.ok("check")


def test_refresh_renews_a_stale_patch_once_its_lines_are_back(lab):
    newer = b"new upstream\n" + TRAIN
    lab.file().write_bytes(newer)
    git(lab.folder(), "commit", "-qam", "newer")
    lab.write_upstreams()
    lab.file().write_bytes(newer.replace(b"train 7\n", b"train 7\ncpu\n").replace(b"20\n", b"20\ncpu last\n"))
    lab.ok("refresh", "--host", "alpha", "--concern", "cpu")
    assert patch_of(lab, "cpu").files == (file_patch("train.py", newer, [(8, [b"cpu\n"]), (21, [b"cpu last\n"])]),)


def test_dry_run_prints_the_patch_and_writes_nothing(lab):
    lab.ok("apply")
    edit(lab, b"train 12\n", b"train 12\nmine\n")
    before = patch_bytes(lab)
    assert "+mine\n" in lab.ok("refresh", "--host", "alpha", "--concern", "cpu", "--dry-run").out
    assert patch_bytes(lab) == before


def test_a_new_upstream_file_is_refused_for_a_patch_can_only_insert(lab):
    lab.ok("apply")
    lab.file("extra.py").write_bytes(b"mine\n")
    git(lab.folder(), "add", "extra.py")
    done = lab.run("refresh", "--host", "alpha", "--concern", "cpu")
    assert (done.code, "vendor/alpha/extra.py" in done.err) == (6, True)
    assert lab.file().read_bytes() == expected("alpha", "train.py", ALL)
    assert FILES["alpha"].keys().isdisjoint({"extra.py"})


@pytest.mark.parametrize(
    ("concern", "old", "new", "said"),
    [
        ("cpu", b"mtm\n", b"mtm, spoilt\n", "train.py:10 must keep upstream's or compat, mtm's lines"),
        ("mtm", b"cpu last\n", b"", "train.py:25 must keep upstream's or compat, cpu's lines"),
    ],
    ids=["known from the host's other files", "known from the lines that are left"],
)
def test_without_a_record_a_spoilt_concern_is_still_not_taken_for_another(lab, concern, old, new, said):
    lab.ok("apply")
    edit(lab, old, new)
    lab.forget()
    before = patch_bytes(lab)
    done = lab.run("refresh", "--host", "alpha", "--concern", concern)
    assert (done.code, said in done.err) == (6, True), done
    assert patch_bytes(lab) == before
