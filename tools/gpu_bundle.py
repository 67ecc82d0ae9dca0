"""make gpu-bundle: one folder that tools/gpu_session.py uses on a GPU machine without a network.

Some machines with a GPU are lent for minutes, with little installed: a Python with torch for its GPU, nvcc, no
registry, perhaps no git. The folder has what they lack: wheels of the packages that this repository imports (the
installed versions, with their dependencies), the patched vendor/stylegan3 as files, rendered images, and a note of this
checkout's commit.
"""

import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Collection, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import click

from experiments.data import Data
from experiments.files import UserError
from experiments.provenance import git_state
from experiments.table import load_table
from overlay.errors import OverlayError
from overlay.sealed import seal
from tools.gpu_session import BUNDLE, DATA, HOST, NOTE, WHEELS, source_sha256

ROOT = Path(__file__).resolve().parents[1]
# The packages that the session's steps import: tests, benchmarks, runner, trainer.
PACKAGES = "click hypothesis jinja2 matplotlib ninja pillow psutil pydantic pytest requests setuptools tqdm".split()
# Packages that the machine must have: torch's own, and two that are large.
GIVEN = ("torch", "numpy", "scipy")
TABLE, DATASET = "gpu", "openmoji"
CODE = (".py", ".cpp", ".cu", ".h", ".txt", ".yml")
# The newest first; pip takes wheels for exactly these platforms.
PLATFORMS = [f"manylinux_2_{n}_x86_64" for n in (28, 27, 26, 17, 12, 5)] + ["manylinux2014_x86_64", "linux_x86_64"]
MOST_BYTES = 60 << 20


def closure(names: Collection[str], without: Collection[str], python: str) -> dict[str, str]:
    """Installed packages and their dependencies, as name -> version; `python`: version for the markers, such as 3.12.

    Raises UserError for a package that is not installed.
    """
    from packaging.requirements import Requirement

    marks = {"python_version": python, "python_full_version": f"{python}.0", "extra": ""}
    found: dict[str, str] = {}
    waiting = list(names)
    while waiting:
        name = _plain(waiting.pop())
        if name in found or name in without:
            continue
        try:
            package = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            raise UserError(f"gpu-bundle: {name} must be installed; it is not. Run: make setup") from None
        found[name] = package.version
        needs = [Requirement(line) for line in package.requires or []]
        waiting += [need.name for need in needs if need.marker is None or need.marker.evaluate(marks)]
    return found


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def fetch_wheels(packages: dict[str, str], python: str, folder: Path) -> None:
    """Downloads the wheels. Raises UserError if one is not available."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", f"--python-version={python}", "--implementation=cp", f"--dest={folder}"]
    command += [f"--platform={platform}" for platform in PLATFORMS]
    command += [f"{name}=={version}" for name, version in sorted(packages.items())]
    if subprocess.run(command).returncode:
        raise UserError("gpu-bundle: pip must find every wheel; it did not, see above. Is there a network?")


def pack(target: Path, folder: Path) -> None:
    """Writes a folder's files to a .tar.gz, without the owner's name."""

    def nameless(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        return entry

    with tarfile.open(target, "w:gz", compresslevel=9) as tar:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                tar.add(file, file.relative_to(folder).as_posix(), filter=nameless)


def pack_host(folder: Path) -> dict[str, Any]:
    """Packs the patched stylegan3; returns its provenance."""
    with tempfile.TemporaryDirectory() as scratch:
        try:
            found = seal(ROOT, "stylegan3", Path(scratch), CODE)
        except OverlayError as error:
            raise UserError(str(error)) from error
        if "mtm" not in found["concerns"]:
            raise UserError("gpu-bundle: vendor/stylegan3 must be patched; it is not. Run: make patch HOST=stylegan3")
        pack(folder / HOST, Path(scratch))
    return dict(found)


def pack_data(folder: Path, cache: Path) -> str:
    """Packs the images that the table trains on, made if necessary; returns the zip's name."""
    data = Data(load_table(TABLE), {}, cache)
    path, _ = data.prepare(DATASET)
    with tempfile.TemporaryDirectory() as scratch:
        shutil.copy(path, scratch)
        pack(folder / DATA, Path(scratch))
    return path.name


def sizes(folder: Path) -> Iterator[str]:
    """One line per part, and one for the total."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    for part in (WHEELS, HOST, DATA):
        inside = [file for file in files if file.relative_to(folder).parts[0] == part]
        yield f"{part:20}{sum(file.stat().st_size for file in inside) / 2**20:7.1f} MiB, {len(inside)} files"
    yield f"{'together':20}{sum(file.stat().st_size for file in files) / 2**20:7.1f} MiB"


def build(folder: Path, python: str, cache: Path) -> dict[str, Any]:
    """Rebuilds the bundle in `folder`; returns its note. Raises UserError."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / WHEELS).mkdir(parents=True)
    packages = closure(PACKAGES, GIVEN, python)
    fetch_wheels(packages, python, folder / WHEELS)
    host = pack_host(folder)
    data = pack_data(folder, cache)
    note = {"source": git_state() | {"sha256": source_sha256(ROOT)}, "python": python, "packages": packages}
    note |= {"host": host, "data": data}
    (folder / NOTE).write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")
    return note


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=ROOT / BUNDLE, help="Folder.  [default: .gpu]")
@click.option("--python-version", "python", default="3.12", show_default=True, help="Version of the machine's Python.")
@click.option("--cache", type=click.Path(path_type=Path), default=ROOT / "data", help="Data cache.  [default: data]")
def main(folder: Path, python: str, cache: Path) -> None:
    """Pack wheels, the patched stylegan3 and rendered images into one folder, for linux x86_64."""
    try:
        note = build(folder, python, cache)
    except UserError as error:
        raise click.ClickException(str(error)) from None
    click.echo("\n".join(sizes(folder)))
    commit = note["source"]["commit"] or "no commit"
    click.echo(f"of {commit}{', with edits' if note['source']['dirty'] else ''}, for Python {python}")
    if sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) > MOST_BYTES:
        raise SystemExit(f"gpu-bundle: the folder must stay under {MOST_BYTES >> 20} MiB, and does not.")


if __name__ == "__main__":
    main()
