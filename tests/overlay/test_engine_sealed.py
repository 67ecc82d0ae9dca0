"""Sealing: a patched checkout travels without git. The upstream is made up for the tests."""

import pytest

from overlay.errors import OverlayError
from overlay.provenance import provenance
from overlay.sealed import SEAL, read_seal, seal, sealed_files


def test_the_files_travel_with_what_the_checkout_was(lab, tmp_path):
    lab.ok("apply")
    target = tmp_path / "sealed"
    assert seal(lab.root, "alpha", target, {".py"}) == provenance(lab.root, "alpha")
    assert read_seal(target) == provenance(lab.root, "alpha")
    want = {path.removeprefix("alpha/"): data for path, data in lab.want().items() if path.startswith("alpha/")}
    assert {path: (target / path).read_bytes() for path in sealed_files(target)} == want


def test_only_files_of_the_suffixes_travel(lab, tmp_path):
    seal(lab.root, "alpha", tmp_path / "sealed", {".md"})
    assert [p.name for p in (tmp_path / "sealed").iterdir()] == [SEAL]


@pytest.mark.parametrize("change", ["edited", "removed"])
def test_a_file_that_is_not_as_it_was_is_refused_by_name(lab, tmp_path, change):
    lab.ok("apply")
    seal(lab.root, "alpha", tmp_path / "sealed", {".py"})
    file = tmp_path / "sealed" / "train.py"
    file.write_bytes(file.read_bytes() + b"mine\n") if change == "edited" else file.unlink()
    with pytest.raises(OverlayError, match=r"as it was sealed; got changes in train\.py"):
        read_seal(tmp_path / "sealed")


def test_edits_are_not_sealed(lab, tmp_path):
    lab.ok("apply")
    lab.file().write_bytes(lab.file().read_bytes() + b"mine\n")
    with pytest.raises(OverlayError, match="must hold patches alone"):
        seal(lab.root, "alpha", tmp_path / "sealed", {".py"})


def test_a_git_checkout_speaks_for_itself(lab, tmp_path):
    seal(lab.root, "alpha", tmp_path / "sealed", {".py"})
    (lab.folder() / SEAL).write_bytes((tmp_path / "sealed" / SEAL).read_bytes())
    assert read_seal(lab.folder()) is None
    assert read_seal(tmp_path) is None
