"""Checkouts of the official codebases to test on: clones in a temporary folder, never vendor/ itself."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from engine_lab import Lab, git

from mtm_hosts.hosts import HOSTS
from overlay.catalog import Host, load_hosts
from overlay.git import open_checkout

ROOT = Path(__file__).resolve().parents[2]


def host_of(name: str) -> Host:
    return next(h for h in load_hosts(ROOT) if h.name == name)


class Checkout:
    """A clone of a host with some concerns applied, and a way to run its probe (<host>_probe.py) in it."""

    def __init__(self, root: Path, host: Host, concerns: tuple[str, ...]):
        self.lab, self.root, self.folder = Lab(root), root, root / "vendor" / host.name
        self.code = self.folder / HOSTS[host.name].code
        self._probe = Path(__file__).with_name(f"{host.name.replace('-', '_')}_probe.py")
        self.folder.parent.mkdir(parents=True)
        git(root, "clone", "-q", "--no-checkout", str(host.folder), str(self.folder))
        git(self.folder, "checkout", "-q", host.commit)
        self.lab.write_upstreams([host.name])
        shutil.copytree(host.patch_folder, root / "patches" / host.name)
        if concerns:
            self.lab.ok("apply", *(a for c in concerns for a in ("--concern", c)))

    def env(self, **more: str) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("MTM_")}
        # One thread: the suite runs as many processes as there are cores.
        return {**clean, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", **more}

    def command(self, name: str, out: Path, arguments: dict) -> list[str]:
        return [str(self._probe), name, str(out), json.dumps(arguments)]

    def run(self, *command: str, check: bool = True, **env: str) -> subprocess.CompletedProcess:
        done = subprocess.run(
            [sys.executable, *command],
            cwd=self.code,
            env=self.env(**env),
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert not check or done.returncode == 0, (done.stdout + done.stderr)[-4000:]
        return done

    def probe(self, name: str, **arguments):
        """What the probe of that name returns, run in a child process in this checkout."""
        out = self.root / f"{name}-{len(list(self.root.glob('*.pt')))}.pt"
        self.run(*self.command(name, out, arguments))
        return torch.load(out, weights_only=False)


def make_checkouts(folder: Path, name: str) -> dict[str, Checkout]:
    """name -> clone of that host: pristine, base (compat and cpu), patched (all concerns)."""
    host = host_of(name)
    if open_checkout(host.folder) is None:
        pytest.skip(f"{host.vendor} is not fetched: git submodule update --init {host.vendor}")
    concerns = {"pristine": (), "base": ("compat", "cpu"), "patched": host.series}
    return {name: Checkout(folder / name, host, chosen) for name, chosen in concerns.items()}


def make_pictures(folder: Path, size: int = 32, count: int = 12) -> Path:
    import numpy as np
    from PIL import Image

    folder.mkdir()
    random = np.random.RandomState(0)
    for i in range(count):
        Image.fromarray(random.randint(0, 256, (size, size, 3), dtype=np.uint8)).save(folder / f"{i:02d}.png")
    return folder


def make_clips(folder: Path, size: int = 128, count: int = 6, frames: int = 40) -> Path:
    """Clips for the video hosts: a folder of frames each."""
    import numpy as np
    from PIL import Image

    random = np.random.RandomState(0)
    y, x = np.mgrid[:size, :size] / size
    for clip in range(count):
        place = folder / f"clip{clip:02d}"
        place.mkdir(parents=True)
        across, down, *hues = random.rand(5) * 6
        for t in range(frames):
            waves = [np.sin(across * x + down * y + t / 5 + hue) for hue in hues]
            Image.fromarray((np.stack(waves, -1) * 100 + 128).astype(np.uint8)).save(place / f"{t:04d}.jpg")
    return folder


def assert_same(a, b):
    assert a.keys() == b.keys()
    assert [n for n in a if not torch.equal(a[n], b[n])] == []
