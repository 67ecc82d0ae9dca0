"""The patches for stylegan3 as they are: few lines, any subset, taken out without a trace."""

import ast
import os
import shutil
import subprocess
import sys

import pytest
from engine_lab import git
from stylegan3_lab import HOST, ROOT, Checkout

from overlay.catalog import load_patches


def test_each_concern_inserts_the_lines_that_its_page_says():
    counts = {name: patch.line_count for name, patch in load_patches(HOST).items()}
    assert counts == {"compat": 1, "cpu": 1, "launch": 3, "mtm": 10, "metrics": 4, "resume": 4}


@pytest.fixture
def checkout(stylegan3, tmp_path):
    """A pristine clone of one's own."""
    return Checkout(tmp_path / "own", ())


def python_files(checkout):
    changed = git(checkout.folder, "diff", "--name-only").stdout.decode().split()
    return {name: (checkout.folder / name).read_bytes() for name in changed}


@pytest.mark.parametrize("concern", HOST.series)
def test_a_concern_alone_is_python_equals_plain_git_apply_and_leaves_no_trace(checkout, concern):
    checkout.lab.ok("apply", "--concern", concern)
    ours = python_files(checkout)
    assert set(ours) == {f.path for f in load_patches(HOST)[concern].files}
    for text in ours.values():
        ast.parse(text)
    checkout.lab.ok("revert")
    assert git(checkout.folder, "status", "--porcelain").stdout == b""
    git(checkout.folder, "apply", "--unidiff-zero", str(HOST.patch_path(concern)))
    assert python_files(checkout) == ours


@pytest.mark.parametrize("concern", HOST.series)
def test_a_patched_tree_finds_the_repository_that_it_lies_in(checkout, concern):
    """From elsewhere, with no PYTHONPATH, and before a package of ours that is installed."""
    checkout.lab.ok("apply", "--concern", "compat", "--concern", concern)
    for package in ("mtm_hosts", "mtm_ops"):
        shutil.copytree(ROOT / package, checkout.root / package, ignore=shutil.ignore_patterns("__pycache__"))
    code = f"import sys; sys.path.insert(0, sys.argv[1]); import dnnlib, mtm_hosts.{concern}, mtm_ops\n"
    code += "print(mtm_hosts.__file__, mtm_ops.__file__)"
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(checkout.folder)], cwd="/", env=env, capture_output=True, text=True
    )
    assert done.stdout.split() == [str(checkout.root / p / "__init__.py") for p in ("mtm_hosts", "mtm_ops")], done
