"""Copies of this repository's code that tests can change, and commands that run in them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from overlay.catalog import load_hosts
from overlay.git import open_checkout

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("experiments", "overlay", "tools", "mtm_ops", "mtm_hosts", "patches")


class Repository:
    """A copy in `root`. Its commands run there and import only from there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in PACKAGES:
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))

    def add(self, path: str, text: str) -> None:
        """Add a new file."""
        assert not (self.root / path).exists()
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def insert(self, path: str, after: str, line: str) -> None:
        """Insert one line after the line `after`, which must occur exactly once."""
        text = (self.root / path).read_text()
        assert text.count(f"{after}\n") == 1
        (self.root / path).write_text(text.replace(f"{after}\n", f"{after}\n{line}\n"))

    def patch(self, host: str) -> None:
        """Clone the host from this repository's vendor/ and apply every patch. Skips the test if it is not fetched."""
        known = next(h for h in load_hosts(ROOT) if h.name == host)
        if open_checkout(known.folder) is None:
            pytest.skip(f"{known.vendor} is not fetched: git submodule update --init {known.vendor}")
        vendor = self.root / known.vendor
        vendor.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["git", "clone", "-q", "--no-checkout", str(known.folder), str(vendor)], check=True)
        subprocess.run(["git", "-C", str(vendor), "checkout", "-q", known.commit], check=True)
        self.python("tools/apply_patches.py", "apply", "--host", host)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(self.root), "CUDA_VISIBLE_DEVICES": ""}

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start a command in its own session."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        command = [sys.executable, *words]
        return subprocess.Popen(
            command, cwd=self.root, env=self.environment, text=True, start_new_session=True, **pipes
        )

    def python(self, *words: str, ok: bool = True) -> str:
        """Run a command; returns what it printed."""
        done = self.start(*words)
        output, _ = done.communicate(timeout=1800)
        assert not ok or done.returncode == 0, output
        return output
