"""Every recipe of docs/recipes.md works as described, in a copy of this repository.

Recipes that add a metric, a data set or a table run in tests/experiments/test_seams.py. The export recipe runs in
tests/tools/test_export.py. "Add a codebase" has no command.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from documents import ROOT, block, sections
from PIL import Image
from repository_lab import Repository

from experiments.mini.trainer import Options, build_generator
from overlay.catalog import load_hosts
from overlay.git import open_checkout

PAGE = "docs/recipes.md"
IN_TEST_SEAMS = {"Add a metric", "Add a data set", "Add a table"}
LINKS_ONLY = {"Add a codebase"}
SMALL = "--batch=4 --cbase=128 --cmax=8 --map-depth=2 --kimg=1 --tick=1 --snap=1 --workers=1 --metrics=none --aug=noaug"
HOST = "vendor/stylegan3"
COMMITS = {host.vendor: host.commit for host in load_hosts(ROOT)}


class Workspace(Repository):
    """A copy of the repository in which make and bash run the page's commands."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        for name in ("Makefile", "pyproject.toml", *[path.name for path in ROOT.glob("requirements*.txt")]):
            shutil.copy2(ROOT / name, root / name)
            os.utime(root / name, (0, 0))  # older than the environment, so that make does not set it up again
        (root / ".venv").symlink_to(Path(sys.prefix))

    @property
    def environment(self) -> dict[str, str]:
        words = {"MTM_KIMG": "0.004", "OMP_NUM_THREADS": "1", "GIT_CONFIG_GLOBAL": os.devnull}
        people = {f"GIT_{who}_{what}": "t@t" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        return {**super().environment, **words, **people}

    def vendor(self) -> None:
        """Clone StyleGAN3, unpatched, as a submodule of a new repository in the copy."""
        source = ROOT / HOST
        if open_checkout(source) is None:
            pytest.skip(f"{HOST} is not fetched: git submodule update --init {HOST}")
        clone = f"git clone -q --no-checkout {source} {HOST} && git -C {HOST} checkout -q {COMMITS[HOST]}"
        links = "".join(f"git update-index --add --cacheinfo 160000,{commit},{at};" for at, commit in COMMITS.items())
        self.sh(f"mkdir -p vendor && {clone} && git init -q && {links} git add patches && git commit -qm begin")

    def sh(self, code: str, **env: str) -> str:
        command = ["bash", "-euo", "pipefail", "-c", code]
        done = subprocess.run(
            command, cwd=self.root, env=self.environment | env, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    def follow(self, title: str, **env: str) -> list[str]:
        """Run the recipe's blocks in order; returns what each printed."""
        run = {"sh": lambda code: self.sh(code, **env), "python": lambda code: self.python("-c", code)}
        return [run[kind](code) for kind, code in sections(PAGE)[title]]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    assert (Path(sys.prefix) / "bin" / "python").exists(), "the tests run in a virtual environment"
    return Workspace(tmp_path / "copy")


@pytest.fixture
def quickstarted(workspace: Workspace) -> Workspace:
    """With a generator in the place where the quickstart leaves it."""
    options = Options(data_sha256="", resolution=8, mtm="4,8", channels=2, latent=64)
    torch.manual_seed(0)
    generator = build_generator(options).eval().requires_grad_(False)
    for name, parameter in generator.named_parameters():
        if ".mtm." in name:
            parameter.add_(0.3 * torch.randn(parameter.shape))
    path = workspace.root / "runs/quickstart/runs/mtm-low/0-0123abcd/train/final.pt"
    path.parent.mkdir(parents=True)
    torch.save({"options": asdict(options), "generator": generator.state_dict()}, path)
    return workspace


def test_every_recipe_is_run():
    run = {"Put MTM into your own generator", "Fine-tune a trained plain network with MTM"}
    run |= {"Scale or switch off the offsets", "Export", "Train on several machines", "Audit the patches"}
    run |= {"Change a patch", "Move to a newer upstream commit"}
    assert set(sections(PAGE)) == run | IN_TEST_SEAMS | LINKS_ONLY


def test_put_mtm_into_your_own_generator():
    ((_, code),) = sections(PAGE)["Put MTM into your own generator"]
    names: dict = {}
    exec(compile(code, PAGE, "exec"), names)
    y = names["deformable"](names["x"], names["w"])
    grads = torch.autograd.grad(y.square().sum(), list(names["deformable"].mtm.parameters()), create_graph=True)
    assert any(grad.any() for grad in grads)


@pytest.mark.slow
def test_fine_tune_a_trained_plain_network(workspace):
    workspace.vendor()
    data = workspace.root / "images"
    data.mkdir()
    for i in range(8):
        Image.effect_noise((16, 16), 60).convert("RGB").save(data / f"{i}.png")
    train = f"{sys.executable} train.py --cfg=stylegan2 --data={data} --gpus=1 --gamma=1 {SMALL}"
    workspace.sh(f"make -s patch HOST=stylegan3 && cd {HOST} && {train} --outdir=../../runs/plain --mtm=none")
    (plain,) = workspace.root.glob("runs/plain/*/network-snapshot-*.pkl")
    workspace.follow(
        "Fine-tune a trained plain network with MTM", DATA=str(data), PKL=str(plain), OPTIONS=SMALL + " --mirror=0"
    )
    (options,) = workspace.root.glob("runs/fine-tuned/*/training_options.json")
    told = json.loads(options.read_text())
    assert told["resume_pkl"] == str(plain)
    assert told["G_kwargs"]["mtm"] == "low"
    assert list(options.parent.glob("network-snapshot-*.pkl"))


@pytest.mark.slow
def test_scale_or_switch_off_the_offsets(quickstarted):
    quickstarted.follow("Scale or switch off the offsets")
    names = {path.name for path in (quickstarted.root / "runs/images").iterdir()}
    assert {"fig4.png", "offsets.png", "strength-0.0.png", "strength-1.5.png"} <= names


def test_export_is_what_its_own_page_says():
    """tests/tools/test_export.py runs the blocks of that page."""
    assert block(PAGE, "Export", "sh") in (ROOT / "docs/export.md").read_text()


def test_train_on_several_machines(workspace):
    (printed,) = workspace.follow("Train on several machines")
    assert "torch.distributed.run --nnodes=2 --nproc-per-node=4 " in printed
    assert "--rdzv-endpoint=node1:29500 " in printed
    assert "# as a job: sbatch " in printed


def test_audit_the_patches(workspace):
    workspace.vendor()
    workspace.sh("make -s patch HOST=stylegan3")
    workspace.follow("Audit the patches")
    assert "+" in (workspace.root / "audit.diff").read_text()
    assert workspace.sh(f"git -C {HOST} status --porcelain") == ""


def test_change_a_patch(workspace):
    workspace.vendor()
    workspace.follow("Change a patch")
    assert "gen_images.py" in (workspace.root / "patches/stylegan3/mtm.patch").read_text()


def test_move_to_a_newer_upstream_commit(workspace):
    """The new commit moves and changes lines in every file that we insert into."""
    workspace.vendor()
    paths = workspace.sh("grep -h '^+++ b/' patches/stylegan3/*.patch | cut -c7- | sort -u").split()
    assert len(paths) > 5
    old = workspace.sh(f"git -C {HOST} rev-parse HEAD").strip()
    change = "".join(f"sed -i '1i # new upstream\\n' {path};" for path in paths)
    new = workspace.sh(
        f"cd {HOST} && {change} git commit -qam new && git rev-parse HEAD && git checkout -q {old}"
    ).strip()
    before = workspace.sh("grep -h '^+[^+]' patches/stylegan3/*.patch")
    workspace.follow("Move to a newer upstream commit", NEW=new)
    assert new in (workspace.root / "patches/upstreams.toml").read_text()
    assert workspace.sh("grep -h '^+[^+]' patches/stylegan3/*.patch") == before
    assert "stylegan3: applied" in workspace.sh("make -s patch-check HOST=stylegan3")
