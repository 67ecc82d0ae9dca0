"""What the ledger records about a host: its commit, its patches, and other changes in the checkout."""

import hashlib
import shutil

import pytest
from engine_lab import TRAIN, git

from overlay.provenance import provenance

ALL = ["compat", "cpu", "mtm"]


def told(lab, host="alpha"):
    return provenance(lab.root, host)


def test_a_patched_tree_is_its_commit_and_its_patches_and_nothing_else(lab):
    lab.ok("apply")
    head = git(lab.folder(), "rev-parse", "HEAD").stdout.decode().strip()
    patches = {c: (lab.root / "patches" / "alpha" / f"{c}.patch").read_bytes() for c in ALL}
    hashes = {c: hashlib.sha256(data).hexdigest() for c, data in patches.items()}
    assert told(lab) == {"commit": head, "state": "applied", "concerns": ALL, "patches": hashes, "foreign": None}


def test_a_pristine_and_a_partly_patched_tree(lab):
    assert (told(lab)["state"], told(lab)["concerns"], told(lab)["foreign"]) == ("pristine", [], None)
    lab.ok("apply", "--concern", "mtm")
    assert (told(lab)["state"], told(lab)["concerns"], told(lab)["foreign"]) == ("partly applied", ["mtm"], None)


def test_an_absent_host(lab):
    shutil.rmtree(lab.folder())
    assert told(lab) == {"commit": None, "state": "absent", "concerns": [], "patches": {}, "foreign": None}


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


FOREIGN = {
    "a line in a patched file": lambda lab: write(lab.file(), lab.file().read_bytes() + b"mine\n"),
    "a line of ours changed": lambda lab: write(lab.file(), lab.file().read_bytes().replace(b"mtm\n", b"MTM\n")),
    "a line in a file that no patch touches": lambda lab: write(lab.file("bare.py"), b"mine\n"),
    "a removed file": lambda lab: lab.file("bare.py").unlink(),
    "an executable bit": lambda lab: lab.file("bare.py").chmod(0o755),
    "a new module": lambda lab: write(lab.file("net/extra.py"), b"mine\n"),
    "half a concern": lambda lab: write(lab.file(), TRAIN),
    "older lines": lambda lab: lab.write_patch("alpha", "cpu", {"train.py": [(9, [b"cpu, second\n"])]}),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_neither_upstreams_nor_ours_has_a_hash_that_tells_it_apart(lab, name):
    lab.ok("apply")
    FOREIGN[name](lab)
    first = told(lab)["foreign"]
    assert first is not None
    assert told(lab)["foreign"] == first
    write(lab.file("other.py"), b"more\n")
    assert told(lab)["foreign"] not in (None, first)


def test_a_users_line_has_the_same_hash_with_and_without_our_lines(lab):
    lab.file().write_bytes(TRAIN.replace(b"train 12\n", b"train 12\nmine\n"))
    before = told(lab)["foreign"]
    lab.ok("apply")
    assert told(lab)["foreign"] == before
    assert told(lab)["concerns"] == ALL
    assert told(lab)["state"] == "applied, modified"


def test_results_data_and_ignored_files_do_not_count(lab):
    lab.ok("apply")
    write(lab.file("training-runs/00000/network-snapshot.pkl"), b"x")
    write(lab.file("training-runs/00000/log.txt"), b"x")
    assert told(lab)["foreign"] is None


def test_a_commit_on_top_is_told_by_its_hash(lab):
    lab.ok("apply")
    before = told(lab)["commit"]
    git(lab.folder(), "commit", "-qam", "mine")
    assert told(lab)["commit"] != before
    assert "stale" in told(lab)["state"]


def test_it_only_reads(lab):
    lab.ok("apply")
    lab.file().write_bytes(lab.file().read_bytes() + b"mine\n")
    before = lab.contents(), (lab.folder() / ".git" / "index").stat().st_mtime_ns
    told(lab)
    assert (lab.contents(), (lab.folder() / ".git" / "index").stat().st_mtime_ns) == before
