"""StyleSV's train.py, for a few iterations on the CPU.

Without MTM it trains bit for bit as upstream does. With MTM every parameter of the module moves.
Also covered: both stages, torchrun and options.
"""

import json
import sys
from pathlib import Path

import pytest
import torch
from lab import assert_same
from stylesv_lab import options

ITERATIONS = 2  # the first iteration moves the parameters that produce the offsets, the second the whole module


@pytest.fixture(scope="module")
def train(stylesv, clips, tmp_path_factory):
    """The result of a short training. resumed: the result that it continues from."""

    def train(checkout, stage, resumed=None, **more):
        if resumed:
            more["training.resume"] = f"{resumed['run']}/best_fid.pkl"
        words = options(stage, clips, tmp_path_factory.mktemp("runs"), **more)
        iterations = ITERATIONS if stage == 1 else 1
        return stylesv[checkout].probe("train_few", words=words, iterations=iterations, previews="mtm_head" in more)

    return train


@pytest.fixture(scope="module")
def plain(train):
    return train("patched", 1, mtm="none")


@pytest.fixture(scope="module")
def low(train):
    return train("patched", 1, mtm_head="offset+mask")


def test_mtm_none_trains_as_upstream_does_to_the_bit(train, plain):
    theirs = train("base", 1)
    for network in ("Generator", "Discriminator"):
        assert_same(theirs["initial"][network], plain["initial"][network])
    for network in ("G", "D", "G_ema"):
        assert_same(theirs["trained"][network], plain["trained"][network])
    assert plain["mtm_ops"] is False
    assert theirs["synthesis_kwargs"] == plain["synthesis_kwargs"]
    moved = [n for n, t in plain["trained"]["G"].items() if not torch.equal(t, plain["initial"]["Generator"][n])]
    assert len(moved) > 10


def test_every_mtm_parameter_moves_in_stage_1(plain, low):
    before, after = low["initial"]["Generator"], low["trained"]["G"]
    names = [n for n in after if ".mtm." in n]
    assert len(names) == 8
    assert [n for n in names if torch.equal(before[n], after[n])] == []
    assert all(t.isfinite().all() for t in after.values())
    assert_same(plain["initial"]["Generator"], {n: t for n, t in before.items() if ".mtm." not in n})
    said = json.loads(Path(low["run"], "training_options.json").read_text())["G_kwargs"]["synthesis_kwargs"]
    for kwargs in (said, low["synthesis_kwargs"]):
        assert (kwargs["mtm"], kwargs["mtm_head"]) == ("low", "offset+mask")


def test_snapshots_are_written_also_without_metrics_that_improve(plain, low):
    for run in (plain, low):
        pickles = [name for name in run["files"] if name.endswith(".pkl")]
        assert pickles == ["best_fid.pkl", "network-snapshot-000000.pkl"]
        assert "training-state-000000.pt" in run["files"]
    assert any(name.endswith("_videos_000000.mp4") for name in low["files"])


@pytest.mark.parametrize(
    ("first", "more"),
    [
        ("low", {"mtm_head": "offset+mask"}),
        ("plain", {}),
    ],
    ids=["mtm-mtm", "plain-mtm"],
)
def test_stage_2_goes_on_from_stage_1(train, plain, low, first, more):
    """Every tensor of stage 1 arrives, the mask becomes a parameter, and new parameters are trained."""
    resumed = low if first == "low" else plain
    second, source = train("patched", 2, resumed, **more), resumed["trained"]
    for network, name in (("Generator", "G"), ("Discriminator", "D")):
        begun = second["initial"][network]
        changed = [n for n, t in source[name].items() if not torch.equal(begun[n], t)]
        # The discriminator's last layer has one row in stage 1. In stage 2 it has one row for each number of the time
        # embedding, each a copy of that row.
        assert [n.rpartition(".")[0] for n in changed] == ([] if name == "G" else ["b4.out"] * 2)
        for n in changed:
            assert torch.equal(begun[n], source[name][n].expand_as(begun[n]))
    before, after = second["initial"]["Generator"], second["trained"]["G"]
    moving = [n for n in after if ".mtm." in n or n == "synthesis.motion_mask"]
    assert len(moving) == 9
    still = [n for n in moving if torch.equal(before[n], after[n])]
    # In modules that start here, the first iteration moves only the parameters that produce the offsets.
    assert still == ([] if first == "low" else [n for n in still if ".mtm." in n])
    assert all(t.isfinite().all() for t in after.values())


def test_stage_2_refuses_to_lose_the_mtm_of_stage_1(stylesv, low, clips, tmp_path):
    pkl = f"{low['run']}/best_fid.pkl"
    (tmp_path / "damaged.pkl").write_bytes(Path(pkl).read_bytes()[:100_000])
    torch.save({"G": low["trained"]["G"], "D": low["trained"]["D"]}, tmp_path / "tensors.pt")
    given = [
        {"training.resume": pkl, "mtm": "none"},
        {"training.resume": str(tmp_path / "tensors.pt"), "mtm": "none"},
        {"training.resume": str(tmp_path / "damaged.pkl"), "mtm": "none"},
        {"training.resume": f"{low['run']}/network-snapshot-000000.pkl", "mtm_head": "offset+mask"},
        {"mtm": "[low,high]"},
        {"mtm": "32"},
        {"mtm": "4"},
        {"mtm": "lwo"},
        {"mtm": "none"},
    ]
    words = [options(2, clips, tmp_path / "out", **more) for more in given]
    lost, tensors, damaged, exact, both, listed, rate, typo, none = stylesv["patched"].probe(
        "refused", word_lists=words
    )
    last = [text.splitlines()[-1] for text in (lost, tensors, damaged, exact)]
    assert last[0].startswith("Error: mtm and mtm_head must be the checkpoint's, mtm=low mtm_head=offset+mask, ")
    assert last[0].endswith(f"The checkpoint is {pkl}.")
    assert last[1].startswith("Error: mtm and mtm_head must be the checkpoint's or add layers to it; ")
    assert last[2].startswith(f"Error: training.resume: cannot read {tmp_path}/damaged.pkl as a network pickle: ")
    assert last[3].startswith("Error: training.resume: ")
    assert "set MTM_RESUME=weights" in last[3]
    assert "MTM: low,high (sampling rates 16, 32, 128), head offset" in both
    assert "MTM: 32 (sampling rates 32)" in listed
    assert "Error: attach: mtm must name sampling rates of this network, 16, 32, 128; got 4" in rate
    assert "got 'lwo'" in typo
    assert "MTM: none, as upstream" in none
    assert not (tmp_path / "out").exists()


def test_launch_starts_the_training_here_and_ends_as_it_ends(stylesv, clips, tmp_path):
    words = ["hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=disabled", "env=local"]
    launch = ("src/infra/launch.py", *words, *options(1, clips, tmp_path / "out", mtm=4))
    done = stylesv["patched"].run(*launch, check=False)
    assert done.returncode == 1, done.stderr
    assert "Error: attach: mtm must name sampling rates of this network" in done.stdout + done.stderr
    assert f"{sys.executable} src/train.py" in (tmp_path / "out" / "training_cmd.sh").read_text()
    assert not (tmp_path / "out" / "output").exists()


def test_two_ranks_under_torchrun_train_agree_and_save_once(stylesv, clips, tmp_path):
    checkout, folder = stylesv["patched"], tmp_path / "out"
    words = options(1, clips, folder, num_gpus=2, **{"training.batch_size": 2})
    probe = checkout.command("train_rank", tmp_path / "rankRANK.pt", {"words": words, "iterations": 1})
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python")
    done = checkout.run(*launcher, sys.executable, *probe)
    first, second = (torch.load(tmp_path / f"rank{r}.pt") for r in (0, 1))
    assert (first["world"], second["world"]) == (2, 2)
    assert first["digest"] == second["digest"] != b""
    assert sorted(p.name for p in folder.glob("output/network*.pkl")) == ["network-snapshot-000000.pkl"]
    assert done.stdout.count("Training config is located") == 1
