"""status, show and check: their output and their exit codes."""

import shutil

import pytest
from engine_lab import CONCERNS, LAYER, TRAIN, git

ALL = ("compat", "cpu", "mtm")


def test_status_tells_every_state_and_its_code(lab):
    done = lab.run("status")
    assert (done.code, done.out.count("pristine")) == (3, 2)
    lab.ok("apply", "--concern", "compat")
    done = lab.run("status", "--host", "alpha")
    assert done.code == 3
    assert done.out == "alpha: partly applied\n  compat: applied\n  cpu: not applied\n  mtm: not applied\n"
    assert lab.run("status", "--concern", "compat").code == 0
    lab.ok("apply")
    done = lab.ok("status")
    assert done.out.startswith("alpha: applied\n")
    assert "beta: applied" in done.out


def test_status_tells_all_problems_at_once_with_the_worst_code(lab):
    lab.ok("apply")
    lab.file().write_bytes(b"mine")
    lab.file("bare.py").write_bytes(b"mine")
    git(lab.folder(), "commit", "-q", "--allow-empty", "-m", "newer")
    shutil.rmtree(lab.folder("beta"))
    done = lab.run("status")
    assert done.code == 6
    for said in ("stale", "modified", "at commit", "vendor/alpha/train.py: edits", "vendor/alpha/bare.py: edits"):
        assert said in done.out
    assert "beta: absent" in done.out
    assert "tools/apply_patches.py apply --host beta" in done.out


def test_status_goes_on_to_the_other_hosts_when_a_patch_is_broken(lab):
    (lab.root / "patches" / "alpha" / "cpu.patch").write_bytes(b"nonsense\n")
    done = lab.run("status")
    assert "parse: patches/alpha/cpu.patch:1 must" in done.err
    assert "beta: pristine" in done.out
    assert done.code == 3


def test_status_counts_files_of_a_half_applied_concern(lab):
    lab.ok("apply")
    lab.file("net/layer.py").write_bytes(LAYER)
    done = lab.run("status", "--host", "alpha")
    assert (done.code, "mtm: in 1 of 2 files" in done.out) == (3, True)
    lab.ok("apply")
    assert lab.contents() == lab.want()


@pytest.mark.parametrize("context", [0, 1, 3, 50])
@pytest.mark.parametrize("concern", ALL)
def test_show_is_a_diff_that_git_applies_to_the_pristine_files(lab, concern, context):
    shown = lab.ok("show", "--host", "alpha", "--concern", concern, "-U", str(context)).out
    flags = ["--unidiff-zero"] if context == 0 else []
    git(lab.root, "apply", *flags, "-", data=shown.encode())
    assert {k: v for k, v in lab.contents().items() if k.startswith("alpha/")} == {
        k: v for k, v in lab.want((concern,)).items() if k.startswith("alpha/")
    }


def test_show_gives_reason_counts_context_and_no_colour_in_a_pipe(lab):
    lab.ok("apply")
    shown = lab.ok("show", "--host", "alpha").out
    assert "# ==== alpha/compat: 2 files, 3 lines inserted\n# Why: a test needs it.\n" in shown
    assert " train 3\n+compat A\n+compat B\n train 4\n" in shown
    assert "\x1b" not in shown


def test_show_is_coloured_on_a_terminal(lab, monkeypatch):
    monkeypatch.setattr("overlay.cli._on_terminal", lambda: True)
    assert "\x1b[32m+\x1b[m\x1b[32mcompat A\x1b[m" in lab.ok("show", "--host", "alpha").out


def test_show_without_the_submodule_says_how_to_fetch_it(lab):
    shutil.rmtree(lab.folder())
    done = lab.run("show")
    assert (done.code, "git submodule update --init vendor/alpha" in done.err, done.out) == (4, True, "")


def test_show_marks_a_last_line_without_newline(lab):
    lab.write_patch("alpha", "cpu", {"bare.py": [(1, [b"inserted\n"])]})
    shown = lab.ok("show", "--concern", "cpu").out
    assert " one\n+inserted\n two\n\\ No newline at end of file\n" in shown


def test_check_holds_for_good_patches_with_and_without_the_upstreams(lab):
    assert "alpha: 3 patches, 9 lines; every hash holds" in lab.ok("check").out
    for host in CONCERNS:
        shutil.rmtree(lab.folder(host))
        lab.folder(host).mkdir()
    done = lab.ok("check")
    assert "alpha: 3 patches, 9 lines; hashes not checked, because vendor/alpha does not have the pinned" in done.out


BROKEN = {
    "an unlisted patch": lambda p: (p / "extra.patch").write_bytes((p / "cpu.patch").read_bytes()),
    "a listed patch that is missing": lambda p: (p / "cpu.patch").unlink(),
    "a patch that does not parse": lambda p: (p / "cpu.patch").write_bytes(b"# why\n"),
    "a patch without a reason": lambda p: rewrite(p, b"# Why: a test needs it.\n", b""),
    "another form than git's": lambda p: rewrite(p, b"+8 @@", b"+8,1 @@"),
    "a concern listed twice": lambda p: (p / "series").write_text("compat\ncpu\nmtm\ncpu\n"),
    "a path in the series": lambda p: (p / "series").write_text("../compat\ncpu\nmtm\n"),
}
BROKEN_BY_HASH = {
    "a changed line": lambda p: rewrite(p, b"+cpu\n", b"+CPU\n"),
    "another pristine blob": lambda p: rewrite(p, b"index ", b"index 0000000", cut=7),
    "a place past the end": lambda p: rewrite(p, b"@@ -20,0 +22", b"@@ -21,0 +23"),
}


def rewrite(folder, old, new, cut=0):
    data = (folder / "cpu.patch").read_bytes()
    at = data.index(old)
    (folder / "cpu.patch").write_bytes(data[:at] + new + data[at + len(old) + cut :])


@pytest.mark.parametrize("name", {**BROKEN, **BROKEN_BY_HASH})
def test_check_finds(lab, name):
    {**BROKEN, **BROKEN_BY_HASH}[name](lab.root / "patches" / "alpha")
    done = lab.run("check")
    assert done.code == 1
    assert "patches/alpha/" in done.err or "train.py must have the line" in done.err
    for host in CONCERNS:
        shutil.rmtree(lab.folder(host))
    assert lab.run("check").code == (1 if name in BROKEN else 0)


def test_check_finds_two_concerns_that_bytes_cannot_tell_apart(lab):
    for concern in ("compat", "cpu"):
        lab.write_patch("alpha", concern, {"train.py": [(7, [b"the same\n"])]})
    done = lab.run("check")
    assert (done.code, "must tell its concerns apart" in done.err, "compat and cpu" in done.err) == (1, True, True)


def test_check_finds_a_gitlink_that_differs_from_the_pin(lab):
    git(lab.folder(), "commit", "-q", "--allow-empty", "-m", "newer")
    git(lab.root, "-c", "advice.addEmbeddedRepo=false", "add", "vendor/alpha")
    done = lab.run("check")
    assert (done.code, "vendor/alpha must be pinned" in done.err) == (1, True)


@pytest.mark.parametrize(
    ("text", "said"),
    [("[alpha]\nurl = 1\n", "[alpha] must have"), ("[alpha\n", "must be TOML"), (None, "must hold patches/upstreams")],
)
def test_wrong_facts_are_named(lab, text, said):
    path = lab.root / "patches" / "upstreams.toml"
    path.unlink()
    if text is not None:
        path.write_text(text)
    done = lab.run("status")
    assert (done.code, said in done.err) == (1, True)
    assert lab.file().read_bytes() == TRAIN
