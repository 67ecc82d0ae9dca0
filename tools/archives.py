"""A file from a package of npm or PyPI, fetched by that registry's own client: nothing is installed or executed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from experiments.files import UserError, disk_errors

TIMEOUT_S = 600


def extract(archive: str, member: str, dest: Path, accepts: Callable[[str], bool]) -> None:
    """Writes `member` of the package `archive` ("npm:NAME@VERSION", "pip:NAME==VERSION") to `dest`, atomically.

    Raises UserError, naming the package, if its client is missing or fails, if the package lacks the member, or if
    `accepts(sha256)` rejects the member.
    """
    from experiments.files import sha256_of

    kind, _, package = archive.partition(":")
    with disk_errors(dest):
        dest.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetching-", dir=dest.parent) as name:
            folder = Path(name)
            fetched = CLIENTS[kind](package, folder)
            whole = folder / "member"
            try:
                _write_member(fetched, member, whole)
            except (KeyError, OSError, tarfile.TarError, zipfile.BadZipFile) as error:
                raise UserError(f"{archive}: {fetched.name} must hold {member}; {error}") from error
            if not accepts(sha256 := sha256_of(whole)):
                raise UserError(f"{archive}: {member} must have another sha256; got {sha256}")
            whole.replace(dest)


def _write_member(package: Path, member: str, dest: Path) -> None:
    if zipfile.is_zipfile(package):
        with zipfile.ZipFile(package) as archive, archive.open(member) as source, dest.open("wb") as out:
            shutil.copyfileobj(source, out)
        return
    with tarfile.open(package) as opened:
        found = opened.extractfile(member)
        if found is None:
            raise KeyError(f"{member} is not a file")
        with found, dest.open("wb") as out:
            shutil.copyfileobj(found, out)


def _with_pip(package: str, folder: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--quiet", "--no-deps"]
    return _run([*pip, "--retries=1", "--timeout=20", "--only-binary=:all:", f"--dest={folder}", package], folder)


def _with_npm(package: str, folder: Path) -> Path:
    if shutil.which("npm") is None:
        raise UserError(f"npm:{package}: npm is not installed")
    return _run(["npm", "pack", "--silent", "--ignore-scripts", package], folder)


CLIENTS: dict[str, Callable[[str, Path], Path]] = {"npm": _with_npm, "pip": _with_pip}


def _run(command: list[str], folder: Path) -> Path:
    """The one file that the command writes to the folder."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"{command[-1]}: {error}") from error
    left = [path for path in folder.iterdir() if path.is_file()]
    if done.returncode or len(left) != 1:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise UserError(f"{command[-1]}: {'; '.join(lines[-2:]) or f'exit code {done.returncode}'}")
    return left[0]
