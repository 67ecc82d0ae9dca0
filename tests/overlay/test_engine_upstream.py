"""The real repository: its pins, its patches, and the engine on a copy of the official StyleGAN3 checkout."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from engine_lab import Lab, git

from overlay.catalog import load_hosts, load_patches
from overlay.cli import main
from overlay.git import gitlinks, open_checkout, read_blobs

ROOT = Path(__file__).resolve().parents[2]
HOSTS = {h.name: h for h in load_hosts(ROOT)}


def test_the_gitlinks_and_gitmodules_agree_with_upstreams_toml():
    links = gitlinks(ROOT)
    if links is None:
        pytest.skip("no git repository here, so no gitlinks to compare")
    assert links == {h.vendor: h.commit for h in HOSTS.values()}
    config = git(ROOT, "config", "-f", ".gitmodules", "--list").stdout.decode().splitlines()
    assert sorted(config) == sorted(
        line
        for h in HOSTS.values()
        for line in (
            f"submodule.{h.vendor}.path={h.vendor}",
            f"submodule.{h.vendor}.url={h.url}",
            f"submodule.{h.vendor}.ignore=dirty",
        )
    )


def test_our_own_patches_pass_check(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["check"])
    assert (stop.value.code, capsys.readouterr().err) == (0, "")


def test_the_command_runs_as_a_script_from_anywhere(tmp_path):
    command = [sys.executable, str(ROOT / "tools" / "apply_patches.py"), "check"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("stylegan3: ")


@pytest.fixture
def real(tmp_path):
    """A lab whose only host is a clone of vendor/stylegan3. vendor/ itself is never written to."""
    host = HOSTS["stylegan3"]
    if open_checkout(host.folder) is None:
        pytest.skip(f"{host.vendor} is not fetched: git submodule update --init {host.vendor}")
    lab = Lab(tmp_path / "lab")
    lab.folder("stylegan3").parent.mkdir(parents=True)
    git(tmp_path, "clone", "-q", "--no-checkout", str(host.folder), str(lab.folder("stylegan3")))
    git(lab.folder("stylegan3"), "checkout", "-q", host.commit)
    lab.write_upstreams(["stylegan3"])
    places = {"train.py": [(1, [b"# ours\n"]), (152, [b"# ours too\n"])], "training/loss.py": [(10, [b"# loss\n"])]}
    lab.write_patch("stylegan3", "compat", places)
    lab.write_patch("stylegan3", "mtm", {"train.py": [(152, [b"# mtm\n"])]})
    (lab.root / "patches" / "stylegan3" / "series").write_text("compat\nmtm\n")
    return lab


def test_the_pin_is_the_one_in_the_facts(real):
    facts = tomllib.loads((real.root / "patches" / "upstreams.toml").read_text())
    assert facts["stylegan3"]["commit"] == HOSTS["stylegan3"].commit


def test_stylegan3_is_patched_shown_and_restored(real):
    folder = real.folder("stylegan3")
    real.ok("check")
    real.ok("apply")
    numbers = git(folder, "diff", "--numstat").stdout.decode().split()
    assert numbers == ["3", "0", "train.py", "1", "0", "training/loss.py"]
    assert "applied" in real.ok("status").out
    assert "+# ours too\n" in real.ok("show").out
    real.ok("revert")
    assert git(folder, "status", "--porcelain").stdout == b""


def test_stylegan3_patches_alone_equal_plain_git_apply(real):
    folder = real.folder("stylegan3")
    for concern in ("compat", "mtm"):
        git(folder, "apply", "--unidiff-zero", str(real.root / "patches" / "stylegan3" / f"{concern}.patch"))
        by_git = real.contents()
        git(folder, "checkout", "-q", ".")
        real.ok("apply", "--concern", concern)
        assert real.contents() == by_git
        real.ok("revert")


def test_an_edit_in_stylegan3_is_refreshed_into_the_concern(real):
    path = real.folder("stylegan3") / "train.py"
    real.ok("apply")
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([*lines[:100], b"# mine", *lines[100:]]))
    real.ok("refresh", "--host", "stylegan3", "--concern", "mtm")
    real.ok("revert")
    assert git(real.folder("stylegan3"), "status", "--porcelain").stdout == b""
    patch = (real.root / "patches" / "stylegan3" / "mtm.patch").read_text()
    assert "@@ -99,0 +100 @@\n+# mine\n@@ -152,0 +154 @@\n+# mtm\n" in patch


@pytest.fixture
def patched_host(request, tmp_path):
    """A lab whose only host is a clone of one host in vendor/, with our real patches for it."""
    host = HOSTS[request.param]
    if open_checkout(host.folder) is None:
        pytest.skip(f"{host.vendor} is not fetched: git submodule update --init {host.vendor}")
    lab = Lab(tmp_path / "lab")
    lab.folder(host.name).parent.mkdir(parents=True)
    git(tmp_path, "clone", "-q", "--no-checkout", str(host.folder), str(lab.folder(host.name)))
    git(lab.folder(host.name), "checkout", "-q", host.commit)
    lab.write_upstreams([host.name])
    shutil.copytree(host.patch_folder, lab.root / "patches" / host.name)
    git(lab.root, "init", "-q")
    return lab, host


def whole(lab, host):
    """path -> bytes of every file that a patch touches."""
    return {f.path: lab.file(f.path, host.name).read_bytes() for p in load_patches(host).values() for f in p.files}


@pytest.mark.parametrize("patched_host", [n for n, h in HOSTS.items() if h.series], indirect=True)
def test_the_audit_is_one_diff_that_git_applies_to_what_the_engine_writes(patched_host):
    """For each concern alone, for all but one, and for all; with and without context lines."""
    lab, host = patched_host
    everything = set(host.series)
    subsets = [{c} for c in host.series] + [everything - {c} for c in host.series] + [everything]
    pristine = whole(lab, host)
    for number, subset in enumerate(s for s in subsets if s):
        chosen = [word for c in host.series if c in subset for word in ("--concern", c)]
        diff = lab.ok("show", *chosen, "-U", str((0, 1, 3)[number % 3])).out
        assert diff.count(f"diff --git a/{host.vendor}/") == diff.count("diff --git")
        git(lab.root, "apply", "--unidiff-zero", "-", data=diff.encode("utf-8", "surrogateescape"))
        by_git = whole(lab, host)
        assert by_git != pristine
        git(lab.folder(host.name), "checkout", "-q", ".")
        lab.ok("apply", *chosen)
        assert whole(lab, host) == by_git, subset
        lab.ok("revert")
        assert whole(lab, host) == pristine


@pytest.mark.parametrize("patched_host", [n for n, h in HOSTS.items() if h.series], indirect=True)
def test_the_audit_is_the_same_whatever_the_checkout_holds(patched_host):
    lab, host = patched_host
    before = lab.ok("show").out
    lab.ok("apply")
    file = next(iter(whole(lab, host)))
    lab.file(file, host.name).write_bytes(b"mine")
    assert lab.ok("show").out == before


@pytest.mark.parametrize("name", HOSTS)
def test_no_patch_of_ours_holds_a_line_of_the_file_it_is_for(name):
    host = HOSTS[name]
    checkout = open_checkout(host.folder)
    if checkout is None:
        pytest.skip(f"{host.vendor} is not fetched: git submodule update --init {host.vendor}")
    for patch in load_patches(host).values():
        for file in patch.files:
            upstream = {line.strip() for line in read_blobs(checkout, [file.before])[file.before].split(b"\n")}
            ours = {line.strip() for insertion in file.insertions for line in insertion.lines}
            # Three words or more, because anyone may write 'else:' and the like.
            assert not {line for line in ours & upstream if len(line.split()) > 2}
