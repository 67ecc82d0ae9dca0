"""A user's lines in patched files: shown separately, kept by apply and revert, never mistaken for ours."""

import pytest
from engine_lab import LAYER, TRAIN, expected, git
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.inserter import compose, insert, split_lines
from overlay.locate import NoPlaceError, align, exchange, locate
from overlay.patchfile import Insertion

ALL = ("compat", "cpu", "mtm")


def put(lab, old, new, path="train.py"):
    data = lab.file(path).read_bytes()
    assert data.count(old) == 1
    lab.file(path).write_bytes(data.replace(old, new))


def test_a_debugging_line_stands_in_nobodys_way_and_is_shown_alone(lab):
    lab.ok("apply")
    put(lab, b"train 12\n", b"train 12\nprint('here')\n")
    mine = lab.file().read_bytes()
    done = lab.ok("apply")
    assert "* alpha: nothing to do\n* alpha: edits of yours were kept, in vendor/alpha/train.py:\n" in done.out
    assert "    @@ -16,0 +17 @@\n    +print('here')\n" in done.out
    assert "cpu" not in done.out
    assert lab.file().read_bytes() == mine
    assert "+print('here')" in lab.ok("revert").out
    assert lab.contents() == lab.want(()) | {
        "alpha/train.py": TRAIN.replace(b"train 12\n", b"train 12\nprint('here')\n")
    }
    lab.ok("apply")
    assert lab.file().read_bytes() == mine


@pytest.mark.parametrize("record", ["kept", "lost"])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"train 7\n", b"mine\ntrain 7\n"),
        (b"cpu\n", b"mine\ncpu\n"),
        (b"cpu\n", b"cpu\nmine\n"),
        (b"mtm\n", b"mtm\nmine\n"),
        (b"compat A\n", b"compat A\nmine\n"),
        (b"train 7\n", b"train seven\n"),
        (b"train 9\n", b""),
        (b"train 2\n", b"cpu\ntrain 2\n"),
        (b"cpu last\n", b"cpu last\nthe end"),
    ],
)
def test_our_lines_are_found_whatever_is_edited_around_them(lab, old, new, record):
    lab.ok("apply")
    put(lab, old, new)
    if record == "lost":
        lab.forget()
    theirs = lab.file().read_bytes()
    lab.ok("apply")
    assert lab.file().read_bytes() == theirs
    lab.ok("revert")
    only = TRAIN.replace(old, new) if old in TRAIN else insert_after(TRAIN, old, new)
    assert lab.file().read_bytes() == only
    assert lab.file("net/layer.py").read_bytes() == LAYER


def insert_after(pristine, old, new):
    """The user's part of `new`, at the position of our line `old`."""
    theirs = new.replace(old, b"")
    number = {b"cpu\n": 7, b"mtm\n": 7, b"compat A\n": 3, b"cpu last\n": 20}[old]
    lines = split_lines(pristine)
    return b"".join([*lines[:number], theirs, *lines[number:]])


def test_one_concern_comes_and_goes_beside_the_users_lines(lab):
    lab.ok("apply", "--concern", "compat")
    put(lab, b"compat B\n", b"compat B\nmine\n")
    lab.ok("apply", "--concern", "mtm")
    lab.ok("revert", "--concern", "compat")
    want = expected("alpha", "train.py", ("mtm",)).replace(b"train 3\n", b"train 3\nmine\n")
    assert lab.file().read_bytes() == want
    assert "mtm: applied" in lab.run("status", "--host", "alpha").out


def test_a_line_of_ours_goes_before_what_it_precedes_so_that_a_guard_keeps_its_line(lab):
    put(lab, b"train 7\n", b"train 7\nmine\n")
    lab.ok("apply")
    assert b"train 7\nmine\ncpu\nmtm\ntrain 8\n" in lab.file().read_bytes()


def test_newer_patches_replace_older_lines_around_the_users(lab):
    lab.ok("apply")
    put(lab, b"train 12\n", b"train 12\nmine\n")
    lab.write_patch("alpha", "cpu", {"train.py": [(9, [b"cpu, second version\n"])]})
    assert lab.run("status").code == 6
    lab.ok("apply")
    data = lab.file().read_bytes()
    assert b"train 9\ncpu, second version\n" in data
    assert b"cpu\n" not in data
    assert b"train 12\nmine\n" in data
    lab.write_patch("alpha", "cpu", {"train.py": [(11, [b"cpu, third version\n"])]})
    lab.ok("revert")
    assert lab.file().read_bytes() == TRAIN.replace(b"train 12\n", b"train 12\nmine\n")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"cpu\n", b"cpu 2\n"),
        (b"compat B\n", b""),
        (b"mtm\ntrain 8\n", b"train 8\nmtm\n"),
        (b"cpu last\n", b"cpu last"),
    ],
    ids=["changed", "half removed", "moved", "without its newline"],
)
@pytest.mark.parametrize("verb", ["apply", "revert"])
def test_lines_of_ours_that_were_edited_are_refused_with_what_was_edited(lab, verb, old, new):
    lab.ok("apply")
    put(lab, old, new)
    before = lab.contents()
    done = lab.run(verb)
    assert (done.code, "vendor/alpha/train.py must contain the lines of" in done.err) == (6, True), done
    assert "edits --host alpha > mine.diff && git apply -R mine.diff" in done.err
    assert lab.contents() == before
    diff = lab.ok("edits", "--host", "alpha").out  # exactly what the error advises
    git(lab.root, "apply", "-R", "-", data=diff.encode())
    assert lab.contents() == lab.want()
    lab.ok(verb)


def test_a_concern_taken_out_by_hand_is_put_back(lab):
    lab.ok("apply")
    put(lab, b"mtm\n", b"")
    put(lab, b"train 15\n", b"train 15\nmine\n")
    assert "mtm: in 1 of 2 files" in lab.run("status", "--host", "alpha").out
    lab.ok("apply")
    assert lab.file().read_bytes() == expected("alpha", "train.py", ALL).replace(b"train 15\n", b"train 15\nmine\n")


def test_edits_prints_only_what_is_the_users_and_git_takes_it_both_ways(lab):
    assert lab.ok("edits").out == ""
    lab.ok("apply")
    put(lab, b"train 12\n", b"train 12\nmine\n")
    put(lab, b"layer 9\n", b"layer nine\n", "net/layer.py")
    mine = lab.contents()
    diff = lab.ok("edits").out
    changed = [line for line in diff.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    assert changed == ["-layer 9", "+layer nine", "+mine"]
    git(lab.root, "apply", "-R", "-", data=diff.encode())
    assert lab.contents() == lab.want()
    git(lab.root, "apply", "-", data=diff.encode())
    assert lab.contents() == mine


def test_an_edit_in_a_crlf_checkout_is_kept_with_its_endings(lab):
    lab.file().write_bytes(TRAIN.replace(b"\n", b"\r\n").replace(b"train 12\r\n", b"train 12\r\nmine\r\n"))
    before = lab.file().read_bytes()
    lab.ok("apply")
    after = expected("alpha", "train.py", ALL).replace(b"train 12\n", b"train 12\nmine\n")
    assert lab.file().read_bytes() == after.replace(b"\n", b"\r\n")
    lab.ok("revert")
    assert lab.file().read_bytes() == before


@pytest.mark.parametrize("record", ["kept", "lost"])
@pytest.mark.parametrize("verb", ["apply", "revert"])
def test_a_commit_of_a_patched_tree_is_detected_and_undone_without_a_loss(lab, verb, record):
    lab.ok("apply")
    put(lab, b"train 12\n", b"train 12\nmine\n")
    lab.file("new.py").write_bytes(b"mine too\n")
    git(lab.folder(), "add", "-A")
    git(lab.folder(), "commit", "-qm", "mine")
    if record == "lost":
        lab.forget()
    before = lab.contents()
    head = git(lab.folder(), "rev-parse", "HEAD").stdout.decode().strip()
    done = lab.run("status", "--host", "alpha")
    assert (done.code, f"commit {head[:10]} has lines of ours in it" in done.out) == (6, True), done
    assert "pristine" not in done.out
    done = lab.run(verb, "--host", "alpha")
    assert (done.code, "must not have our lines in its commits" in done.err) == (5, True), done
    assert lab.contents() == before
    command = next(line.strip() for line in done.err.splitlines() if "git -C vendor/alpha branch" in line)
    for part in command.split(" && "):
        git(lab.root, *part.split()[1:])
    lab.ok(verb, "--host", "alpha")
    mine = expected("alpha", "train.py", ALL if verb == "apply" else ()).replace(b"train 12\n", b"train 12\nmine\n")
    assert lab.file().read_bytes() == mine
    assert lab.file("new.py").read_bytes() == b"mine too\n"
    assert git(lab.folder(), "rev-parse", f"mine-{head[:10]}").stdout.decode().strip() == head


@pytest.mark.parametrize("verb", ["apply", "revert"])
@pytest.mark.parametrize("place", ["outside", "inside"])
def test_a_linked_folder_is_refused_and_what_it_points_to_untouched(lab, tmp_path, verb, place):
    if verb == "revert":
        lab.ok("apply")
    real = tmp_path / "elsewhere" if place == "outside" else lab.file("elsewhere")
    lab.file("net").rename(real)
    lab.file("net").symlink_to(real)
    before = {p.name: p.read_bytes() for p in real.iterdir()}
    done = lab.run(verb)
    assert (done.code, "got a link in its way, vendor/alpha/net" in done.err) == (6, True), done
    assert {p.name: p.read_bytes() for p in real.iterdir()} == before
    assert lab.run("status").code == 6


def test_a_killed_runs_litter_is_not_cleared_through_a_linked_folder(lab, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def step(function, *arguments):
        if function.__name__ == "replace" and arguments[1].suffix == ".py":
            raise Killed
        return function(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr("overlay.fs.step", step)
        patched.setattr("overlay.transaction._undo", lambda *a: None)
        with pytest.raises(Killed):
            lab.run("apply", "--host", "alpha")
    lab.file("net").rename(tmp_path / "elsewhere")
    lab.file("net").symlink_to(tmp_path / "elsewhere")
    before = sorted(p.name for p in (tmp_path / "elsewhere").iterdir())
    assert len(before) == 2
    assert lab.run("revert", "--host", "alpha").code == 6
    lab.run("revert", "--host", "alpha", "--concern", "cpu")
    assert sorted(p.name for p in (tmp_path / "elsewhere").iterdir()) == before


# ---- any edit of any file ----

LINES = st.sampled_from([b"\n", b"a\n", b"b\n", b"  a\n", b"c\n", b"ours 1\n"])
NAMES = ("compat", "cpu", "mtm")


@st.composite
def concerns(draw, count):
    """Insertions of three concerns. No two concerns share a line."""
    found = {}
    for name in NAMES:
        places = draw(st.lists(st.integers(0, count), unique=True, min_size=1, max_size=3).map(sorted))
        found[name] = tuple(
            Insertion(p, tuple(b"%s %d.%d\n" % (name.encode(), p, n) for n in range(draw(st.integers(1, 2)))))
            for p in places
        )
    return found


@st.composite
def edited(draw, lines):
    """The lines with some of them removed, changed, copied or added."""
    out = list(lines)
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(out)))
        kind = draw(st.sampled_from(["add", "add", "remove", "change", "copy"]))
        if kind == "add" or at == len(out):
            out.insert(at, draw(LINES))
        elif kind == "copy":
            out.insert(draw(st.integers(0, len(out))), out[at])
        elif kind == "remove":
            del out[at]
        else:
            out[at] = draw(LINES)
    return out


def without(lines, names):
    return [line for line in lines if not line.startswith(tuple(n.encode() for n in names))]


@settings(max_examples=400, deadline=None)
@given(data=st.data(), pristine=st.lists(LINES, min_size=1, max_size=10).map(b"".join))
def test_exchanging_concerns_in_an_edited_file_moves_nothing_of_the_users(data, pristine):
    known = data.draw(concerns(len(split_lines(pristine))))
    had = {c: i for c, i in known.items() if c in data.draw(st.sets(st.sampled_from(NAMES)))}
    lines = data.draw(edited(split_lines(insert(pristine, had))))
    found = locate(b"".join(lines), pristine, had)
    if any(found.state(c) != "whole" for c in had):
        return  # refused; other tests check that
    want = {c: i for c, i in known.items() if c in data.draw(st.sets(st.sampled_from(NAMES)))}
    try:
        after = split_lines(exchange(found, pristine, want))
    except NoPlaceError:
        assert set(want) - set(had)  # only an insertion needs a place
        assert None in align(split_lines(pristine), without(lines, NAMES)) or found.strangers
        return
    ours = sorted(line for i in want.values() for n in i for line in n.lines)
    copies = sorted(line for line in lines if line in set(without(lines, ())) - set(without(lines, NAMES)))
    for line in (line for _, piece in compose(pristine, had) for line in piece if line in copies):
        copies.remove(line)  # if the user copied one of our lines, the copy is the user's
    assert sorted(line for line in after if line not in without(after, NAMES)) == sorted([*ours, *copies])
    assert without(after, NAMES) == without(lines, NAMES)


@settings(max_examples=400, deadline=None)
@given(old=st.lists(LINES, max_size=14), new=st.lists(LINES, max_size=14))
def test_the_alignment_is_a_longest_common_subsequence(old, new):
    matched = align(old, new)
    pairs = [(i, j) for i, j in enumerate(matched) if j is not None]
    assert all(old[i] == new[j] for i, j in pairs)
    assert [j for _, j in pairs] == sorted({j for _, j in pairs})
    best = [[0] * (len(new) + 1) for _ in range(len(old) + 1)]
    for i, a in enumerate(old):
        for j, b in enumerate(new):
            best[i + 1][j + 1] = best[i][j] + 1 if a == b else max(best[i][j + 1], best[i + 1][j])
    assert len(pairs) == best[-1][-1]
