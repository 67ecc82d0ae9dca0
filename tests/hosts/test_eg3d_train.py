"""train.py of the official EG3D checkout, for a few iterations on the CPU.

Without MTM it trains bit for bit as upstream does. With MTM every parameter of the module moves.
Also covered: torchrun and options.
"""

import json
import sys
from pathlib import Path

import pytest
import torch
from eg3d_lab import arguments
from lab import PKL, assert_same

ITERATIONS = 3  # the first regularises both networks; the module's first layer moves from the second on
G, D = "TriPlaneGenerator", "DualDiscriminator"


@pytest.fixture(scope="module")
def trained(eg3d, posed, tmp_path_factory):
    """(checkout, more options) -> the result of a short training; each runs once."""
    runs = {}

    def train(checkout, *more):
        if (checkout, more) not in runs:
            words = arguments(posed, tmp_path_factory.mktemp("runs"), *more)
            runs[checkout, more] = eg3d[checkout].probe("train_few", arguments=words, iterations=ITERATIONS)
        return runs[checkout, more]

    return train


def test_mtm_none_trains_as_upstream_does_to_the_bit(trained):
    theirs, ours = trained("base"), trained("patched", "--mtm", "none")
    for network in (G, D):
        assert_same(theirs["initial"][network], ours["initial"][network])
    for network in ("G", "D", "G_ema"):
        assert_same(theirs["trained"][network], ours["trained"][network])
    assert ours["mtm_ops"] is False
    assert theirs["options"] == {**ours["options"], "run_dir": theirs["options"]["run_dir"]}
    moved = [n for n, t in ours["trained"]["G"].items() if not torch.equal(t, ours["initial"][G][n])]
    assert len(moved) > 10


def test_every_mtm_parameter_moves_in_training(trained):
    run = trained("patched")
    before, after = run["initial"][G], run["trained"]["G"]
    names = [n for n in after if ".mtm." in n]
    assert len(names) == 8
    assert [n for n in names if torch.equal(before[n], after[n])] == []
    assert all(t.isfinite().all() for t in after.values())
    for kwargs in (run["options"]["G_kwargs"], run["init_kwargs"]):
        assert (kwargs["mtm"], kwargs["mtm_head"]) == ("low", "offset")
    plain = trained("patched", "--mtm", "none")["initial"]
    assert_same(plain[D], run["initial"][D])
    assert_same(plain[G], {n: t for n, t in before.items() if ".mtm." not in n})


def test_training_resumes_from_an_mtm_snapshot_and_from_a_plain_one(eg3d, trained, posed, tmp_path):
    for more in ((), ("--mtm", "none")):
        first = trained("patched", *more)
        snapshot = tmp_path / PKL  # without the state next to it
        snapshot.write_bytes(Path(first["run"], PKL).read_bytes())
        words = arguments(posed, tmp_path / str(len(more)), "--resume", str(snapshot))
        again = eg3d["patched"].probe("train_few", arguments=words, iterations=1)
        start, end = again["initial"][G], first["trained"]["G"]
        assert_same({n: start[n] for n in end}, end)
        assert any(".mtm." in n for n in start)


def test_two_ranks_under_torchrun_train_agree_and_save_once(eg3d, posed, tmp_path):
    checkout, outdir = eg3d["patched"], tmp_path / "out"
    words = arguments(posed, outdir, "--gpus", "2", "--mbstd-group", "1")
    probe = checkout.command("train_rank", tmp_path / "rankRANK.pt", {"arguments": words, "iterations": 2})
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python")
    done = checkout.run(*launcher, sys.executable, *probe)
    first, second = (torch.load(tmp_path / f"rank{r}.pt") for r in (0, 1))
    assert (first["world"], second["world"]) == (2, 2)
    assert first["digest"] == second["digest"] != b""
    (run,) = outdir.iterdir()
    assert sorted(p.name for p in run.glob("*.pkl")) == [PKL]
    assert json.loads((run / "training_options.json").read_text())["num_gpus"] == 2
    assert done.stdout.count("Training options:") == 1


def test_options_and_checkpoints_are_checked_before_a_run_folder_is_made(eg3d, trained, posed, tmp_path):
    snapshot = f"{trained('patched')['run']}/{PKL}"
    damaged = tmp_path / "damaged.pkl"
    damaged.write_bytes(Path(snapshot).read_bytes()[:2000])
    lists = [
        arguments(posed, tmp_path / "out", *more)
        for more in (
            (),
            ("--mtm", "low,512"),
            ("--mtm", "none"),
            ("--resume", snapshot, "--mtm", "none"),
            ("--resume", str(damaged)),
        )
    ]
    default, high, none, lost, cut = eg3d["patched"].probe("options", argument_lists=lists)
    assert "MTM: low (resolutions 8, 16), head offset" in default
    assert '"mtm": "low"' in default
    assert "resolutions of this network, 4, 8, 16, 32, 64, 128, 256; got 512" in high
    assert '"mtm' not in none
    assert "Error: --mtm and --mtm-head must be the checkpoint's, --mtm low --mtm-head offset" in lost
    assert snapshot in lost
    assert f"Error: --resume: cannot read {damaged} as a network pickle: " in cut
    assert all("Training options" not in said for said in (high, lost, cut))
    assert not (tmp_path / "out").exists()


def test_calc_metrics_runs_with_a_metric_and_a_detector_of_ones_own(eg3d, trained, posed, tmp_path):
    path = f"{trained('patched')['run']}/{PKL}"
    found = eg3d["patched"].probe("metric", snapshot_path=path, data=str(posed), folder=str(tmp_path))
    assert found["result"] > 0
    assert len(found["cached"]) == 1
    assert found["images"] == 12
