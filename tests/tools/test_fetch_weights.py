"""tools.weights, the command that fetches the metrics' weights or copies them from a folder."""

import os
import shutil
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from http_lab import Reply, Server, sha256

from experiments import weights
from experiments.weights import PINNED, STAND_INS, Weights, locate, record_stand_in, recorded
from tools.weights import main

BODIES = {"alpha": b"alpha" * 1000, "beta": b"beta" * 1000, "gamma": b"gamma" * 1000}


@pytest.fixture
def server(running: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server with the files of a weights table. One has a full hash, one a prefix, one none."""
    running.asked.clear()
    published = {"alpha": {"sha256": sha256(BODIES["alpha"]), "size_bytes": 5000}}
    published |= {"beta": {"sha256_prefix": sha256(BODIES["beta"])[:8]}, "gamma": {}}
    table = {}
    for name, body in BODIES.items():
        url = running.say(f"/{name}.pt?dl=1", Reply(body))
        facts = {"title": f"Net {name}", "file": f"{name}-net.pt", "url": url, "licence": f"Licence {name}"}
        table[name] = Weights(name=name, **facts, **published[name], used_by=["fid"])
    monkeypatch.setattr(weights, "WEIGHTS", table)
    return running


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MTM_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def test_all_are_fetched_once(server, folder):
    done = run()
    assert done.exit_code == 0, done.output
    assert {path.name: path.read_bytes() for path in folder.glob("*.pt")} == {
        f"{name}-net.pt": body for name, body in BODIES.items()
    }
    assert len(server.asked) == 3
    done = run()
    assert done.exit_code == 0
    assert done.output.count(": present, ") == 3
    assert len(server.asked) == 3
    assert not any(found.stand_in for found in locate(BODIES, folder).values())


def test_only_those_that_are_named(server, folder):
    assert run("beta", "alpha", "beta").exit_code == 0
    assert [path for path, _ in server.asked] == ["/beta.pt?dl=1", "/alpha.pt?dl=1"]
    done = run("delta")
    assert done.exit_code == 1
    assert "name must be one of alpha, beta, gamma; got delta" in done.output


def test_one_that_fails_does_not_stop_the_others_and_all_are_listed_with_what_to_do(server, folder):
    server.say("/alpha.pt?dl=1", Reply(status=404))
    server.say("/beta.pt?dl=1", Reply(b"<html>Too many requests"))
    done = run()
    assert done.exit_code == 1
    assert (folder / "gamma-net.pt").is_file()
    said = done.output[done.output.index("Error: ") :]
    assert "alpha: missing (the server answered 404" in said
    assert "beta: missing (the server sent a web page" in said
    for name in ("alpha", "beta"):
        for fact in (f"Licence {name}", f"{server.url}/{name}.pt?dl=1", str(folder / f"{name}-net.pt")):
            assert fact in said
    assert 'make weights WEIGHTS="alpha beta"' in said
    assert "gamma" not in said


def test_offline_is_one_error_with_the_whole_list(server, folder, monkeypatch):
    with socket.socket() as free:  # bound, but nobody listens
        free.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{free.getsockname()[1]}/"
        table = {n: entry.model_copy(update={"url": f"{nowhere}{n}"}) for n, entry in weights.WEIGHTS.items()}
        monkeypatch.setattr(weights, "WEIGHTS", table)
        done = run()
    assert done.exit_code == 1
    assert done.output.count("missing (no answer: ") == 3
    assert done.output.count("(2 attempts)") == 1  # only the first waits for a second attempt
    assert [path for path in folder.iterdir() if path.suffix != ".lock"] == []


def test_a_wrong_file_is_set_aside_and_a_stand_in_is_replaced(server, folder):
    folder.mkdir()
    (folder / "alpha-net.pt").write_bytes(b"wrong")
    (folder / "gamma-net.pt").write_bytes(b"random")
    record_stand_in("gamma", folder)
    assert locate(["gamma"], folder)["gamma"].stand_in
    done = run("alpha", "gamma")
    assert done.exit_code == 0, done.output
    assert "Renamed to alpha-net.pt.refused" in done.output
    assert (folder / "alpha-net.pt.refused").read_bytes() == b"wrong"
    found = locate(["alpha", "gamma"], folder)
    assert [(f.sha256, f.stand_in) for f in found.values()] == [(sha256(BODIES[n]), False) for n in found]


def test_a_folder_in_a_files_place_is_left_alone(server, folder):
    (folder / "alpha-net.pt").mkdir(parents=True)
    done = run("alpha")
    assert done.exit_code == 1
    assert "not a file has this name" in done.output
    assert (folder / "alpha-net.pt").is_dir()


def test_hashes_that_nobody_publishes_are_recorded_and_then_demanded(server, folder):
    assert run().exit_code == 0
    assert recorded(folder / PINNED) == {n: sha256(BODIES[n]) for n in ("beta", "gamma")}
    (folder / "gamma-net.pt").unlink()
    server.say("/gamma.pt?dl=1", Reply(b"another file by now"))
    done = run("gamma")
    assert done.exit_code == 1
    assert "other bytes" in done.output
    assert not (folder / "gamma-net.pt").exists()


def test_a_prefix_is_demanded(server, folder):
    server.say("/beta.pt?dl=1", Reply(b"another file"))
    done = run("beta")
    assert done.exit_code == 1
    assert "other bytes" in done.output


def test_a_dry_run_lists_every_state_and_writes_nothing(server, folder):
    folder.mkdir()
    (folder / "alpha-net.pt").write_bytes(BODIES["alpha"])
    (folder / "beta-net.pt").write_bytes(b"wrong")
    (folder / "gamma-net.pt").write_bytes(b"random")
    (folder / STAND_INS).write_text(f'gamma = "{sha256(b"random")}"\n')
    done = run("--dry-run")
    assert done.exit_code == 0
    for fact in ("alpha: present", "beta: wrong (its sha256 must be ", "gamma: stand-in"):
        assert fact in done.output
    for name, entry in weights.WEIGHTS.items():
        assert f"licence: Licence {name}" in done.output
        assert f"from {entry.url}" in done.output
        assert f"to   {folder / entry.file}" in done.output
    assert "0.0 MB" in done.output
    assert server.asked == []
    assert sorted(path.name for path in folder.iterdir()) == sorted([STAND_INS, *(f"{name}-net.pt" for name in BODIES)])
    shutil.rmtree(folder)
    assert run("--dry-run").output.count(": missing") == 3
    assert not folder.exists()


def test_from_a_folder_by_name_by_the_addresss_name_or_by_content(server, folder, tmp_path):
    source = tmp_path / "usb stick"
    source.mkdir()
    (source / "renamed").write_bytes(BODIES["alpha"])
    (source / "aaa").write_bytes(b"same size"[:5] * 1000)
    (source / "beta-net.pt").write_bytes(BODIES["beta"])
    (source / "gamma.pt").write_bytes(BODIES["gamma"])
    done = run("--from", source)
    assert done.exit_code == 0, done.output
    assert server.asked == []
    assert {n: (folder / f"{n}-net.pt").read_bytes() for n in BODIES} == BODIES
    assert os.path.samefile(folder / "alpha-net.pt", source / "renamed")
    assert len(list(source.iterdir())) == 4  # nothing is written there


def test_from_another_file_system_it_is_copied(server, folder, tmp_path, monkeypatch):
    source = tmp_path / "nas"
    source.mkdir()
    (source / "alpha.pt").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").write_bytes(BODIES["alpha"])

    def refuse(*args: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    assert run("alpha", "--from", source).exit_code == 0
    assert (folder / "alpha-net.pt").read_bytes() == BODIES["alpha"]
    assert not (folder / "alpha-net.pt").is_symlink()


def test_from_a_folder_wrong_bytes_are_refused(server, folder, tmp_path):
    (tmp_path / "alpha-net.pt").write_bytes(BODIES["alpha"][:-1] + b"!")
    (tmp_path / "beta.pt").write_bytes(BODIES["beta"])
    done = run("alpha", "beta", "--from", tmp_path)
    assert done.exit_code == 1
    assert f"alpha: missing (no file in {tmp_path} has the right bytes)" in done.output
    assert sorted(path.name for path in folder.glob("[!.]*")) == ["beta-net.pt", PINNED]
    assert run("--from", tmp_path / "absent").exit_code == 2


def test_without_a_hash_content_alone_decides_nothing(server, folder, tmp_path):
    (tmp_path / "any").write_bytes(BODIES["gamma"])
    done = run("gamma", "--from", tmp_path)
    assert done.exit_code == 1
    assert "no file in" in done.output


def test_a_folder_that_cannot_be_written_is_said_in_words(server, folder, tmp_path):
    folder.write_text("a file in the folder's place")
    done = run("alpha")
    assert done.exit_code == 1
    assert "cannot be written" in done.output
