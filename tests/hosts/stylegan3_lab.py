"""Checkouts of the official stylegan3 to test on: clones in a temporary folder, never vendor/ itself."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from engine_lab import Lab, git

from overlay.catalog import load_hosts
from overlay.git import open_checkout

ROOT = Path(__file__).resolve().parents[2]
PROBE = Path(__file__).with_name("stylegan3_probe.py")
HOST = next(h for h in load_hosts(ROOT) if h.name == "stylegan3")
CONCERNS = {"pristine": (), "base": ("compat", "cpu"), "patched": HOST.series}


class Checkout:
    """A clone with some concerns applied, and a way to run a probe in it."""

    def __init__(self, root: Path, concerns: tuple[str, ...]):
        self.lab, self.root, self.folder = Lab(root), root, root / "vendor" / "stylegan3"
        self.folder.parent.mkdir(parents=True)
        git(root, "clone", "-q", "--no-checkout", str(HOST.folder), str(self.folder))
        git(self.folder, "checkout", "-q", HOST.commit)
        self.lab.write_upstreams(["stylegan3"])
        shutil.copytree(HOST.patch_folder, root / "patches" / "stylegan3")
        if concerns:
            self.lab.ok("apply", *(a for c in concerns for a in ("--concern", c)))

    def env(self, **more: str) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("MTM_")}
        # One thread: the suite runs as many processes as there are cores.
        return {**clean, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", **more}

    def command(self, name: str, out: Path, arguments: dict) -> list[str]:
        return [str(PROBE), name, str(out), json.dumps(arguments)]

    def run(self, *command: str, check: bool = True, **env: str) -> subprocess.CompletedProcess:
        done = subprocess.run(
            [sys.executable, *command],
            cwd=self.folder,
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


def make_checkouts(folder: Path) -> dict[str, Checkout]:
    if open_checkout(HOST.folder) is None:
        pytest.skip(f"{HOST.vendor} is not fetched: git submodule update --init {HOST.vendor}")
    return {name: Checkout(folder / name, concerns) for name, concerns in CONCERNS.items()}


def make_pictures(folder: Path, size: int = 32, count: int = 12) -> Path:
    import numpy as np
    from PIL import Image

    folder.mkdir()
    random = np.random.RandomState(0)
    for i in range(count):
        Image.fromarray(random.randint(0, 256, (size, size, 3), dtype=np.uint8)).save(folder / f"{i:02d}.png")
    return folder


def assert_same(a, b):
    assert a.keys() == b.keys()
    assert [n for n in a if not torch.equal(a[n], b[n])] == []


def arguments(cfg, pictures, outdir, *more):
    """train.py's, for a network that is far too small to learn anything."""
    words = f"--cfg {cfg} --gpus 1 --batch 4 --gamma 1 --cbase 256 --cmax 8 --map-depth 2 --aug noaug --metrics none"
    words += " --kimg 1 --tick 1 --snap 1 --workers 1 --seed 5"
    return ["--outdir", str(outdir), "--data", str(pictures), *words.split(), *more]
