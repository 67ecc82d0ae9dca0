"""Checkouts of the official codebases to test on: clones in a temporary folder. vendor/ is never written to."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import forked
import pytest
import torch
from engine_lab import Lab, git

from mtm_hosts.hosts import HOSTS
from overlay.catalog import Host, load_hosts
from overlay.git import open_checkout

PKL, STATE = "network-snapshot-000000.pkl", "training-state-000000.pt"  # written by a training shorter than 1 kimg
ROOT = Path(__file__).resolve().parents[2]


def host_of(name: str) -> Host:
    return next(h for h in load_hosts(ROOT) if h.name == name)


class Checkout:
    """A clone of a host with some concerns applied. It can run the host's probe (<host>_probe.py)."""

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
        # One thread, because the suite runs as many processes as there are cores.
        return {
            **clean,
            "PYTHONPATH": str(ROOT),
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
            "THP_MEM_ALLOC_ENABLE": "1",  # set by the concern cpu, which a pristine checkout lacks
            **more,
        }

    def command(self, name: str, out: Path, arguments: dict) -> list[str]:
        return [str(self._probe), name, str(out), json.dumps(arguments)]

    def run(self, *command: str, check: bool = True, **env: str) -> subprocess.CompletedProcess:
        done = forked.run(*command, cwd=self.code, env=self.env(**env))
        assert not check or done.returncode == 0, (done.stdout + done.stderr)[-4000:]
        return done

    def probe(self, name: str, **arguments):
        """The result of the named probe, which runs in its own process in this checkout."""
        out = self.root / f"{name}-{len(list(self.root.glob('*.pt')))}.pt"
        self.run(*self.command(name, out, arguments))
        return torch.load(out, weights_only=False)


def make_checkouts(folder: Path, name: str) -> dict[str, Checkout]:
    """name -> clone of the host. Names: pristine, base (concerns compat and cpu), patched (all concerns)."""
    host = host_of(name)
    if open_checkout(host.folder) is None:
        pytest.skip(f"{host.vendor} is not fetched: git submodule update --init {host.vendor}")
    concerns = {"pristine": (), "base": ("compat", "cpu"), "patched": host.series}
    return {name: Checkout(folder / name, host, chosen) for name, chosen in concerns.items()}


def make_images(folder: Path, size: int = 32, count: int = 12) -> Path:
    import numpy as np
    from PIL import Image

    folder.mkdir()
    random = np.random.RandomState(0)
    for i in range(count):
        Image.fromarray(random.randint(0, 256, (size, size, 3), dtype=np.uint8)).save(folder / f"{i:02d}.png")
    return folder


def make_clips(folder: Path, size: int = 128, count: int = 6) -> Path:
    """Folders with at least 20 frames each, on which the video hosts train."""
    import numpy as np
    from PIL import Image

    random = np.random.RandomState(0)
    for clip in range(count):
        (folder / f"{clip:03d}").mkdir(parents=True)
        for frame in range(20 + clip):
            image = random.randint(0, 256, (size // 8, size // 8, 3), dtype=np.uint8)
            Image.fromarray(image).resize((size, size)).save(folder / f"{clip:03d}" / f"{frame:06d}.jpg")
    return folder


def assert_same(a, b):
    assert a.keys() == b.keys()
    assert [n for n in a if not torch.equal(a[n], b[n])] == []


def assert_reached(grads, where=""):
    """Check that all parameters of both modules, four each, have finite, non-zero gradients."""
    assert len(grads) == 8, where
    for name, grad in grads.items():
        assert grad is not None, (where, name)
        assert grad.isfinite().all(), (where, name)
        assert grad.abs().max() > 0, (where, name)


def _settled(state):
    """The state without entries that depend on the clock or the machine's resources."""
    statistics = state["statistics"]
    collected = [named for seen in statistics["collectors"].values() for named in seen]
    for named in (statistics["counters"], statistics["cumulative"], *collected):
        for name in [n for n in named if n.startswith(("Timing/", "Resources/"))]:
            del named[name]
    return {key: value for key, value in state.items() if key != "pickle"}


def assert_equal(a, b, where=""):
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{where}[{i}]")
    else:
        assert a == b, where


def assert_same_training(checkout, first, second, states=(STATE,)):
    for name in states:
        one, two = (torch.load(Path(run, name), weights_only=True) for run in (first, second))
        assert_equal(_settled(one), _settled(two))
    assert_same_pickles(checkout, first, second)


def assert_same_pickles(checkout, *runs):
    assert_equal(*checkout.probe("pickled", paths=[f"{run}/{PKL}" for run in runs]))
