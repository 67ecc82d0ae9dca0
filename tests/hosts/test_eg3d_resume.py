"""EG3D's --resume continues exactly if a training state lies next to the pickle, and otherwise acts as upstream's."""

from pathlib import Path

import pytest
import torch
from eg3d_lab import arguments
from lab import PKL, STATE, assert_same_training

WHOLE = {"iterations": 4, "tick": 2}  # ticks, and therefore snapshots, after 1, 3 and 4; ADA adjusts after 4
ADA = {"augment_p": 0.5, "ada_kimg": 0.1}  # so that the augmentation has an effect and changes
# The rendering resolution becomes 9 in the third iteration; blur and pose swapping change with every image.
FADES = ("--aug", "ada", "--neural_rendering_resolution_final", "200", "--neural_rendering_resolution_fade_kimg", "1")


@pytest.fixture(scope="module")
def train(eg3d, posed, tmp_path_factory):
    """(name, more options, how it ends) -> the folder of a training with MTM."""
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
