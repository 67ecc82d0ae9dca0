"""--resume continues exactly if a training state lies next to the pickle, and otherwise acts as upstream's.

tests/experiments/test_smoke.py kills one of two ranks.
"""

from pathlib import Path

import pytest
import torch
from lab import PKL, STATE, assert_same_pickles, assert_same_training
from stylegan3_lab import arguments

WHOLE = {"iterations": 5, "tick": 2}  # ticks, and therefore snapshots, after 1, 3 and 5; ADA adjusts after 4
ADA = {"augment_p": 0.5, "ada_kimg": 0.1}  # so that the augmentation has an effect and changes


@pytest.mark.parametrize(
    ("cfg", "more", "options"),
    [
        ("stylegan2", ("--mtm", "none", "--workers", "2", "--aug", "ada"), ADA),
        ("stylegan3-t", ("--aug", "ada"), ADA),
    ],
    ids=["stylegan2-none", "stylegan3-t"],
)
def test_a_stopped_training_goes_on_to_the_bit(stylegan3, images, tmp_path, cfg, more, options):
    def train(name, *also, **part):
        words = arguments(cfg, images, tmp_path / name, *more, *also)
        return stylegan3["patched"].probe("train_part", arguments=words, **WHOLE, **options, **part)

    straight, stopped = train("straight"), train("stopped", stop=3)
    assert torch.load(Path(stopped, STATE), weights_only=True)["counters"]["batch_idx"] == 3
    assert_same_training(stylegan3["patched"], straight, train("stopped", "--resume", f"{stopped}/{PKL}"))


def test_without_a_state_resume_is_upstreams_to_the_bit(stylegan3, images, tmp_path):
    def train(checkout, name, *also):
        words = arguments("stylegan2", images, tmp_path / name, *also)
        return stylegan3[checkout].probe("train_part", arguments=words, iterations=2)

    start = f"{train('base', 'start')}/{PKL}"
    theirs, ours = (
        train("base", "theirs", "--resume", start),
        train("patched", "ours", "--resume", start, "--mtm", "none"),
    )
    assert_same_pickles(stylegan3["patched"], theirs, ours)


@pytest.fixture(scope="module")
def saved(stylegan3, images, tmp_path_factory):
    words = arguments("stylegan2", images, tmp_path_factory.mktemp("saved"))
    return Path(stylegan3["patched"].probe("train_part", arguments=words, iterations=1))


@pytest.mark.parametrize(
    ("damage", "more", "complaint"),
    [
        ((PKL, 1000), (), f"{PKL} must be the pickle that {STATE} was written for, "),
        ((STATE, 1000), (), "cannot read the training state "),
        ((STATE, 0), (), "cannot read the training state "),
        (None, ("--batch", "8", "--mtm", "low,4"), "its options must stay; got "),
    ],
    ids=["pickle", "state", "empty", "options"],
)
def test_what_cannot_continue_exactly_is_refused_in_one_line(
    stylegan3, saved, images, tmp_path, damage, more, complaint
):
    for name in (PKL, STATE):
        data = (saved / name).read_bytes()
        (tmp_path / name).write_bytes(data[: damage[1]] if damage and damage[0] == name else data)
    words = arguments("stylegan2", images, tmp_path / "out", "--resume", str(tmp_path / PKL), *more)
    if damage and damage[0] == PKL:
        words += ["--dry-run"]
    (said,) = stylegan3["patched"].probe("options", argument_lists=[words])
    line = said.splitlines()[-1]
    assert line.startswith("Error: --resume: ")
    assert str(tmp_path / (damage[0] if damage else PKL)) in line
    assert "Training options" not in said
    if damage is None:
        assert "G_kwargs.mtm low,4, which was low" in line
        assert "batch_size 8, which was 4" in line


def test_the_weights_alone_can_be_asked_for(stylegan3, saved, images, tmp_path):
    words = arguments(
        "stylegan2", images, tmp_path / "out", "--resume", str(saved / PKL), "--mtm", "low,4", "--dry-run"
    )
    done = stylegan3["patched"].run("train.py", *words, MTM_RESUME="weights")
    assert "the weights alone" in done.stdout
    assert '"ada_kimg": 100' in done.stdout
    done = stylegan3["patched"].run("train.py", *words[:-3], "--dry-run")
    assert "exactly as " in done.stdout
    assert '"ada_kimg": 500' in done.stdout


def test_the_newest_states_are_kept_and_every_pickle(tmp_path):
    import os

    from mtm_hosts import resume

    for number in range(4):
        for path in (tmp_path / f"network-snapshot-00000{number}.pkl", tmp_path / f"training-state-00000{number}.pt",
                     tmp_path / f"training-state-00000{number}-rank1.pt"):  # fmt: skip
            path.write_bytes(b"")
            os.utime(path, (number, number))
    resume._prune(tmp_path)
    assert sorted(p.name for p in tmp_path.glob("*.pt")) == [
        f"training-state-00000{n}{rank}.pt" for n in (2, 3) for rank in ("-rank1", "")
    ]
    assert len(list(tmp_path.glob("*.pkl"))) == 4
