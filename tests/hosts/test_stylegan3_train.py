"""train.py of the official checkout, for a few iterations on the CPU.

Without MTM it trains bit for bit as upstream does. With MTM every parameter of the module moves.
Also covered: torchrun and options.
"""

import json
import sys
from pathlib import Path

import pytest
import torch
from lab import assert_same
from stylegan3_lab import arguments

ITERATIONS = 6  # the first and the fifth regularise the generator; only the first regularises the discriminator


@pytest.fixture(scope="module")
def trained(stylegan3, images, tmp_path_factory):
    """(checkout, cfg, more options) -> the result of a short training; each runs once."""
    runs = {}

    def train(checkout, cfg, *more):
        key = (checkout, cfg, more)
        if key not in runs:
            outdir = tmp_path_factory.mktemp("runs")
            words = arguments(cfg, images, outdir, *more)
            runs[key] = stylegan3[checkout].probe("train_few", arguments=words, iterations=ITERATIONS)
        return runs[key]

    return train


@pytest.mark.parametrize("cfg", ["stylegan2", "stylegan3-t"])
def test_mtm_none_trains_as_upstream_does_to_the_bit(trained, cfg):
    theirs, ours = trained("base", cfg), trained("patched", cfg, "--mtm", "none")
    for network in ("G", "D"):
        assert_same(theirs["initial"]["Generator" if network == "G" else "Discriminator"],
                    ours["initial"]["Generator" if network == "G" else "Discriminator"])  # fmt: skip
    for network in ("G", "D", "G_ema"):
        assert_same(theirs["trained"][network], ours["trained"][network])
    assert ours["mtm_ops"] is False
    assert theirs["options"] == {**ours["options"], "run_dir": theirs["options"]["run_dir"]}
    moved = [n for n, t in ours["trained"]["G"].items() if not torch.equal(t, ours["initial"]["Generator"][n])]
    assert len(moved) > 10


@pytest.mark.parametrize(
    ("cfg", "more"),
    [("stylegan2", ()), ("stylegan2", ("--mtm-head", "offset+mask")), ("stylegan3-t", ()), ("stylegan3-r", ())],
)
def test_every_mtm_parameter_moves_in_training(trained, cfg, more):
    run = trained("patched", cfg, *more)
    before, after = run["initial"]["Generator"], run["trained"]["G"]
    names = [n for n in after if ".mtm." in n]
    assert len(names) == 8
    assert [n for n in names if torch.equal(before[n], after[n])] == []
    assert all(t.isfinite().all() for t in after.values())
    head = more[1] if more else "offset"
    for kwargs in (run["options"]["G_kwargs"], run["init_kwargs"]):
        assert (kwargs["mtm"], kwargs["mtm_head"]) == ("low", head)


def test_mtm_starts_training_from_the_same_host_parameters(trained):
    plain, bent = trained("patched", "stylegan2", "--mtm", "none"), trained("patched", "stylegan2")
    assert_same(plain["initial"]["Discriminator"], bent["initial"]["Discriminator"])
    assert_same(
        plain["initial"]["Generator"], {n: t for n, t in bent["initial"]["Generator"].items() if ".mtm." not in n}
    )


def test_training_resumes_from_an_mtm_snapshot_and_from_a_plain_one(stylegan3, trained, images, tmp_path):
    for number, first in enumerate((trained("patched", "stylegan2"), trained("patched", "stylegan2", "--mtm", "none"))):
        snapshot = f"{first['run']}/network-snapshot-000000.pkl"
        words = arguments("stylegan2", images, tmp_path / str(number), "--resume", snapshot)
        Path(snapshot.replace("network-snapshot", "training-state")).with_suffix(".pt").unlink(missing_ok=True)
        again = stylegan3["patched"].probe("train_few", arguments=words, iterations=1)
        start, end = again["initial"]["Generator"], first["trained"]["G"]
        assert_same({n: start[n] for n in end}, end)
        assert any(".mtm." in n for n in start)


def test_an_mtm_snapshot_is_refused_without_mtm(stylegan3, trained, images, tmp_path):
    snapshot = f"{trained('patched', 'stylegan2')['run']}/network-snapshot-000000.pkl"
    words = arguments("stylegan2", images, tmp_path / "out", "--resume", snapshot, "--mtm", "none")
    done = stylegan3["patched"].run("train.py", *words, check=False)
    assert done.returncode != 0
    assert "Error: --mtm and --mtm-head must be the checkpoint's, --mtm low --mtm-head offset" in done.stderr
    assert snapshot in done.stderr
    assert "Traceback" not in done.stderr
    assert not tmp_path.joinpath("out").exists()


def test_two_ranks_under_torchrun_train_agree_and_save_once(stylegan3, images, tmp_path):
    checkout, outdir = stylegan3["patched"], tmp_path / "out"
    words = arguments("stylegan2", images, outdir, "--gpus", "2", "--mbstd-group", "2")
    probe = checkout.command("train_rank", tmp_path / "rankRANK.pt", {"arguments": words, "iterations": 3})
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python")
    done = checkout.run(*launcher, sys.executable, *probe)
    first, second = (torch.load(tmp_path / f"rank{r}.pt") for r in (0, 1))
    assert (first["world"], second["world"]) == (2, 2)
    assert first["digest"] == second["digest"] != b""
    (run,) = outdir.iterdir()
    assert sorted(p.name for p in run.glob("*.pkl")) == ["network-snapshot-000000.pkl"]
    assert json.loads((run / "training_options.json").read_text())["num_gpus"] == 2
    assert done.stdout.count("Training options:") == 1


def test_torchrun_with_another_number_of_gpus_is_refused(stylegan3, images, tmp_path):
    words = arguments("stylegan2", images, tmp_path / "out", "--gpus", "2", "--mbstd-group", "2")
    lone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    done = stylegan3["patched"].run("train.py", *words, check=False, **lone)
    assert done.returncode != 0
    assert "--gpus must be the number of processes that torchrun starts, 1; got 2" in done.stdout + done.stderr
    assert not (tmp_path / "out").exists()


def test_options_are_checked_before_a_run_folder_is_made(stylegan3, images, tmp_path):
    lists = [
        arguments(cfg, images, tmp_path / "out", *more)
        for cfg, *more in (
            ("stylegan2",),
            ("stylegan2", "--mtm", "low,mid,high"),
            ("stylegan2", "--mtm", "lwo"),
            ("stylegan2", "--mtm", "none"),
            ("stylegan2", "--mtm", "8,32"),
            ("stylegan3-t", "--mtm", "4"),
        )
    ]
    default, high, typo, none, listed, rate = stylegan3["patched"].probe("options", argument_lists=lists)
    assert "MTM: low (resolutions 8, 16), head offset" in default
    assert '"mtm": "low"' in default
    assert "resolutions of this network, 4, 8, 16, 32; got 64" in high
    assert "got 'lwo'" in typo
    assert "MTM: none" in none
    assert '"mtm' not in none
    assert "resolutions 8, 32" in listed
    assert rate.startswith("Error: attach: --mtm must name sampling rates of this network, 16, 32; got 4")
    assert "Training options" not in rate


def test_a_damaged_checkpoint_is_refused_by_name_in_one_line(stylegan3, trained, images, tmp_path):
    whole = Path(trained("patched", "stylegan2")["run"], "network-snapshot-000000.pkl").read_bytes()
    for number, data in enumerate((b"", whole[: len(whole) // 2])):
        damaged = tmp_path / f"{number}.pkl"
        damaged.write_bytes(data)
        words = arguments("stylegan2", images, tmp_path / "out", "--resume", str(damaged))
        done = stylegan3["patched"].run("train.py", *words, check=False)
        assert done.returncode == 1
        (line,) = [x for x in done.stderr.splitlines() if "Warning" not in x]
        assert line.startswith(f"Error: --resume: cannot read {damaged} as a network pickle: ")
        assert not (tmp_path / "out").exists()
