"""The few queries to git, with a guard: in an empty submodule folder, git answers for the parent repository."""

import os
import subprocess
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from .errors import OverlayError
from .inserter import blob_hash

# Set inside git hooks. With them, `git -C folder` would still use the hook's repository.
_HOOK_VARIABLES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR")

_PLAIN_DIFF = ("core.autocrlf=false", "core.quotePath=false", "diff.suppressBlankEmpty=false")
_DIFF_OPTIONS = ("--no-index", "--no-ext-diff", "--no-textconv", "--no-renames", "--text", "--no-prefix")


@dataclass(frozen=True)
class Checkout:
    folder: Path
    git_dir: Path
    head: str


def environment() -> dict[str, str]:
    """The environment for git: no hook variables, English messages, and no lock that could block the user."""
    env = {k: v for k, v in os.environ.items() if k not in _HOOK_VARIABLES}
    return env | {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"}


def _git(folder: Path, *arguments: str, data: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    try:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, input=data, capture_output=True, env=environment())
    except FileNotFoundError:
        raise OverlayError(
            "Failed to run git: it is not on PATH. Install git, then run the same command again."
        ) from None


def _output(folder: Path, *arguments: str, data: bytes | None = None, good: Collection[int] = (0,)) -> bytes:
    done = _git(folder, *arguments, data=data)
    if done.returncode not in good:
        said = done.stderr.decode(errors="replace").strip()
        raise OverlayError(f"git {arguments[0]} failed in {folder.name} (exit {done.returncode}). git says: {said}")
    return done.stdout


def open_checkout(folder: Path) -> Checkout | None:
    """The checkout in `folder`; None if it has none of its own (missing, empty, half cloned, not checked out)."""
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
    if not os.path.samefile(top, folder) or not Path(git_dir, "index").exists():
        return None  # git answered for the parent, or a fetch was interrupted before its checkout
    return Checkout(folder, Path(git_dir), head)


def is_repository(folder: Path) -> bool:
    """Whether `folder` is a repository of its own, with or without a commit."""
    done = _git(folder, "rev-parse", "--show-toplevel") if folder.is_dir() else None
    return done is not None and not done.returncode and os.path.samefile(done.stdout.decode().strip(), folder)


def tree_blobs(checkout: Checkout, revision: str) -> dict[str, tuple[str, str]] | None:
    """path -> (mode, blob hash) of every file of a commit; None if the commit is not in the repository."""
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


def read_blobs(checkout: Checkout, hashes: Collection[str], missing_ok: bool = False) -> dict[str, bytes]:
    """hash -> bytes, each checked against its hash; with `missing_ok`, missing ones are left out."""
    request = "".join(f"{h}\n" for h in hashes).encode()
    out = _output(checkout.folder, "cat-file", "--batch", data=request)
    blobs = {}
    for name in hashes:
        heading, _, out = out.partition(b"\n")
        size = heading.split()[-1]
        if missing_ok and size == b"missing":
            continue
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


def untracked_paths(checkout: Checkout) -> list[str]:
    """Files that are neither tracked nor ignored."""
    entries = _output(checkout.folder, "ls-files", "--others", "--exclude-standard", "-z").split(b"\0")[:-1]
    return [e.decode(errors="surrogateescape") for e in entries]


def diff_files(pairs: Mapping[str, tuple[bytes, bytes]], *options: str) -> str:
    """git's unified diff of path -> (old, new), whatever the user's diff configuration."""
    settings = [word for setting in _PLAIN_DIFF for word in ("-c", setting)]
    with tempfile.TemporaryDirectory(prefix="mtm-diff-") as name:
        folder = Path(name)
        for path, versions in pairs.items():
            for side, data in zip("ab", versions, strict=True):
                (folder / side / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / side / path).write_bytes(data)
        arguments = ("diff", *_DIFF_OPTIONS, *options, "--", "a", "b")
        out = _output(folder, *settings, *arguments, good=(0, 1)) if pairs else b""
    return out.decode(errors="surrogateescape")


def gitlinks(root: Path) -> dict[str, str] | None:
    """folder -> commit of each submodule of the repository at `root`; None if that is not a repository."""
    done = _git(root, "ls-files", "-s", "-z")
    if done.returncode or not is_repository(root):
        return None
    links = {}
    for entry in done.stdout.split(b"\0")[:-1]:
        facts, path = entry.decode(errors="surrogateescape").split("\t", 1)
        mode, commit, _stage = facts.split()
        if mode == "160000":
            links[path] = commit
    return links
