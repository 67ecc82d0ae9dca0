"""A run that is killed, interrupted or hit by a disk error, at every single file operation.

Every operation goes through fs.step, which the tests replace. After each failure all files must be whole, and the next
run must finish or undo the work.
"""

import errno
import os
import threading

import pytest
from engine_lab import FILES, expected

from overlay import fs

ALL = ("compat", "cpu", "mtm")


class Killed(BaseException):
    """An exception that none of our handlers may catch. See Dying."""


class Dying:
    """Stands in for fs.step: allows `alive` operations, then raises Killed at each one, so that no clean-up can run."""

    def __init__(self, alive, tear=False):
        self.alive, self.tear, self.calls = alive, tear, 0

    def __call__(self, function, *arguments):
        self.calls += 1
        if self.calls > self.alive:
            if self.tear and self.calls == self.alive + 1 and function is os.write:
                os.write(arguments[0], arguments[1][: len(arguments[1]) // 2])  # killed in the middle of a write
            raise Killed
        return function(*arguments)


class Failing:
    """Stands in for fs.step: operation number `at` fails with `code`; with `forever`, so does every later write."""

    def __init__(self, at, code, forever):
        self.at, self.code, self.forever, self.calls, self.failed = at, code, forever, 0, False

    def __call__(self, function, *arguments):
        self.calls += 1
        if self.calls == self.at or (self.failed and self.forever and function is os.write):
            self.failed = True
            raise OSError(self.code, os.strerror(self.code))
        return function(*arguments)


def operations(lab, monkeypatch, *arguments):
    counter = Dying(10**9)
    with monkeypatch.context() as patched:
        patched.setattr(fs, "step", counter)
        lab.ok(*arguments)
    return counter.calls


def die(lab, monkeypatch, at, tear, *arguments):
    with monkeypatch.context() as patched:
        patched.setattr(fs, "step", Dying(at, tear))
        with pytest.raises(Killed):
            lab.run(*arguments)


def every_file_is_whole(lab, *sets):
    """Each file is one of its known versions; the only other files are our own temporary ones."""
    for name, data in lab.contents().items():
        host, path = name.split("/", 1)
        if not path.endswith(".mtm-overlay-new"):
            assert data in {expected(host, path, s) for s in sets}, name


@pytest.mark.parametrize("then", ["apply", "revert"])
@pytest.mark.parametrize(("verb", "start"), [("apply", ()), ("revert", ALL)])
def test_killed_between_any_two_operations_the_next_run_finishes_or_undoes(lab, monkeypatch, verb, start, then):
    lab.ok("apply" if start else "revert")
    total = operations(lab, monkeypatch, verb)
    assert total > 20  # if no operation went through the seam, this test would check nothing
    for at in range(total):
        lab.ok("apply" if start else "revert")
        die(lab, monkeypatch, at, at % 2 == 0, verb)
        every_file_is_whole(lab, (), ALL)
        assert lab.run("status").code in (0, 3), at  # 0 or 3: recognised, neither stale nor modified
        lab.ok(then)
        assert lab.contents() == lab.want(ALL if then == "apply" else ()), at


def test_killed_the_next_run_for_one_concern_finishes_the_rest_too(lab, monkeypatch):
    """A state in which only some of mtm's files are patched must not remain."""
    total = operations(lab, monkeypatch, "apply", "--host", "alpha", "--concern", "mtm")
    mixed = 0
    for at in range(total):
        lab.ok("revert")
        die(lab, monkeypatch, at, False, "apply", "--host", "alpha", "--concern", "mtm")
        hit = [b"mtm" in lab.file(p).read_bytes() for p in ("train.py", "net/layer.py")]
        lab.ok("apply", "--host", "alpha", "--concern", "cpu")
        if any(hit) and not all(hit):
            mixed += 1
            assert "mtm: applied" in lab.run("status", "--host", "alpha").out
        have = {p: b"mtm" in lab.file(p).read_bytes() for p in ("train.py", "net/layer.py")}
        assert len(set(have.values())) == 1, at
        assert not [n for n in lab.contents() if n.endswith(".mtm-overlay-new")], at
    assert mixed


def test_killed_and_then_edited_the_edit_is_kept(lab, monkeypatch):
    total = operations(lab, monkeypatch, "apply")
    lab.ok("revert")
    die(lab, monkeypatch, total - 3, False, "apply")
    lab.file().write_bytes(lab.file().read_bytes() + b"mine\n")
    assert lab.file().read_bytes() == expected("alpha", "train.py", ALL) + b"mine\n"
    lab.ok("revert")
    assert lab.contents() == lab.want(()) | {"alpha/train.py": FILES["alpha"]["train.py"] + b"mine\n"}
    lab.ok("apply")
    assert lab.file().read_bytes().count(b"mine\n") == 1


def test_killed_and_then_given_other_patches_the_tree_is_still_ours(lab, monkeypatch):
    total = operations(lab, monkeypatch, "apply")
    for at in range(total):
        lab.ok("revert")
        die(lab, monkeypatch, at, False, "apply")
        cpu = lab.root / "patches" / "alpha" / "cpu.patch"
        kept = cpu.read_bytes()
        lab.write_patch("alpha", "cpu", {"train.py": [(9, [b"cpu 2\n"])]})
        lab.ok("apply")
        assert b"cpu 2\n" in lab.file().read_bytes(), at
        assert b"cpu\n" not in lab.file().read_bytes(), at
        cpu.write_bytes(kept)
        lab.ok("revert")
        assert lab.contents() == lab.want(()), at


@pytest.mark.parametrize(("code", "forever"), [(errno.ENOSPC, True), (errno.EIO, False)], ids=["full", "one error"])
@pytest.mark.parametrize("verb", ["apply", "revert"])
def test_a_failing_disk_changes_nothing_or_leaves_what_the_next_run_mends(lab, monkeypatch, verb, code, forever):
    lab.ok("apply" if verb == "revert" else "revert")
    total = operations(lab, monkeypatch, verb)
    undone = 0
    for at in range(1, total + 1):
        lab.ok("apply" if verb == "revert" else "revert")
        before = lab.contents()
        with monkeypatch.context() as patched:
            patched.setattr(fs, "step", Failing(at, code, forever))
            done = lab.run(verb)
        if done.code == 0:
            continue  # the failure of this operation does not matter
        assert (done.code, os.strerror(code) in done.err) == (1, True), (at, done)
        if "Every file is as it was" in done.err:
            undone += 1
            assert lab.contents() == before, at
        else:
            assert "undo with python tools/apply_patches.py revert" in done.err
            every_file_is_whole(lab, (), ALL)
        lab.ok(verb)
        assert lab.contents() == lab.want(ALL if verb == "apply" else ()), at
    assert undone > total // 2


def test_ctrl_c_in_the_middle_undoes_what_was_done(lab, monkeypatch):
    replaced = []

    def interrupted(function, *arguments):
        if function is os.replace and arguments[1].suffix == ".py":
            replaced.append(arguments[1])
            if len(replaced) == 2:
                raise KeyboardInterrupt
        return function(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(fs, "step", interrupted)
        assert lab.run("apply").code == 1  # click says "Aborted!"
    assert lab.contents() == lab.want(())
    assert "not applied" in lab.run("status").out


def test_an_edit_saved_during_the_run_is_kept_and_everything_undone(lab, monkeypatch):
    edited = FILES["alpha"]["net/layer.py"] + b"saved just now\n"

    def step(function, *arguments):
        if function is os.replace and arguments[1].name == "train.py":
            lab.file("net/layer.py").write_bytes(edited)
        return function(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(fs, "step", step)
        done = lab.run("apply", "--host", "alpha")
    assert (done.code, "vendor/alpha/net/layer.py must not change during the run" in done.err) == (6, True)
    assert lab.contents() == lab.want(()) | {"alpha/net/layer.py": edited}


def test_two_runs_at_once_do_not_mix(lab, monkeypatch):
    seen = []

    def step(function, *arguments):
        if not seen:
            seen.append(None)
            other = threading.Thread(target=lambda: seen.append(lab.run("revert")))
            other.start()
            other.join()
        return function(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(fs, "step", step)
        lab.ok("apply")
    assert seen[1].code == 1
    assert lab.contents() == lab.want()


def test_killed_and_its_record_lost_the_litter_is_no_obstacle(lab, monkeypatch):
    total = operations(lab, monkeypatch, "apply")
    lab.ok("revert")
    die(lab, monkeypatch, total // 2, False, "apply")
    litter = [n for n in lab.contents() if n.endswith(".mtm-overlay-new")]
    assert litter
    for host in ("alpha", "beta"):
        lab.forget(host)
    lab.ok("apply")
    assert lab.contents() == lab.want()


def test_a_torn_record_is_as_good_as_none(lab):
    lab.ok("apply")
    (lab.folder() / ".git" / "mtm-overlay.json").write_bytes(b'{"written": {"train.py": ')
    lab.ok("revert")
    assert lab.contents() == lab.want(())
