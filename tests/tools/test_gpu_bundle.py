"""The bundle for a GPU machine without a network, and the tools of its steps, on the CPU."""

import json
import shutil
import subprocess
import sys
import tarfile
from importlib import metadata
from pathlib import Path

import forked
import pytest
from click.testing import CliRunner

from experiments.files import UserError
from overlay.catalog import load_hosts
from overlay.git import open_checkout
from overlay.sealed import read_seal
from tools import gpu_bundle, gpu_probe, gpu_profile, hosts
from tools.gpu_bundle import GIVEN, PACKAGES, closure, pack

ROOT = Path(__file__).resolve().parents[2]


def test_packages_come_with_what_they_need_in_the_versions_that_are_here():
    found = closure(["pydantic", "Jinja2"], (), "3.12")
    assert {"pydantic", "pydantic-core", "annotated-types", "typing-extensions", "jinja2", "markupsafe"} <= set(found)
    assert found["pydantic-core"] == metadata.version("pydantic-core")


def test_what_the_machine_has_is_not_packed():
    found = closure(PACKAGES, GIVEN, "3.12")
    assert not set(found) & set(GIVEN)
    assert not [name for name in found if name.startswith("nvidia")]


def test_a_package_that_is_not_here_is_named():
    with pytest.raises(UserError, match="mtm-no-such-package must be installed"):
        closure(["mtm_no_such_package"], (), "3.12")


def test_an_archive_has_no_owner(tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "deep" / "a.txt").write_text("abc")
    pack(tmp_path / "a.tar.gz", tmp_path / "in")
    with tarfile.open(tmp_path / "a.tar.gz") as tar:
        (entry,) = tar.getmembers()
    assert (entry.name, entry.uid, entry.uname, entry.gname) == ("deep/a.txt", 0, "", "")


HOST = next(h for h in load_hosts(ROOT) if h.name == "stylegan3")
needs_host = pytest.mark.skipif(open_checkout(HOST.folder) is None, reason="vendor/stylegan3 is not fetched")


@needs_host
def test_the_host_is_packed_patched_or_not_at_all(tmp_path, monkeypatch):
    """In a copy of this repository: packing the pristine host is refused, packing the patched host works."""
    for name in ("patches", "overlay", "tools"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "vendor").mkdir()
    vendor = tmp_path / HOST.vendor
    subprocess.run(["git", "clone", "-q", "--no-checkout", str(HOST.folder), str(vendor)], check=True)
    subprocess.run(["git", "-C", str(vendor), "checkout", "-q", HOST.commit], check=True)
    monkeypatch.setattr(gpu_bundle, "ROOT", tmp_path)
    with pytest.raises(UserError, match="must be patched"):
        gpu_bundle.pack_host(tmp_path)
    command = [sys.executable, str(ROOT / "tools/apply_patches.py"), "--root", str(tmp_path), "apply"]
    subprocess.run([*command, "--host", "stylegan3"], check=True, capture_output=True)
    found = gpu_bundle.pack_host(tmp_path)
    with tarfile.open(tmp_path / gpu_bundle.HOST) as tar:
        tar.extractall(tmp_path / "there", filter="data")
    assert read_seal(tmp_path / "there") == found
    assert found["commit"] == HOST.commit
    assert "mtm" in (tmp_path / "there" / "train.py").read_text()
    monkeypatch.setattr(hosts, "_ROOT", tmp_path)
    hosts.write_patched("stylegan3", tmp_path / "from-git")
    shutil.rmtree(vendor)
    (tmp_path / "there").rename(vendor)
    hosts.write_patched("stylegan3", tmp_path / "from-seal")
    for path in ("training/networks_stylegan2.py", "training/loss.py", "torch_utils/misc.py"):
        assert (tmp_path / "from-seal" / path).read_bytes() == (tmp_path / "from-git" / path).read_bytes(), path


def test_the_probe_finds_all_that_steps_import(tmp_path):
    done = CliRunner().invoke(gpu_probe.main, ["--json", str(tmp_path / "probe.json")])
    assert done.exit_code == 0, done.output
    facts = json.loads((tmp_path / "probe.json").read_text())
    assert facts["missing"] == {}
    assert facts["versions"]["torch"] == metadata.version("torch")


def test_the_probe_names_what_cannot_be_imported(monkeypatch):
    monkeypatch.setattr(gpu_probe, "IMPORTS", ("json", "mtm_no_such_module"))
    assert gpu_probe.missing() == {"mtm_no_such_module": "ModuleNotFoundError: No module named 'mtm_no_such_module'"}
    assert CliRunner().invoke(gpu_probe.main).exit_code == 1


def test_the_profile_runs_on_the_cpu(tmp_path):
    words = ["--device", "cpu", "--layer", "2", "4", "5", "--json", str(tmp_path / "profile.json")]
    done = CliRunner().invoke(gpu_profile.main, words)
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "profile.json").read_text())
    assert [key.split("] ")[1] for key in found] == [f"{k} {p}" for k in gpu_profile.KINDS for p in gpu_profile.PASSES]
    assert all(kernel["us"] > 0 for kernels in found.values() for kernel in kernels)


def test_counters_are_not_run_where_there_is_no_ncu(monkeypatch):
    monkeypatch.setattr(gpu_profile, "find_ncu", lambda: None)
    done = CliRunner().invoke(gpu_profile.main, ["--device", "cpu", "--counters"])
    assert (done.exit_code, done.output) == (77, "ncu is not installed\n")


@pytest.mark.slow
@needs_host
def test_the_plugins_are_held_to_their_references(tmp_path):
    """On a CPU both sides are the reference, so this tests the code around the plugins, not the plugins."""
    dest = tmp_path / "plugins.json"
    done = forked.run("-m", "tools.gpu_plugins", "--device", "cpu", "--json", str(dest), cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert {name: p["error"] for name, p in json.loads(dest.read_text()).items()} == {
        "bias_act": 0, "upfirdn2d": 0, "filtered_lrelu": 0
    }  # fmt: skip
