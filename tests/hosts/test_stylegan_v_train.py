"""StyleGAN-V's training, for a few iterations on the CPU.

Without MTM it trains bit for bit as upstream does. With MTM every parameter of the module moves.
Also covered: the launcher, torchrun and options.
"""

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from lab import PKL, assert_same
from stylegan_v_lab import ADA, arguments, overrides

ITERATIONS = 3
# With upstream's ADA, whose geometric transforms R1 differentiates twice.
MASKS = ("mtm=[low,mid]", "mtm_head=offset+mask", *ADA)
RUNS = {"upstream": ("base",), "none": ("patched", "mtm=none"), "low": ("patched",), "masks": ("patched", *MASKS)}


@pytest.fixture(scope="module")
def trained(stylegan_v, clips, tmp_path_factory):
    """Name in RUNS -> the result of a short training."""
    found = {}
    for checkout in ("base", "patched"):
        names = [name for name, run in RUNS.items() if run[0] == checkout]
        words = [arguments(clips, tmp_path_factory.mktemp("runs"), *RUNS[name][1:]) for name in names]
        calls = [{"arguments": w, "iterations": ITERATIONS} for w in words]
        found |= zip(names, stylegan_v[checkout].probe("several", of="train_few", calls=calls), strict=True)
    return found


def test_mtm_none_trains_as_upstream_does_to_the_bit(trained):
    theirs, ours = trained["upstream"], trained["none"]
    for network in ("Generator", "Discriminator"):
        assert_same(theirs["initial"][network], ours["initial"][network])
    for network in ("G", "D", "G_ema"):
        assert_same(theirs["trained"][network], ours["trained"][network])
    assert ours["mtm_ops"] is False
    assert theirs["init_kwargs"] == ours["init_kwargs"]
    moved = [n for n, t in ours["trained"]["G"].items() if not torch.equal(t, ours["initial"]["Generator"][n])]
    assert len(moved) > 10


@pytest.mark.parametrize("name", ["low", "masks"])
def test_every_mtm_parameter_moves_in_training(trained, name):
    run = trained[name]
    before, after = run["initial"]["Generator"], run["trained"]["G"]
    names = [n for n in after if ".mtm." in n]
    assert len(names) == (12 if name == "masks" else 8)
    assert [n for n in names if torch.equal(before[n], after[n])] == []
    assert all(t.isfinite().all() for t in after.values())
    for kwargs in (run["options"]["G_kwargs"], run["init_kwargs"]):
        chosen = [kwargs["synthesis_kwargs"][name] for name in ("mtm", "mtm_head")]
        assert chosen == (["low,mid", "offset+mask"] if name == "masks" else ["low", "offset"])
    videos = [name for name in run["files"] if name.endswith(".mp4")]
    assert videos
    assert all(os.path.getsize(os.path.join(run["run"], name)) > 1000 for name in videos)


def test_mtm_starts_training_from_the_same_host_parameters(trained):
    plain, bent = trained["none"], trained["low"]
    assert_same(plain["initial"]["Discriminator"], bent["initial"]["Discriminator"])
    host = {n: t for n, t in bent["initial"]["Generator"].items() if ".mtm." not in n}
    assert_same(plain["initial"]["Generator"], host)


def test_options_and_checkpoints_are_checked_before_a_run_folder_is_made(stylegan_v, trained, clips, tmp_path):
    pkl = f"{trained['masks']['run']}/{PKL}"
    broken = tmp_path / "broken.pkl"
    broken.write_bytes(Path(pkl).read_bytes()[:1000])
    cases = [[], ["mtm=lwo"], ["mtm=[8,256]"], ["mtm=none"], ["mtm=8"]]
    cases += [["mtm=none", f"training.resume={pkl}"], [f"training.resume={broken}"]]
    lists = [arguments(clips, tmp_path / "out", *case) for case in cases]
    said = stylegan_v["patched"].probe("options", argument_lists=lists)
    default, typo, large, none, eight, lost, damaged = said
    assert "MTM: low (resolutions 8, 16), head offset" in default
    assert "Dry run; exiting." in default
    assert "got 'lwo'" in typo
    assert "resolutions of this network, 4, 8, 16, 32, 64, 128; got 256" in large
    assert "MTM: none, as upstream" in none
    assert "MTM: 8 (resolutions 8)" in eight
    assert "mtm and mtm_head must be the checkpoint's, 'mtm=[low,mid]' mtm_head=offset+mask" in lost
    assert pkl in lost
    assert f"Error: training.resume: cannot read {broken} as a network pickle" in damaged
    assert [text.count("Training duration") for text in said] == [1, 0, 0, 1, 1, 0, 0]
    assert not (tmp_path / "out" / "output").exists()


def test_two_ranks_under_torchrun_train_agree_and_save_once(stylegan_v, clips, tmp_path):
    checkout, outdir = stylegan_v["patched"], tmp_path / "out"
    words = arguments(clips, outdir, "num_gpus=2", "training.batch_size=4")
    probe = checkout.command("train_rank", tmp_path / "rankRANK.pt", {"arguments": words, "iterations": 2})
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python")
    done = checkout.run(*launcher, sys.executable, *probe)
    first, second = (torch.load(tmp_path / f"rank{r}.pt") for r in (0, 1))
    assert (first["world"], second["world"]) == (2, 2)
    assert first["digest"] == second["digest"] != b""
    run = outdir / "output"
    assert sorted(p.name for p in run.glob("*.pkl")) == [PKL]
    assert json.loads((run / "training_options.json").read_text())["num_gpus"] == 2
    assert done.stdout.count("Training duration:") == 1


LAUNCH = "hydra.run.dir=. hydra.output_subdir=null hydra/job_logging=disabled hydra/hydra_logging=disabled"
LAUNCH += " +ignore_uncommited_changes=true env=local"


def launch(checkout, clips, outdir, *more, **how):
    """Run launch.py in the checkout, as a user would."""
    words = [*LAUNCH.split(), *overrides(clips, *more), f"project_release_dir={outdir}"]
    return checkout.run("src/infra/launch.py", *words, **how)


def test_launch_py_makes_the_experiment_trains_in_it_and_ends_as_the_training(stylegan_v, clips, tmp_path):
    """The code is not on PYTHONPATH; the experiment's folder, which holds a copy of it, lies elsewhere."""
    outdir = tmp_path / "experiment"
    done = launch(stylegan_v["patched"], clips, outdir, "training.dry_run=true")
    assert "MTM: low (resolutions 8, 16), head offset" in done.stdout
    assert "Dry run; exiting." in done.stdout
    assert "mtm: low" in (outdir / "experiment_config.yaml").read_text()
    done = launch(stylegan_v["patched"], clips, tmp_path / "other", "mtm=lwo", check=False)
    assert done.returncode != 0
    assert "got 'lwo'" in done.stdout + done.stderr


def test_torchrun_with_another_number_of_gpus_is_refused(stylegan_v, clips, tmp_path):
    lone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    more = ("num_gpus=2", "training.batch_size=4")
    done = launch(stylegan_v["patched"], clips, tmp_path / "out", *more, check=False, **lone)
    assert done.returncode != 0
    assert "num_gpus must be the number of processes that torchrun starts, 1; got 2" in done.stdout + done.stderr
    assert not (tmp_path / "out" / "output").exists()
