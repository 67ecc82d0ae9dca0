"""experiments.provenance: what it records about checkouts, hosts and the machine, without naming any path on it."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import provenance
from experiments.files import UserError
from experiments.trainers.contract import ROOT, Step
from overlay.catalog import load_hosts
from overlay.git import open_checkout


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", "-C", str(folder), *words], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of this repository's patches, with an unpatched clone of stylegan3 under vendor/."""
    host = next(h for h in load_hosts(ROOT) if h.name == "stylegan3")
    if open_checkout(host.folder) is None:
        pytest.skip(f"{host.vendor} is not fetched: git submodule update --init {host.vendor}")
    shutil.copytree(ROOT / "patches", tmp_path / "patches")
    shutil.copytree(ROOT / "overlay", tmp_path / "overlay")
    (tmp_path / "vendor").mkdir()
    git(tmp_path, "clone", "-q", "--no-checkout", str(host.folder), str(tmp_path / host.vendor))
    git(tmp_path / host.vendor, "checkout", "-q", host.commit)
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    return tmp_path


def overlay(repository: Path, *words: str) -> None:
    command = [sys.executable, str(ROOT / "tools/apply_patches.py"), "--root", str(repository), *words]
    subprocess.run(command, check=True, capture_output=True)


def test_versions_machine_and_commit_are_there():
    values = json.loads(json.dumps(provenance.provenance(None)))
    assert {"python", "torch", "numpy", "pillow", "mtm-ops", "cuda"} <= set(values["versions"])
    assert values["versions"]["torch"] != "absent"
    assert values["machine"]["cores"] >= 1
    assert values["machine"]["cpu"]
    assert isinstance(values["machine"]["gpus"], list)
    commit = values["git"]["commit"]
    assert commit is None or re.fullmatch("[0-9a-f]{40}", commit)
    assert values["host"] is None


def test_the_cuda_version_is_torchs():
    import torch

    assert provenance.versions()["cuda"] == (torch.version.cuda or "none")


def test_cards_and_driver_are_what_nvidia_smi_says(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    card = "echo 'NVIDIA H100, 570.1'"
    tool.write_text(f"#!/bin/sh\ncase $1 in *name*) {card}; {card};; *) echo 0; echo 1;; esac\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    for cached in (provenance._nvidia_smi, provenance.machine):
        cached.cache_clear()
    try:
        facts = provenance.machine()
        assert (facts["gpus"], facts["driver"]) == (["NVIDIA H100", "NVIDIA H100"], "570.1")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        assert provenance.visible_gpus() == ["0", "1"]
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
        assert provenance.visible_gpus() == ["1"]
    finally:
        for cached in (provenance._nvidia_smi, provenance.machine):
            cached.cache_clear()


def test_a_copy_inside_another_repository_does_not_take_its_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "ROOT", tmp_path / "copy")
    (tmp_path / "copy").mkdir()
    git(tmp_path, "init", "-q")
    assert provenance.git_state() == {"commit": None, "dirty": None}


def test_a_hosts_commit_patches_and_edits_are_told_apart(repository):
    pristine = provenance.host_state("stylegan3")
    assert re.fullmatch("[0-9a-f]{40}", pristine["commit"])
    assert (pristine["patches"], pristine["modified"]) == ({}, None)
    overlay(repository, "apply", "--host", "stylegan3", "--concern", "compat", "--concern", "cpu")
    patched = provenance.host_state("stylegan3")
    assert list(patched["patches"]) == ["compat", "cpu"]
    assert patched["modified"] is None
    edits = []
    for name in ("training/loss.py", "train.py"):  # one that no patch touches and one that some do
        with (repository / "vendor/stylegan3" / name).open("a") as file:
            file.write("\nprint('here')\n")
        edits.append(provenance.host_state("stylegan3")["modified"])
    assert None not in edits
    assert edits[0] != edits[1]


def test_a_host_that_is_not_fetched_or_unknown_is_said(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "patches", tmp_path / "patches")
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    assert provenance.host_state("stylegan3")["commit"] is None
    with pytest.raises(UserError, match="name must be one of"):
        provenance.host_state("stylegan4")


def test_commands_name_no_place_on_this_machine_and_are_quoted(tmp_path):
    out = tmp_path / "out"
    argv = ["python", "-m", "x", f"--outdir={out / 'runs/a'}", "--kimg=3", "--data=/home/me/my $cats.zip"]
    step = Step(name="train", argv=[*argv, str(ROOT / "experiments/run.py"), "--mtm=low"])
    expected = "python -m x --outdir=OUT/runs/a --kimg=3 '--data=.../my $cats.zip' experiments/run.py --mtm=low"
    assert provenance.portable_command(step, out) == expected
    host = Step(name="train", argv=["python", "train.py", f"--data={ROOT / 'data/x.zip'}"], cwd="vendor/stylegan3")
    assert provenance.portable_command(host, out) == "(cd vendor/stylegan3 && python train.py --data=../../data/x.zip)"


def test_what_trainers_note_names_no_place_on_this_machine(tmp_path):
    noted = {
        "run_dir": str(tmp_path / "rows/a"),
        "deep": [{"path": "/home/me/cats.zip"}],
        "kimg": 3,
        "text": "",
        "on": True,
    }
    expected = {"run_dir": "OUT/rows/a", "deep": [{"path": ".../cats.zip"}], "kimg": 3, "text": "", "on": True}
    assert provenance.portable_values(noted, tmp_path) == expected
