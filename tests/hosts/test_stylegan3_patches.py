"""The patches for stylegan3 as they are: few lines, any subset, taken out without a trace."""

import ast

import pytest
from engine_lab import git
from stylegan3_lab import HOST, Checkout

from overlay.catalog import load_patches


def test_the_patches_insert_at_most_forty_lines():
    patches = load_patches(HOST)
    assert list(patches) == ["compat", "cpu", "launch", "mtm", "metrics"]
    assert sum(p.line_count for p in patches.values()) <= 40


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
