"""EG3D's --resume continues exactly where a training state lies beside the pickle, and as upstream elsewhere."""

import sys
from pathlib import Path

import pytest
import torch
from eg3d_lab import arguments
from lab import PKL, STATE, assert_same_pickles, assert_same_training

WHOLE = {"iterations": 4, "tick": 2}  # ticks, and so snapshots, after 1, 3 and 4; ADA adjusts after 4
ADA = {"augment_p": 0.5, "ada_kimg": 0.1}  # so that the augmentation acts, and moves
# The rendering resolution becomes 9 at the third iteration; the blur and the swapping of poses change with every image.
FADES = ("--aug", "ada", "--neural_rendering_resolution_final", "200", "--neural_rendering_resolution_fade_kimg", "1")


@pytest.fixture(scope="module")
def train(eg3d, posed, tmp_path_factory):
    """(name, more options, how it ends) -> the folder of such a training with MTM."""
    folder = tmp_path_factory.mktemp("runs")

    def train(name, *also, **part):
        words = arguments(posed, folder / name, *FADES, *also)
        return eg3d["patched"].probe("train_part", arguments=words, **WHOLE, **ADA, **part)

    return train


@pytest.fixture(scope="module")
def straight(train):
    return train("straight")


def test_a_stopped_training_goes_on_to_the_bit(eg3d, train, straight):
    stopped = train("stopped", stop=3)
    assert torch.load(Path(stopped, STATE), weights_only=True)["counters"]["batch_idx"] == 3
    assert_same_training(eg3d["patched"], straight, train("stopped", "--resume", f"{stopped}/{PKL}"))


@pytest.mark.slow
def test_two_ranks_go_on_to_the_bit(eg3d, posed, tmp_path):
    checkout = eg3d["patched"]

    def train(name, *also, **part):
        words = arguments(posed, tmp_path / name, "--gpus", "2", "--mbstd-group", "1", *also)
        probe = checkout.command("train_part", tmp_path / f"{name}-RANK.pt", {"arguments": words, **WHOLE, **part})
        launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python")
        checkout.run(*launcher, sys.executable, *probe)
        return torch.load(tmp_path / f"{name}-1.pt")

    straight, stopped = train("straight"), train("stopped", stop=3)
    states = (STATE, "training-state-000000-rank1.pt")
    assert_same_training(checkout, straight, train("stopped", "--resume", f"{stopped}/{PKL}"), states)


@pytest.fixture(scope="module")
def plain(eg3d, posed, tmp_path_factory):
    """A run of the base checkout."""
    words = arguments(posed, tmp_path_factory.mktemp("plain"))
    return Path(eg3d["base"].probe("train_part", arguments=words, iterations=1))


@pytest.mark.slow
def test_without_a_state_resume_is_upstreams_to_the_bit(eg3d, plain, posed, tmp_path):
    def train(checkout, *also):
        words = arguments(posed, tmp_path / checkout, "--resume", str(plain / PKL), *also)
        return eg3d[checkout].probe("train_part", arguments=words, iterations=1)

    runs = train("base"), train("patched", "--mtm", "none")
    assert_same_pickles(eg3d["patched"], *runs)


def test_what_upstream_changes_for_a_resume_stays_and_other_options_are_refused(eg3d, straight, posed, tmp_path):
    lists = [
        arguments(posed, tmp_path / "out", *FADES, "--resume", f"{straight}/{PKL}", *more)
        for more in ((), ("--gamma", "2", "--mtm", "low,4"))
    ]
    same, other = eg3d["patched"].probe("options", argument_lists=lists)
    assert "Resume: exactly as " in same
    assert '"blur_init_sigma": 10' in same
    assert '"gpc_reg_fade_kimg": 1000' in same
    line = other.splitlines()[-1]
    assert line.startswith("Error: --resume: ")
    assert "G_kwargs.mtm low,4, which was low" in line
    assert "loss_kwargs.r1_gamma 2.0, which was 1.0" in line
