"""apply and revert: what they write, what they refuse, and that a refusal changes nothing."""

import os
import shutil
import subprocess
from itertools import combinations, permutations

import pytest
from engine_lab import CONCERNS, FILES, expected, git

ALL = ("compat", "cpu", "mtm")
SUBSETS = [s for n in range(4) for s in combinations(ALL, n)]


def concern_options(concerns):
    return [word for c in concerns for word in ("--concern", c)]


def test_apply_makes_exactly_the_expected_bytes_and_revert_the_pristine_ones(lab):
    pristine = lab.contents()
    lab.ok("apply")
    assert lab.contents() == lab.want()
    lab.ok("revert")
    assert lab.contents() == pristine == lab.want(())
    assert git(lab.folder(), "status", "--porcelain").stdout == b""


@pytest.mark.parametrize("verb", ["apply", "revert"])
def test_a_second_run_writes_nothing(lab, verb, monkeypatch):
    lab.ok("apply")
    lab.ok(verb)
    before = lab.contents()
    monkeypatch.setattr("overlay.fs.step", lambda function, *a: pytest.fail(f"{function.__name__}{a}"))
    assert "nothing to do" in lab.ok(verb).out
    assert lab.contents() == before


@pytest.mark.parametrize("subset", SUBSETS[1:], ids="+".join)
def test_any_subset_applies_in_any_order_and_gives_the_series_order(lab, subset):
    for order in permutations(subset):
        for concern in order:
            lab.ok("apply", "--concern", concern)
        assert lab.contents() == lab.want(subset), order
        for concern in order:
            lab.ok("revert", "--concern", concern)
        assert lab.contents() == lab.want(()), order


@pytest.mark.parametrize("subset", SUBSETS[1:], ids="+".join)
def test_reverting_a_subset_leaves_the_others_even_when_the_record_is_lost(lab, subset):
    lab.ok("apply")
    lab.forget()
    lab.ok("revert", *concern_options(subset))
    assert lab.contents() == lab.want(set(ALL) - set(subset))


def test_host_option_leaves_other_hosts_alone(lab):
    lab.ok("apply", "--host", "beta")
    assert lab.file(host="beta").read_bytes() == expected("beta", "train.py", ALL)
    assert lab.file().read_bytes() == FILES["alpha"]["train.py"]


@pytest.mark.parametrize("host", list(CONCERNS))
def test_every_patch_alone_equals_plain_git_apply(lab, host):
    for concern in CONCERNS[host]:
        patch = lab.root / "patches" / host / f"{concern}.patch"
        git(lab.folder(host), "apply", "--unidiff-zero", "--check", str(patch))
        git(lab.folder(host), "apply", "--unidiff-zero", str(patch))
        by_git = lab.contents()
        git(lab.folder(host), "checkout", "-q", ".")
        lab.ok("apply", "--host", host, "--concern", concern)
        assert lab.contents() == by_git
        lab.ok("revert", "--host", host)


@pytest.mark.parametrize("verb", ["apply", "revert"])
def test_dry_run_says_and_writes_nothing(lab, verb):
    if verb == "revert":
        lab.ok("apply")
    before = lab.contents()
    record = sorted(os.listdir(lab.folder() / ".git"))
    done = lab.ok(verb, "--dry-run")
    assert "vendor/alpha/train.py: would be" in done.out
    assert lab.contents() == before
    assert sorted(os.listdir(lab.folder() / ".git")) == record


def test_unknown_names_are_a_usage_error_that_lists_the_known(lab):
    done = lab.run("apply", "--host", "gamma")
    assert (done.code, "alpha, beta" in done.err, "'gamma'" in done.err) == (2, True, True)
    done = lab.run("apply", "--concern", "gpu")
    assert (done.code, "compat, cpu, mtm" in done.err) == (2, True)


def test_a_file_edited_where_our_lines_go_stops_every_host_and_is_kept(lab):
    lab.file().write_bytes(FILES["alpha"]["train.py"].replace(b"train 7\n", b"train seven\n"))
    before = lab.contents()
    done = lab.run("apply")
    assert done.code == 6
    assert "vendor/alpha/train.py" in done.err
    assert "refresh --host alpha" in done.err
    assert lab.contents() == before  # beta alone was fine, but is not patched either


@pytest.mark.parametrize("verb", ["apply", "revert"])
def test_an_edit_of_our_lines_is_kept_and_nothing_written(lab, verb):
    lab.ok("apply")
    lab.file().write_bytes(lab.file().read_bytes().replace(b"cpu last", b"mine"))
    before = lab.contents()
    done = lab.run(verb)
    assert (done.code, "vendor/alpha/train.py must contain the lines of cpu complete" in done.err) == (6, True)
    assert "    -cpu last\n    +mine\n" in done.err
    assert lab.contents() == before


def test_an_edit_elsewhere_is_kept_and_does_not_stand_in_the_way(lab):
    lab.file("bare.py").write_bytes(b"mine")
    lab.ok("apply")
    lab.ok("revert")
    assert lab.contents() == lab.want(()) | {"alpha/bare.py": b"mine"}


def test_a_removed_file_is_refused_with_the_command_that_brings_it_back(lab):
    lab.file().unlink()
    done = lab.run("apply")
    assert (done.code, "git -C vendor/alpha checkout -- train.py" in done.err) == (6, True)


def test_a_link_in_place_of_a_file_is_refused_and_its_target_untouched(lab, tmp_path):
    (tmp_path / "outside.py").write_bytes(FILES["alpha"]["train.py"])
    lab.file().unlink()
    lab.file().symlink_to(tmp_path / "outside.py")
    assert lab.run("apply").code == 6
    assert lab.file().is_symlink()
    assert (tmp_path / "outside.py").read_bytes() == FILES["alpha"]["train.py"]


def test_a_wrong_commit_is_refused_and_revert_still_works_there(lab):
    lab.ok("apply")
    git(lab.folder(), "commit", "-q", "--allow-empty", "-m", "newer")
    done = lab.run("apply")
    assert done.code == 5
    assert "vendor/alpha must be at the commit" in done.err
    assert "git submodule update --init vendor/alpha" in done.err
    lab.ok("revert")
    assert lab.contents() == lab.want(())


def test_a_changed_upstream_file_is_stale_not_modified(lab):
    lab.file().write_bytes(b"new upstream\n" + FILES["alpha"]["train.py"])
    git(lab.folder(), "commit", "-qam", "newer")
    lab.write_upstreams()
    before = lab.contents()
    done = lab.run("apply")
    assert done.code == 5
    assert "refresh --host alpha" in done.err
    assert "compat, cpu, mtm was made for" in done.err
    assert lab.contents() == before


def test_an_older_version_of_the_patches_is_replaced_for_nothing_of_the_users_is_in_it(lab):
    lab.ok("apply")
    lab.write_patch("alpha", "cpu", {"train.py": [(9, [b"cpu, second version\n"])]})
    assert lab.run("status").code == 5
    lab.ok("apply")
    lines = lab.file().read_bytes().splitlines()
    assert b"cpu, second version" in lines
    assert b"cpu" not in lines
    lab.write_patch("alpha", "cpu", {"train.py": [(9, [b"cpu, third version\n"])]})
    lab.ok("revert")
    assert lab.contents() == lab.want(())


def test_an_older_version_in_a_file_that_no_patch_touches_any_more_is_taken_out(lab):
    lab.ok("apply")
    for concern in ("compat", "mtm"):
        lab.write_patch("alpha", concern, {"train.py": CONCERNS["alpha"][concern]["train.py"]})
    lab.ok("apply")
    assert lab.contents() == lab.want() | {"alpha/net/layer.py": FILES["alpha"]["net/layer.py"]}


@pytest.mark.parametrize("state", ["missing", "empty", "half a clone"])
def test_an_unfetched_submodule_gives_one_message_that_says_how_to_fetch(lab, state):
    for host in FILES:
        shutil.rmtree(lab.folder(host))
    if state != "missing":
        for host in FILES:
            lab.folder(host).mkdir()
    if state == "half a clone":
        git(lab.folder(), "init", "-q")
    done = lab.run("apply")
    assert done.code == 4
    assert done.err.count("git submodule update --init vendor/alpha vendor/beta") == 1
    assert done.err.count("must be fetched") == 1
    assert "insteadOf https://example.org/alpha" in done.err
    assert done.err.count("vendor/alpha is ") == 1
    lab.ok("revert")  # no host is applied, so revert succeeds


def test_an_empty_submodule_folder_never_touches_the_parent_repository(lab):
    """In an empty folder git answers for the parent repository, which here even has the file that the patch changes."""
    shutil.rmtree(lab.folder())
    lab.folder().mkdir()
    (lab.root / "train.py").write_bytes(FILES["alpha"]["train.py"])
    git(lab.root, "add", "train.py")
    git(lab.root, "commit", "-qm", "the same file in the parent")
    assert git(lab.folder(), "rev-parse", "HEAD").returncode == 0
    assert lab.run("apply", "--host", "alpha").code == 4
    assert (lab.root / "train.py").read_bytes() == FILES["alpha"]["train.py"]
    assert list(lab.folder().iterdir()) == []


def test_git_variables_of_a_hook_do_not_mislead(lab, monkeypatch):
    monkeypatch.setenv("GIT_DIR", str(lab.root / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(lab.root))
    lab.ok("apply")
    monkeypatch.delenv("GIT_DIR")
    monkeypatch.delenv("GIT_WORK_TREE")
    assert lab.contents() == lab.want()


def test_a_crlf_checkout_is_patched_in_crlf_and_reverts_to_itself(lab):
    for path in ("train.py", "net/layer.py"):
        lab.file(path).unlink()
    git(lab.folder(), "config", "core.autocrlf", "true")
    subprocess.run(["git", "-C", str(lab.folder()), "checkout", "-q", "."], check=True)
    crlf = lab.file().read_bytes()
    assert crlf.count(b"\r\n") == 20
    lab.ok("apply")
    assert lab.file().read_bytes() == expected("alpha", "train.py", ALL).replace(b"\n", b"\r\n")
    assert "applied" in lab.ok("status", "--host", "alpha").out
    lab.ok("revert")
    assert lab.file().read_bytes() == crlf


def test_mixed_line_endings_are_an_edit(lab):
    mixed = FILES["alpha"]["train.py"].replace(b"train 4\n", b"train 4\r\n")
    lab.file().write_bytes(mixed)
    done = lab.ok("apply")
    assert "edits of yours were kept, in vendor/alpha/train.py" in done.out
    assert lab.file().read_bytes() == expected("alpha", "train.py", ALL).replace(b"train 4\n", b"train 4\r\n")
    lab.ok("revert")
    assert lab.file().read_bytes() == mixed


def test_a_byte_order_mark_stays_first(lab):
    lab.write_patch("alpha", "cpu", {"bom.py": [(1, [b"inserted\n"])]})
    lab.ok("apply")
    assert lab.file("bom.py").read_bytes() == b"\xef\xbb\xbfone\ninserted\ntwo\n"
    lab.ok("revert")
    assert lab.contents() == lab.want(())


def test_a_file_without_final_newline_takes_insertions_before_its_last_line(lab):
    lab.write_patch("alpha", "cpu", {"bare.py": [(1, [b"inserted\n"])]})
    patch = lab.root / "patches" / "alpha" / "cpu.patch"
    git(lab.folder(), "apply", "--unidiff-zero", str(patch))
    by_git = lab.file("bare.py").read_bytes()
    git(lab.folder(), "checkout", "-q", ".")
    lab.ok("apply", "--concern", "cpu")
    assert lab.file("bare.py").read_bytes() == by_git == b"one\ninserted\ntwo"
    lab.ok("revert")
    assert lab.contents() == lab.want(())


def test_a_read_only_file_is_refused_and_nothing_written(lab):
    lab.file("net/layer.py").chmod(0o444)
    done = lab.run("apply")
    assert (done.code, "chmod u+w vendor/alpha/net/layer.py" in done.err) == (1, True)
    assert lab.contents() == lab.want(())


def test_the_mode_of_a_file_is_kept(lab):
    lab.file().chmod(0o751)
    lab.ok("apply")
    assert lab.file().stat().st_mode & 0o777 == 0o751


def test_a_patch_whose_lines_were_edited_by_hand_is_refused_by_its_hash(lab):
    patch = lab.root / "patches" / "alpha" / "cpu.patch"
    patch.write_bytes(patch.read_bytes().replace(b"+cpu\n", b"+CPU\n"))
    done = lab.run("apply")
    assert (done.code, "patches/alpha/cpu.patch must make train.py" in done.err) == (1, True)
    assert lab.contents() == lab.want(())


def test_all_problems_of_all_hosts_are_told_at_once(lab):
    lab.file().write_bytes(b"mine")
    lab.file("net/layer.py").write_bytes(b"mine too")
    shutil.rmtree(lab.folder("beta"))
    done = lab.run("apply")
    assert done.code == 6
    for name in ("vendor/alpha/train.py", "vendor/alpha/net/layer.py", "submodule update --init vendor/beta"):
        assert name in done.err


def test_a_host_without_patches_needs_no_checkout(lab):
    shutil.rmtree(lab.folder("beta"))
    shutil.rmtree(lab.root / "patches" / "beta")
    assert "beta: no patches" in lab.ok("apply").out
