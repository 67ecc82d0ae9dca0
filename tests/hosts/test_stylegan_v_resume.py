"""training.resume continues exactly if a training state lies next to the pickle; otherwise it acts as upstream's."""

from pathlib import Path

import pytest
import torch
from lab import PKL, STATE, assert_equal, assert_same, assert_same_training
from stylegan_v_lab import arguments

ADA = ("training.aug=ada", "training.target=0.6", "training.augpipe=blit")
ADAPTIVE = {"augment_p": 0.5, "ada_kimg": 0.1}  # so that the augmentation has an effect and changes
WORKERS = ("training.num_workers=2",)
NO_IMAGES = {"image_snapshot_ticks": None}


def train(checkout, calls):
    """The folders of trainings, one for each (arguments, other arguments of train_part)."""
    calls = [{"arguments": words, **part} for words, part in calls]
    return checkout.probe("several", of="train_part", calls=calls)


def test_a_stopped_training_goes_on_to_the_bit(stylegan_v, clips, tmp_path):
    """This includes the frames that the data loader's workers draw: other frames would give other networks."""
    whole = {"iterations": 5, "tick": 2, **ADAPTIVE, **NO_IMAGES}  # snapshots after 1, 3 and 5; ADA adjusts after 4
    resume = f"training.resume={tmp_path}/stopped/output/{PKL}"
    calls = [
        (arguments(clips, tmp_path / "straight", *ADA, *WORKERS), whole),
        (arguments(clips, tmp_path / "stopped", *ADA, *WORKERS), {**whole, "stop": 3}),
        (arguments(clips, tmp_path / "goes-on", *ADA, *WORKERS, resume), whole),
    ]
    straight, stopped, goes_on = train(stylegan_v["patched"], calls)
    assert torch.load(Path(stopped, STATE), weights_only=True)["counters"]["batch_idx"] == 3
    assert_same_training(stylegan_v["patched"], straight, goes_on)


def test_resume_latest_goes_on_in_the_same_folder_to_the_bit(stylegan_v, clips, tmp_path):
    """Clips have more frames than max_num_frames, so the worker draws offsets too. Runs without MTM."""
    words = ("mtm=none", "dataset.max_num_frames=18")
    whole = {"iterations": 3, **NO_IMAGES}
    calls = [
        (arguments(clips, tmp_path / "straight", *words), whole),
        (arguments(clips, tmp_path / "stopped", *words), {**whole, "stop": 1}),
        (arguments(clips, tmp_path / "stopped", *words, "training.resume=latest"), whole),
    ]
    straight, stopped, latest = train(stylegan_v["patched"], calls)
    assert latest == stopped
    assert_same_training(stylegan_v["patched"], straight, latest)


def test_without_a_state_resume_is_upstreams_to_the_bit_and_mtm_is_added_to_a_plain_network(
    stylegan_v, clips, tmp_path
):
    resume = f"training.resume={tmp_path}/start/output/{PKL}"

    def few(checkout, **runs):
        calls = [{"arguments": arguments(clips, tmp_path / n, *m), "iterations": 1} for n, m in runs.items()]
        return stylegan_v[checkout].probe("several", of="train_few", calls=calls)

    start, theirs = few("base", start=(), theirs=(resume,))
    ours, bent = few("patched", ours=(resume, "mtm=none"), bent=(resume,))
    assert_equal(theirs["trained"], ours["trained"])
    began = bent["initial"]["Generator"]
    assert_same({n: t for n, t in began.items() if ".mtm." not in n}, start["trained"]["G"])
    assert any(".mtm." in n for n in began)


@pytest.fixture(scope="module")
def saved(stylegan_v, clips, tmp_path_factory):
    words = arguments(clips, tmp_path_factory.mktemp("saved"))
    return Path(stylegan_v["patched"].probe("train_part", arguments=words, iterations=1))


def test_what_cannot_continue_exactly_is_refused_in_one_line(stylegan_v, saved, clips, tmp_path):
    def copied(name, *damaged):
        folder = tmp_path / name
        folder.mkdir()
        for file in (PKL, STATE):
            data = (saved / file).read_bytes()
            (folder / file).write_bytes(data[:1000] if file in damaged else data)
        return folder / PKL

    elsewhere = clips.rename(clips.with_name("moved"))
    try:
        lists = [
            arguments(elsewhere, tmp_path / "out", f"training.resume={pkl}", *more)
            for pkl, *more in (
                (copied("whole"),),
                (copied("pickle", PKL),),
                (copied("state", STATE),),
                (saved / PKL, "training.batch_size=4", "mtm=[low,mid]", "sampling.max_dist=8", *WORKERS),
            )
        ]
        said = stylegan_v["patched"].probe("options", argument_lists=lists)
    finally:
        elsewhere.rename(clips)
    assert f"Resume: exactly as {tmp_path}/whole/{PKL} was, from kimg " in said[0], "data may lie elsewhere"
    for text, reason in zip(
        said[1:],
        (
            f"cannot read {tmp_path}/pickle/{PKL} as a network pickle",
            f"cannot read the training state {tmp_path}/state/{STATE}",
            f"{saved}/{PKL} continues exactly, so its options must stay; got ",
        ),
        strict=True,
    ):
        line = text.splitlines()[-1]
        assert line.startswith("Error: training.resume: ")
        assert reason in line
        assert "Training duration" not in text
    changed = "num_workers 2, which was 1; batch_size 4, which was 2; mtm low,mid, which was low; max_dist 8, which was"
    assert [option for option in changed.split("; ") if option not in said[3]] == []
