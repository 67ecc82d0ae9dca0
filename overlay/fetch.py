"""Fetch the submodules that a command needs: only the pinned commit if the server allows it, with progress."""

import signal
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

from . import git
from .catalog import Host
from .errors import COMMAND

_PATIENCE_S = 10  # time for git to clean up after Ctrl-C
_WHOLE = "2147483647"  # in git: the complete history, even if it was shallow before
_STDERR = 2  # stdout may be a file that receives the audit


def fetch(hosts: Collection[Host]) -> None:
    """Fetch and check out every host's pinned commit. If one fails, git says why on stderr, and the next follows."""
    for host in hosts:
        if host.vendor not in (git.gitlinks(host.root) or {}):
            continue  # not a submodule of this repository, or not a repository: nothing to fetch
        print(f"* {host.name}: fetching {host.url} into {host.vendor}", file=sys.stderr, flush=True)
        _set_aside_unfinished(host)
        _fetch(host)


def _fetch(host: Host) -> None:
    progress = ["--progress"] if sys.stderr.isatty() else []
    _run(host.root, "submodule", "update", "--init", *progress, "--depth", "1", "--", host.vendor)
    # An interrupted fetch may lack the checkout. Some servers serve only branches, not a single commit.
    for fetched in ([], ["--depth", "1", "origin", host.commit], ["--depth", _WHOLE, "origin"]):
        if git.open_checkout(host.folder) or not git.is_repository(host.folder):
            return
        if not fetched or _run(host.folder, "fetch", *progress, *fetched):
            _run(host.folder, "checkout", "--quiet", "--detach", host.commit)


def _set_aside_unfinished(host: Host) -> None:
    """Moves away a killed clone's repository without a commit, which git neither uses nor replaces."""
    link = host.folder / ".git"
    if not link.is_file() or [p.name for p in host.folder.iterdir()] != [".git"]:
        return
    store = host.folder / link.read_text().removeprefix("gitdir:").strip()
    had = [store / "index", store / "logs", store / "packed-refs", *(p for p in store.glob("refs/**/*") if p.is_file())]
    if any(path.exists() for path in had):
        return
    if store.is_dir():
        number = 1 + len(list(store.parent.glob(f"{store.name}.unfinished-*")))
        store.rename(store.with_name(f"{store.name}.unfinished-{number}"))
    link.unlink()


def _run(folder: Path, *arguments: str) -> bool:
    """Whether git succeeded. It prints to the terminal itself, and cleans up partial downloads after Ctrl-C."""
    with subprocess.Popen(["git", "-C", str(folder), *arguments], stdout=_STDERR, env=git.environment()) as child:
        try:
            return child.wait() == 0
        except BaseException:
            child.send_signal(signal.SIGINT)  # git already got one if Ctrl-C came from the terminal
            child.wait(_PATIENCE_S)
            raise


def fetch_message(hosts: list[Host], verb: str) -> str:
    """How to fetch submodules, in one message for all of them."""
    folders = " ".join(h.vendor for h in hosts)
    got = "; ".join(f"{h.vendor} is {_what_is_there(h.folder)}" for h in hosts)
    mirrors = "\n".join(f"    git config --global url.<mirror of it>.insteadOf {h.url}" for h in hosts)
    return (
        f"{verb}: {folders} must be fetched, at the commit in patches/upstreams.toml; {got}. {_how_to_fetch(hosts)}\n"
        "  Where that address cannot be reached, name a mirror (an address or a folder) first, then fetch:\n"
        f"{mirrors}\n"
        "    git config --global protocol.file.allow always    (only where the mirror is a folder)\n"
        f"  Or leave it out: {COMMAND} {verb} --host <another host>"
    )


def _how_to_fetch(hosts: list[Host]) -> str:
    recorded = git.gitlinks(hosts[0].root) or {}
    if all(host.vendor in recorded for host in hosts):
        return f"Fetch with:\n    git submodule update --init {' '.join(host.vendor for host in hosts)}"
    clones = [f"    git clone {h.url} {h.vendor} && git -C {h.vendor} checkout -q {h.commit}" for h in hosts]
    return "\n".join(["This is no git clone (a zip has no submodules). Clone the repository, or fetch with:", *clones])


def _what_is_there(folder: Path) -> str:
    if not folder.exists():
        return "missing"
    if not any(folder.iterdir()):
        return "an empty folder"
    return "a folder without a finished checkout (move it away if it holds your own files)"
