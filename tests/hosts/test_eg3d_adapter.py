"""The runner's adapter for EG3D writes a command line that trains, and reads the results."""

import re

import pytest
import torch

from experiments.files import UserError
from experiments.snapshots import open_snapshot
from experiments.trainers import TRAINERS
from experiments.trainers.contract import Run
from experiments.trainers.eg3d import UNDERSCORED

EG3D = TRAINERS["eg3d"]
OPTIONS = {"cfg": "ffhq", "batch": 2, "gamma": 1, "mbstd-group": 2, "cbase": 256, "cmax": 8, "kimg": 1, "workers": 1}
OPTIONS |= {"gen_pose_cond": True, "neural-rendering-resolution-initial": 8, "mtm_head": "offset", "threads": 1}


def make_run(folder, data=None, **options):
    return Run(
        table="t",
        preset="full",
        row="low",
        title="Low",
        trainer="eg3d",
        mtm="low",
        seed=3,
        options={"mtm": "low", **OPTIONS, **options},
        dataset="d",
        metrics=["frechet"],
        samples_nimg=4,
        identity={"host": {"patches": {"mtm": "0"}}},
        folder=folder,
        data=data or folder / "d.zip",
    )


def test_its_command_line_trains_and_its_snapshot_draws(eg3d, posed, tmp_path):
    run = make_run(tmp_path, posed)
    step = EG3D.train_step(run)
    assert step.argv[:2] == ["python", "train.py"]
    assert {"--gen_pose_cond=1", "--neural_rendering_resolution_initial=8", "--mtm-head=offset"} < set(step.argv)
    eg3d["patched"].probe("train_part", arguments=step.argv[2:], iterations=1)

    assert [round(1000 * tick.kimg) for tick in EG3D.ticks(run, [])] == [2]
    assert {"G_loss", "D_loss", "r1"} <= EG3D.ticks(run, [])[0].curves.keys()
    assert EG3D.facts(run)["generator_parameters"] > 0
    path = EG3D.snapshot(run)
    with open_snapshot(path, vendor=eg3d["patched"].root / "vendor") as snapshot:
        assert (snapshot.facts.trainer, snapshot.facts.c_dim) == ("eg3d", 25)
        assert [(layer.name, layer.resolution) for layer in snapshot.facts.layers] == [
            ("b8.conv1", 8),
            ("b16.conv1", 16),
        ]
        assert snapshot.generate(torch.randn(2, 512)).shape == (2, 3, 128, 128)
    assert f"--resume={path}" in EG3D.train_step(run).argv


def test_it_spells_every_option_as_train_py_does(eg3d):
    said = eg3d["patched"].run("train.py", "--help").stdout
    theirs = set(re.findall(r"^ +(?:-\w, )?--([\w-]+)", said, re.MULTILINE))
    assert {name for name in theirs if "_" in name} == UNDERSCORED
    for name in theirs:
        for key in (name.replace("_", "-"), name.replace("-", "_")):
            assert EG3D.spell(key, 1) == f"--{name}=1"


def test_mirroring_is_refused(tmp_path):
    with pytest.raises(UserError, match="row low must not mirror; got mirror = True"):
        EG3D.check(make_run(tmp_path, mirror=True))
