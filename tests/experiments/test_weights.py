"""experiments.weights: the table of weights, and that only files with the right bytes are handed on."""

import hashlib
import importlib.util
import json
import os
import time
import tomllib
from pathlib import Path

import pytest

from experiments import weights
from experiments.files import UserError, file_sha256
from experiments.metrics import GROUPS, METRICS
from experiments.weights import (
    PINNED,
    STAND_INS,
    WEIGHTS,
    Weights,
    locate,
    official,
    record_stand_in,
    recorded,
    weights_folder,
    weights_from_toml,
)

ROOT = Path(__file__).resolve().parents[2]
RIGHT, RANDOM = b"right" * 100, b"random" * 100
NAMES = ("whole", "prefix", "bare")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with three correct files. For one the full hash is published, for one a prefix, for one nothing."""
    published = {"whole": {"sha256": sha256(RIGHT)}, "prefix": {"sha256_prefix": sha256(RIGHT)[:8]}, "bare": {}}
    table = {}
    for name in NAMES:
        facts = {"title": f"Net {name}", "file": f"{name}.pt", "url": f"https://example.org/{name}", "licence": "MIT"}
        table[name] = Weights(name=name, **facts, **published[name])
        (tmp_path / f"{name}.pt").write_bytes(RIGHT)
    monkeypatch.setattr(weights, "WEIGHTS", table)
    monkeypatch.setenv("MTM_WEIGHTS", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("entry", WEIGHTS.values(), ids=WEIGHTS)
def test_every_entry_says_where_from_and_on_which_terms(entry):
    assert entry.url.startswith("https://")
    assert entry.licence
    assert entry.title
    assert entry.used_by
    assert len(entry.sha256) == 64
    assert entry.hash_from
    assert entry.size_bytes > 0


@pytest.mark.parametrize("entry", WEIGHTS.values(), ids=WEIGHTS)
def test_the_documentation_has_the_tables_facts(entry):
    said = (ROOT / "docs" / "weights.md").read_text(encoding="utf-8")
    size = f"{entry.size_bytes / 1e6:,.1f} MB"
    for fact in (f"`{entry.name}`", f"`{entry.file}`", size, f"<{entry.url}>", entry.sha256, *entry.used_by):
        assert fact in said


def test_metrics_that_the_hosts_compute_have_their_weights_listed():
    used_by = [used for entry in WEIGHTS.values() for used in entry.used_by]
    listed = {name for used in used_by for name in GROUPS.get(used, (used,))}
    assert {name for name, metric in METRICS.items() if metric.compute is None} <= listed


def test_addresses_are_those_of_torch_fidelity():
    spec = importlib.util.find_spec("torch_fidelity")
    if spec is None:
        pytest.skip("torch-fidelity is not installed")
    modules = Path(spec.origin).parent
    inception = (modules / "feature_extractor_inceptionv3.py").read_text()
    assert f'"{WEIGHTS["inception-2015-12-05"].url}"' in inception
    clip = (modules / "feature_extractor_clip.py").read_text()
    base, sha, file = WEIGHTS["clip-vit-b-32"].url.rsplit("/", 2)
    assert f'MODEL_BASE_URL = "{base}"' in clip
    assert f'"hash": "{sha}",\n        "filename": "{file.removesuffix(".pt")}"' in clip
    assert sha == WEIGHTS["clip-vit-b-32"].sha256


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("inception-nvidia", "stylegan3/metrics/frechet_inception_distance.py"),
        ("inception-nvidia", "eg3d/eg3d/metrics/frechet_inception_distance.py"),
        ("inception-nvidia", "stylegan-v/src/metrics/frechet_inception_distance.py"),
        ("inception-nvidia-pt", "stylegan-v/src/metrics/kernel_inception_distance.py"),
        ("inception-nvidia-pt", "stylesv/src/metrics/kernel_inception_distance.py"),
        ("i3d-kinetics-400", "stylegan-v/src/metrics/frechet_video_distance.py"),
        ("i3d-kinetics-400", "stylesv/src/metrics/frechet_video_distance.py"),
    ],
)
def test_addresses_are_those_of_the_hosts(name, file):
    source = ROOT / "vendor" / file
    if not source.is_file():
        pytest.skip(f"vendor/{file.split('/')[0]} is not fetched")
    assert f"'{WEIGHTS[name].url}'" in source.read_text()


def test_right_files_are_located(folder):
    found = locate(NAMES)
    assert {name: (f.path, f.sha256, f.stand_in) for name, f in found.items()} == {
        name: (folder / f"{name}.pt", sha256(RIGHT), False) for name in NAMES
    }
    assert locate([]) == {}
    with pytest.raises(UserError, match="whole: missing"):
        locate(["whole"], folder / "another")


def test_one_error_lists_all_that_is_missing_or_wrong(folder):
    (folder / "whole.pt").write_bytes(RIGHT + b"!")
    (folder / "prefix.pt").unlink()
    with pytest.raises(UserError) as caught:
        locate(NAMES)
    said = str(caught.value)
    assert f"whole: wrong (its sha256 must be {sha256(RIGHT)}; got {sha256(RIGHT + b'!')})" in said
    assert "prefix: missing" in said
    assert "bare" not in said
    for name in ("whole", "prefix"):
        for fact in (f"Net {name}", "licence: MIT", f"https://example.org/{name}", str(folder / f"{name}.pt")):
            assert fact in said
    assert 'make weights WEIGHTS="whole prefix"' in said
    assert not (folder / PINNED).exists()


def test_a_wrong_prefix_and_what_is_no_file_are_refused(folder):
    (folder / "prefix.pt").write_bytes(RANDOM)
    (folder / "bare.pt").unlink()
    (folder / "bare.pt").mkdir()
    with pytest.raises(
        UserError, match=rf"(?s)prefix: wrong \(its sha256 must be {sha256(RIGHT)[:8]}\.\.\..*bare: wrong"
    ):
        locate(NAMES)


def test_names_must_exist(folder):
    with pytest.raises(UserError, match="name must be one of whole, prefix, bare; got other"):
        locate(["whole", "other"])


def test_what_nobody_publishes_is_recorded_at_first_use_and_then_demanded(folder):
    locate(NAMES)
    assert tomllib.loads((folder / PINNED).read_text()) == {n: sha256(RIGHT) for n in ("prefix", "bare")}
    locate(NAMES)
    (folder / "bare.pt").write_bytes(RANDOM)
    with pytest.raises(UserError, match=f"must be {sha256(RIGHT)}, as pinned.toml recorded it at first use"):
        locate(NAMES)
    assert recorded(folder / PINNED)["bare"] == sha256(RIGHT)


def test_stand_ins_are_accepted_by_their_hash_and_say_so(folder):
    for name in NAMES:
        (folder / f"{name}.pt").write_bytes(RANDOM)
        assert record_stand_in(name, folder).stand_in
    assert all(found.stand_in and found.sha256 == sha256(RANDOM) for found in locate(NAMES).values())
    assert recorded(folder / PINNED) == {}  # otherwise the right file would be refused later
    assert recorded(folder / STAND_INS) == {name: sha256(RANDOM) for name in NAMES}
    for name in NAMES:
        (folder / f"{name}.pt").write_bytes(RIGHT)
    assert not any(found.stand_in for found in locate(NAMES).values())
    (folder / "whole.pt").write_bytes(RANDOM + b"!")
    with pytest.raises(UserError, match="whole: wrong"):
        locate(NAMES)


def test_the_published_file_is_never_called_a_stand_in(folder):
    record_stand_in("whole", folder)
    assert not locate(["whole"])["whole"].stand_in


def test_official_is_the_verified_file_of_an_address(folder):
    assert official("https://example.org/whole") == folder / "whole.pt"
    assert official("https://example.org/other") is None
    (folder / "whole.pt").write_bytes(RANDOM)
    with pytest.raises(UserError, match="whole: wrong"):
        official("https://example.org/whole")
    record_stand_in("whole", folder)
    assert official("https://example.org/whole") is None
    (folder / "whole.pt").unlink()
    assert official("https://example.org/whole") is None


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are read completely to compute their hash."""
    real, found = hashlib.file_digest, []

    def digest(file, kind):
        found.append(Path(file.name).name)
        return real(file, kind)

    monkeypatch.setattr(hashlib, "file_digest", digest)
    return found


@pytest.fixture
def settled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder, some time after its files were written."""
    later = time.time_ns() + 10**10
    monkeypatch.setattr(time, "time_ns", lambda: later)
    return folder


def test_a_hash_is_remembered(settled, reads):
    locate(["whole"])
    locate(["whole"])
    assert reads == ["whole.pt"]


def test_a_hash_of_a_file_that_was_just_written_is_not_remembered(folder, reads):
    assert file_sha256(folder / "whole.pt") == file_sha256(folder / "whole.pt")
    assert reads == ["whole.pt"] * 2


def test_a_file_of_the_same_size_and_date_is_hashed_anew(settled, reads):
    path = settled / "whole.pt"
    locate(["whole"])
    facts = path.stat()
    path.write_bytes(b"wrong" * 100)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (facts.st_size, facts.st_mtime_ns)
    with pytest.raises(UserError, match="whole: wrong"):
        locate(["whole"])


@pytest.mark.parametrize("text", ["", "[", "[]", "{}", '{"file": 1, "sha256": "2"}', "\xff"])
def test_a_damaged_memory_is_ignored(settled, reads, text):
    locate(["whole"])
    memory = settled / ".whole.pt.sha256"
    json.loads(memory.read_text())
    memory.write_bytes(text.encode("latin-1"))
    locate(["whole"])
    locate(["whole"])
    assert reads == ["whole.pt"] * 2


def test_a_folder_that_cannot_be_written_is_enough_where_hashes_are_published(settled, monkeypatch):
    def refuse(*args: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    assert locate(["whole"])["whole"].sha256 == sha256(RIGHT)
    with pytest.raises(UserError, match="cannot be written"):
        locate(["bare"])


@pytest.mark.parametrize("text", ["bare = ", "bare = 1\n", 'bare = "abc"\n'])
@pytest.mark.parametrize("file", [PINNED, STAND_INS])
def test_damaged_records_are_said(folder, file, text):
    (folder / file).write_text(text)
    with pytest.raises(UserError, match=f"{file}: expected"):
        locate(["bare"])


def test_the_folder_is_the_repositorys_or_what_the_environment_names(monkeypatch):
    monkeypatch.delenv("MTM_WEIGHTS", raising=False)
    assert weights_folder() == ROOT / "weights"
    monkeypatch.setenv("MTM_WEIGHTS", "/elsewhere")
    assert weights_folder() == Path("/elsewhere")
    monkeypatch.setenv("MTM_WEIGHTS", "data/nets")  # the hosts start in other folders
    assert weights_folder() == ROOT / "data/nets"


ENTRY = 'title = "T"\nfile = "f.pt"\nurl = "https://example.org"\nlicence = "MIT"\n'


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[a", "w.toml: expected TOML"),
        ("a = 1\n", "w.toml: a: .*must have the right type"),
        ('[a]\ntitle = "T"\n', "w.toml: a must have the keys file, url, licence"),
        (f"[a]\n{ENTRY}size = 3\n", "known keys only.*got size"),
        (f'[a]\n{ENTRY}sha256 = "abc"\n', "64 hexadecimal digits"),
        (f'[a]\n{ENTRY}sha256 = "{"a" * 64}"\nsha256_prefix = "{"b" * 8}"\n', "with which the sha256 begins"),
        (f'[a]\n{ENTRY}sha256_prefix = "ab"\n', "8 hexadecimal digits or more"),
        (f"[A]\n{ENTRY}", "a name of a-z"),
        ("[a]\n" + ENTRY.replace("f.pt", "../f.pt"), "a plain file name"),
    ],
)
def test_a_wrong_table_names_the_entry_and_the_rule(text, match):
    with pytest.raises(UserError, match=match):
        weights_from_toml(text, "w.toml")
