"""Fetch the submodules that a command needs: the pinned commit alone where the server gives it, with progress."""

import signal
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

from . import git
from .catalog import Host

_PATIENCE_S = 10  # for git to clean up after Ctrl-C
_WHOLE = "2147483647"  # git's way to say: all of the history, also where it was cut before
_STDERR = 2  # stdout may be a file that takes the audit


def fetch(root: Path, hosts: Collection[Host]) -> None:
    """Fetch and check out every host's pinned commit. Where it fails, git's words are on stderr, and the next follows."""
    links = git.gitlinks(root) or {}
    for host in hosts:
        if host.vendor not in links:
            continue  # no submodule of this repository, or no repository: nothing to ask for
        print(f"* {host.name}: fetching {host.url} into {host.vendor}", file=sys.stderr, flush=True)
        _fetch(root, host)


def _fetch(root: Path, host: Host) -> None:
    progress = ["--progress"] if sys.stderr.isatty() else []
    if _run(root, "submodule", "update", "--init", *progress, "--depth", "1", "--", host.vendor):
        return
    # A clone that was killed half-way has no commit at all; and some servers give branches only, not a single commit.
    for what in (["--depth", "1", "origin", host.commit], ["--depth", _WHOLE, "origin"]):
        if git.is_repository(host.folder) and _run(host.folder, "fetch", *progress, *what):
            _run(host.folder, "checkout", "--quiet", "--detach", host.commit)
        if git.open_checkout(host.folder):
            return


def _run(folder: Path, *arguments: str) -> bool:
    """Whether git succeeded. It speaks to the terminal itself; after Ctrl-C it cleans up its own half-fetched files."""
    with subprocess.Popen(["git", "-C", str(folder), *arguments], stdout=_STDERR, env=git.environment()) as child:
        try:
            return child.wait() == 0
        except BaseException:
            child.send_signal(signal.SIGINT)  # it has had one already where it came from the terminal
            child.wait(_PATIENCE_S)
            raise
