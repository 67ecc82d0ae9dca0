"""What `make patch` does in a clone whose submodules are not fetched yet."""

import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from engine_lab import Lab, expected, git

ROOT = Path(__file__).resolve().parents[2]
ALL = ("compat", "cpu", "mtm")


@pytest.fixture
def clone(lab, tmp_path, monkeypatch):
    """A fresh clone of a repository whose hosts are submodules with file:// addresses. Nothing is fetched yet."""
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "protocol.file.allow")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "always")
    modules = ""
    for host in ("alpha", "beta"):
        git(tmp_path, "clone", "-q", "--bare", str(lab.folder(host)), f"{host}.git")
        modules += f'[submodule "vendor/{host}"]\n\tpath = vendor/{host}\n\turl = file://{tmp_path}/{host}.git\n'
    (lab.root / ".gitmodules").write_text(modules)
    git(lab.root, "add", ".gitmodules")
    git(lab.root, "commit", "-qm", "submodules")
    git(tmp_path, "clone", "-q", str(lab.root), "clone")
    return Lab(tmp_path / "clone")


def commits_behind_the_pin(tmp_path, count=3):
    """Add commits upstream after the pinned one, so that the tip of its branch differs from the pin."""
    work = tmp_path / "work"
    git(tmp_path, "clone", "-q", str(tmp_path / "alpha.git"), str(work))
    for number in range(count):
        git(work, "commit", "-q", "--allow-empty", "-m", f"later {number}")
    git(work, "push", "-q", "origin", "HEAD")


def test_apply_fetches_every_host_that_has_patches_and_patches_it(clone, tmp_path):
    commits_behind_the_pin(tmp_path)
    done = clone.ok("apply")
    assert {k: v for k, v in clone.contents().items() if k.endswith(".py")} == clone.want()
    assert "* alpha: fetching https://example.org/alpha into vendor/alpha" in done.err
    assert git(clone.folder(), "rev-list", "--count", "HEAD").stdout == b"1\n"  # shallow
    assert git(clone.root, "submodule", "status").stdout.count(b"\n ") == 1  # both are at the recorded commits
    assert "nothing to do" in clone.ok("apply").out


def test_only_what_is_asked_for_is_fetched(clone):
    clone.ok("apply", "--host", "beta")
    assert clone.file(host="beta").read_bytes() == expected("beta", "train.py", ALL)
    assert list(clone.folder().iterdir()) == []
    assert clone.run("apply", "--dry-run").code == 4
    assert list(clone.folder().iterdir()) == []


def test_the_audit_fetches_what_it_shows(clone):
    assert clone.ok("show", "--host", "alpha").out.startswith("# ==== alpha/compat")


def test_where_fetching_fails_the_advice_names_mirrors_and_nothing_is_written(clone, tmp_path, capfd, monkeypatch):
    shutil.rmtree(tmp_path / "alpha.git")
    done = clone.run("apply")
    assert done.code == 4
    assert "insteadOf https://example.org/alpha" in done.err
    assert "alpha.git" in capfd.readouterr().err  # git's own message
    assert clone.file(host="beta").read_bytes() == expected("beta", "train.py", ())
    mirror = tmp_path / "mirror"
    git(tmp_path, "clone", "-q", "--bare", str(tmp_path / "lab" / "vendor" / "alpha"), str(mirror))
    monkeypatch.setenv("GIT_CONFIG_COUNT", "2")  # as git config --global would do
    monkeypatch.setenv("GIT_CONFIG_KEY_1", f"url.{mirror}.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_1", f"file://{tmp_path}/alpha.git")
    clone.ok("apply")
    assert clone.file().read_bytes() == expected("alpha", "train.py", ALL)


def test_in_an_unpacked_zip_the_advice_is_to_clone_and_works(clone, tmp_path, monkeypatch):
    shutil.rmtree(clone.root / ".git")
    done = clone.run("apply", "--host", "alpha")
    assert done.code == 4
    assert "git submodule update" not in done.err
    (advice,) = (line.strip() for line in done.err.splitlines() if line.startswith("    git clone "))
    monkeypatch.setenv("GIT_CONFIG_COUNT", "2")
    monkeypatch.setenv("GIT_CONFIG_KEY_1", f"url.file://{tmp_path}/alpha.git.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_1", "https://example.org/alpha")
    subprocess.run(advice, shell=True, check=True, cwd=clone.root)
    clone.ok("apply", "--host", "alpha")
    assert clone.file().read_bytes() == expected("alpha", "train.py", ALL)


def test_a_pinned_commit_that_upstream_does_not_have_is_refused_with_the_advice(clone, tmp_path):
    wanted = "1" * 40
    git(clone.root, "update-index", "--cacheinfo", f"160000,{wanted},vendor/alpha")
    facts = clone.root / "patches" / "upstreams.toml"
    head = git(tmp_path / "alpha.git", "rev-parse", "HEAD").stdout.decode().strip()
    facts.write_text(facts.read_text().replace(head, wanted, 1))
    done = clone.run("apply", "--host", "alpha")
    assert (done.code, "vendor/alpha must be fetched, at the commit" in done.err) == (4, True), done
    git(clone.root, "update-index", "--cacheinfo", f"160000,{head},vendor/alpha")
    facts.write_text(facts.read_text().replace(wanted, head, 1))
    clone.ok("apply", "--host", "alpha")
    assert clone.file().read_bytes() == expected("alpha", "train.py", ALL)


def test_a_server_that_gives_no_single_commit_is_asked_for_the_whole_history(clone, tmp_path, monkeypatch):
    commits_behind_the_pin(tmp_path)
    monkeypatch.setenv("GIT_CONFIG_COUNT", "2")
    monkeypatch.setenv("GIT_CONFIG_KEY_1", "protocol.version")
    monkeypatch.setenv("GIT_CONFIG_VALUE_1", "0")
    clone.ok("apply")
    assert clone.file().read_bytes() == expected("alpha", "train.py", ALL)


@pytest.mark.parametrize("state", ["cloned, nothing checked out", "no commit", "no objects", "an empty .git folder"])
def test_a_half_fetched_submodule_is_completed(clone, tmp_path, state):
    if state == "an empty .git folder":
        (clone.folder() / ".git").mkdir()
        parent = git(clone.root, "rev-parse", "HEAD").stdout, sorted(os.listdir(clone.root))
        done = clone.run("apply")
        assert done.code in (0, 4)  # which one depends on git; it must never act on the parent repository
        assert (git(clone.root, "rev-parse", "HEAD").stdout, sorted(os.listdir(clone.root))) == parent
        return
    git(clone.root, "submodule", "update", "--init", "vendor/alpha")
    modules = clone.root / ".git" / "modules" / "vendor" / "alpha"
    for path in clone.folder().iterdir():
        if path.name != ".git":
            path.unlink() if path.is_file() else shutil.rmtree(path)
    (modules / "index").unlink()
    if state != "cloned, nothing checked out":
        shutil.rmtree(modules / "refs")
        (modules / "refs").mkdir()
        shutil.rmtree(modules / "logs")
        (modules / "packed-refs").unlink(missing_ok=True)
        (modules / "HEAD").write_text("ref: refs/heads/main\n")
    if state == "no objects":
        shutil.rmtree(modules / "objects")
    clone.ok("apply")
    assert {k: v for k, v in clone.contents().items() if k.endswith(".py")} == clone.want()


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "killed"])
def test_stopped_while_fetching_the_next_run_completes_it(clone, tmp_path, kind):
    work = tmp_path / "work"  # takes a while to fetch
    git(tmp_path, "clone", "-q", str(tmp_path / "alpha.git"), str(work))
    (work / "big").write_bytes(os.urandom(30_000_000))
    git(work, "add", "big")
    git(work, "commit", "-qm", "big")
    git(work, "push", "-q", "origin", "HEAD")
    head = git(work, "rev-parse", "HEAD").stdout.decode().strip()
    facts = clone.root / "patches" / "upstreams.toml"
    facts.write_text(facts.read_text().replace(git(work, "rev-parse", "HEAD~1").stdout.decode().strip(), head, 1))
    git(clone.root, "update-index", "--cacheinfo", f"160000,{head},vendor/alpha")
    script = [sys.executable, str(ROOT / "tools" / "apply_patches.py"), "--root", str(clone.root), "apply"]
    modules = clone.root / ".git" / "modules" / "vendor" / "alpha"
    quiet = {"stderr": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    hear = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a background job may ignore SIGINT
    with subprocess.Popen(script, start_new_session=True, preexec_fn=hear, **quiet) as run:
        end = time.monotonic() + 30
        while not modules.exists() and time.monotonic() < end and run.poll() is None:
            time.sleep(0.002)
        time.sleep(0.02)
        os.killpg(run.pid, kind)
        assert run.wait(30) != 0
    clone.ok("apply")
    for path in ("train.py", "net/layer.py"):
        assert clone.file(path).read_bytes() == expected("alpha", path, ALL)
    assert (clone.folder() / "big").stat().st_size == 30_000_000
