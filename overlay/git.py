"""The few questions put to git, and the answer to one trap: in an empty submodule folder, git speaks of the parent."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .errors import OverlayError
from .inserter import blob_hash

# Set inside git hooks; with them, `git -C folder` would still speak of the hook's repository.
_HOOK_VARIABLES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR")


@dataclass(frozen=True)
class Checkout:
    folder: Path
    git_dir: Path
    head: str


def _git(folder: Path, *arguments: str, data: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    env = {k: v for k, v in os.environ.items() if k not in _HOOK_VARIABLES}
    env |= {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"}  # reading must not race a user's own git commands
    try:
        return subprocess.run(["git", "-C", str(folder), *arguments], input=data, capture_output=True, env=env)
    except FileNotFoundError:
        raise OverlayError(
            "git: the command must be on PATH; got none. Install git, then run the same again."
        ) from None


def _output(folder: Path, *arguments: str, data: bytes | None = None) -> bytes:
    done = _git(folder, *arguments, data=data)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise OverlayError(
            f"git: {arguments[0]} must succeed in {folder.name}; got exit {done.returncode}. git says: {said}"
        )
    return done.stdout


def open_checkout(folder: Path) -> Checkout | None:
    """The checkout in `folder`; None where it is not one of its own (missing, empty, or half cloned)."""
    if not folder.is_dir():
        return None
    done = _git(folder, "rev-parse", "--show-toplevel", "--absolute-git-dir", "HEAD")
    if b"dubious ownership" in done.stderr:
        raise OverlayError(
            f"git: {folder.name} must be trusted. git says: {done.stderr.decode(errors='replace').strip()}"
        )
    if done.returncode:
        return None
    top, git_dir, head = done.stdout.decode().splitlines()[:3]
    return Checkout(folder, Path(git_dir), head) if os.path.samefile(top, folder) else None


def tree_blobs(checkout: Checkout, revision: str) -> dict[str, tuple[str, str]] | None:
    """path -> (mode, blob hash) of every file of a commit; None where the commit is not here."""
    done = _git(checkout.folder, "ls-tree", "-r", "-z", revision)
    if done.returncode:
        return None
    blobs = {}
    for entry in done.stdout.split(b"\0")[:-1]:
        facts, path = entry.split(b"\t", 1)
        mode, kind, blob = facts.decode().split()
        if kind == "blob":
            blobs[path.decode(errors="surrogateescape")] = (mode, blob)
    return blobs


def read_blobs(checkout: Checkout, hashes: list[str]) -> dict[str, bytes]:
    """hash -> bytes, each checked against its hash."""
    request = "".join(f"{h}\n" for h in hashes).encode()
    out = _output(checkout.folder, "cat-file", "--batch", data=request)
    blobs = {}
    for name in hashes:
        heading, _, out = out.partition(b"\n")
        size = heading.split()[-1]
        data, out = (out[: int(size)], out[int(size) + 1 :]) if size.isdigit() else (b"", out)
        if blob_hash(data) != name:
            raise OverlayError(f"git: blob {name} must be readable in {checkout.folder.name}; got {heading.decode()}.")
        blobs[name] = data
    return blobs


def changed_paths(checkout: Checkout) -> dict[str, str]:
    """path -> git's two status letters, for tracked files that differ from HEAD."""
    arguments = ("status", "--porcelain", "-z", "--untracked-files=no", "--ignore-submodules=all", "--no-renames")
    entries = _output(checkout.folder, *arguments).split(b"\0")[:-1]
    return {e[3:].decode(errors="surrogateescape"): e[:2].decode() for e in entries}


def gitlinks(root: Path) -> dict[str, str] | None:
    """folder -> commit that the repository at `root` records for its submodules; None where it is no repository."""
    done = _git(root, "ls-files", "-s", "-z")
    top = _git(root, "rev-parse", "--show-toplevel")
    if done.returncode or top.returncode or not os.path.samefile(top.stdout.decode().strip(), root):
        return None
    links = {}
    for entry in done.stdout.split(b"\0")[:-1]:
        facts, path = entry.decode(errors="surrogateescape").split("\t", 1)
        mode, commit, _stage = facts.split()
        if mode == "160000":
            links[path] = commit
    return links
