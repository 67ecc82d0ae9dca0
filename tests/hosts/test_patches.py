"""The real patches of every host: they are small, work in any subset, and leave no trace when reverted."""

import ast
import os
import re
import shutil

import forked
import pytest
from engine_lab import git
from lab import ROOT, Checkout

from mtm_hosts.hosts import HOSTS
from overlay.catalog import load_hosts, load_patches
from overlay.git import open_checkout

PATCHED = [host for host in load_hosts(ROOT) if host.patch_folder.is_dir()]
FINDS = (
    r"import sys, pathlib; sys\.path\[1:1\] = \[str\(p\) for p in pathlib\.Path\(__file__\)\.parents if "
    r"\(p / 'mtm_hosts'\)\.is_dir\(\)( or \(p / 'configs'\)\.is_dir\(\))?\]"
)
CONCERNS = [pytest.param(host, concern, id=f"{host.name}-{concern}") for host in PATCHED for concern in host.series]


@pytest.mark.parametrize("host", PATCHED, ids=lambda host: host.name)
def test_each_concern_inserts_the_lines_that_its_page_says(host):
    page = (ROOT / "docs" / "hosts" / f"{host.name}.md").read_text()
    said = {name: int(count) for name, count in re.findall(r"^\| (\w+) \| (\d+) \|", page, re.MULTILINE)}
    assert said == {name: patch.line_count for name, patch in load_patches(host).items()}


def clone(host, folder):
    if open_checkout(host.folder) is None:
        pytest.skip(f"{host.vendor} is not fetched: git submodule update --init {host.vendor}")
    return Checkout(folder / "own", host, ())


def changed_files(checkout):
    changed = git(checkout.folder, "diff", "--name-only").stdout.decode().split()
    return {name: (checkout.folder / name).read_bytes() for name in changed}


@pytest.mark.filterwarnings("ignore:invalid escape sequence", "ignore:.*is an invalid escape sequence")  # in upstream
@pytest.mark.parametrize(("host", "concern"), CONCERNS)
def test_a_concern_alone_is_python_equals_plain_git_apply_and_leaves_no_trace(host, concern, tmp_path):
    checkout = clone(host, tmp_path)
    checkout.lab.ok("apply", "--concern", concern)
    ours = changed_files(checkout)
    assert set(ours) == {f.path for f in load_patches(host)[concern].files}
    for name, text in ours.items():
        if name.endswith(".py"):
            ast.parse(text)
    checkout.lab.ok("revert")
    assert git(checkout.folder, "status", "--porcelain").stdout == b""
    git(checkout.folder, "apply", "--unidiff-zero", str(host.patch_path(concern)))
    assert changed_files(checkout) == ours


@pytest.mark.parametrize(("host", "concern"), CONCERNS)
def test_each_concern_begins_with_the_line_that_finds_the_repository(host, concern):
    """This allows each concern to be applied alone. The next test runs the line."""
    (file,) = [f for f in load_patches(host)[concern].files if f.path.endswith("dnnlib/__init__.py")]
    (line,) = [line.decode().strip() for insertion in file.insertions for line in insertion.lines]
    find, _, imported = line.rpartition("; import ")
    assert f"mtm_hosts.{concern}" in imported.split(", ")
    assert re.fullmatch(FINDS, find), find


@pytest.mark.parametrize("host", PATCHED, ids=lambda host: host.name)
def test_a_patched_tree_finds_the_repository_that_it_lies_in(host, tmp_path):
    """Run from another folder, without PYTHONPATH. It must also win over an installed copy of our packages."""
    checkout = clone(host, tmp_path)
    checkout.lab.ok("apply", "--concern", "compat")
    for package in ("mtm_hosts", "mtm_ops"):
        shutil.copytree(ROOT / package, checkout.root / package, ignore=shutil.ignore_patterns("__pycache__"))
    code = f"import sys; sys.path.insert(0, sys.argv[1]); import {HOSTS[host.name].package}dnnlib, mtm_ops\n"
    code += f"import {', '.join(f'mtm_hosts.{concern}' for concern in host.series)}\n"
    code += "print(mtm_hosts.__file__, mtm_ops.__file__)"
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = forked.run("-c", code, str(checkout.code), cwd="/", env=env)
    assert done.stdout.split() == [str(checkout.root / p / "__init__.py") for p in ("mtm_hosts", "mtm_ops")], done
