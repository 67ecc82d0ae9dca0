"""What the offsets do: the regression on known numbers, and the whole analysis on a tiny network."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from experiments.files import UserError
from experiments.images import LABEL_PX
from experiments.metrics.blazepose import POSE
from experiments.mini import KEPT, train
from experiments.study import limbs, show

TINY = {"kimg": 0.032, "batch": 4, "channels": 4, "latent": 8, "tick_kimg": 0.016, "snap_kimg": 0.016}


def test_a_linear_map_is_explained_and_noise_is_not():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((400, 40))
    joints = features @ rng.standard_normal((40, 26))
    seen = np.ones(400, bool)
    assert limbs.explained(features, seen, joints) > 0.99
    assert limbs.explained(features, seen, rng.standard_normal((400, 26))) < 0.05
    half = limbs.explained(features, seen, joints + rng.standard_normal((400, 26)) * joints.std())
    assert 0.3 < half < 0.6  # half of the variance is noise; only 280 latents to fit 26 x 40 weights


def test_only_images_with_a_person_count_and_few_give_none():
    rng = np.random.default_rng(1)
    features = rng.standard_normal((300, 10))
    joints = features @ rng.standard_normal((10, 26))
    seen = np.arange(300) % 2 == 0
    joints[~seen] = 1e6
    assert limbs.explained(features, seen, joints) > 0.99
    assert limbs.explained(features, np.arange(300) < 49, joints) is None


def test_numbers_that_never_vary_do_not_hurt():
    assert (
        limbs.explained(np.zeros((100, 5)), np.ones(100, bool), np.random.default_rng(2).normal(size=(100, 26))) < 0.1
    )


def test_the_switch_compares_rates_and_spreads():
    rng = np.random.default_rng(3)
    on = np.ones(200, bool), rng.standard_normal((200, 26))
    off = np.arange(200) < 100, on[1] * 0.25
    found = limbs.switch(on, off)
    assert found["person_rate_ratio"] == 0.5
    assert found["pose_spread_ratio"] == pytest.approx(0.25, rel=0.1)
    nobody = limbs.switch(on, (np.zeros(200, bool), on[1]))
    assert (nobody["person_rate_ratio"], nobody["pose_spread_off"], nobody["pose_spread_ratio"]) == (0, None, 1)


def test_an_exchange_tells_whose_pose_is_shown():
    rng = np.random.default_rng(4)
    everyone = np.ones(200, bool)
    joints = rng.standard_normal((200, 26))
    own = everyone, joints + 5  # a different mean pose has no effect
    half = everyone, joints + rng.standard_normal((200, 26))
    donors = np.arange(200) < 100, np.roll(joints, 1, axis=0)
    found = limbs.exchange(own, own, half, donors)
    assert (found["person_rate_own"], found["person_rate_mean"], found["person_rate_other"]) == (1, 1, 0.5)
    assert found["own_moved"] == found["donor_other"] == 1
    assert found["own_mean"] == pytest.approx(0.5**0.5, abs=0.03)
    assert abs(found["own_other"]) < 0.05
    assert limbs.correlation(own, (np.arange(200) < 49, joints)) is None


class Pose:
    """A stand-in for BlazePose: every image has a person, whose joints are the means of image regions."""

    def __call__(self, images: torch.Tensor, taps: tuple[str, ...]) -> dict[str, torch.Tensor]:
        means = torch.nn.functional.adaptive_avg_pool2d(images.float(), (6, 11)).mean(dim=1).flatten(1) / 255
        return {POSE: torch.cat([torch.ones(len(images), 1), means], dim=1)}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    with zipfile.ZipFile(folder / "dots.zip", "w") as archive:
        for i in range(16):
            pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            with archive.open(f"img{i}.png", "w") as file:
                Image.fromarray(pixels).save(file, "png")
    threads = torch.get_num_threads()
    for mtm in ("none", "8"):
        train.train(folder / mtm, folder / "dots.zip", mtm=mtm, keep_kimg="0.016", **TINY)
    torch.set_num_threads(threads)
    return folder


def test_a_run_is_looked_at_as_a_whole(runs, monkeypatch):
    monkeypatch.setattr(limbs, "NIMG", 200)
    kept = {0.016: runs / "8" / KEPT.format(kimg=0.016), 0.032: runs / "8" / "final.pt"}
    found = limbs.look(runs / "8" / "final.pt", runs / "none" / "final.pt", kept, Pose())
    assert found["displacement"]["layers"] == ["convs.8"]
    assert found["displacement"]["n"] == 200
    assert found["displacement"]["r2_plain"] is not None
    sizes = [one["layers"]["convs.8"] for one in found["offset_rms_px"]]
    assert 0 < sizes[0] < sizes[1]  # offsets start at exactly 0 and grow
    assert found["switch"]["person_rate_ratio"] == 1
    assert found["exchange"]["person_rate_other"] == 1
    assert -1 <= found["exchange"]["donor_other"] < 1


def test_the_plain_networks_features_are_as_many_as_the_inputs_and_the_latents_the_same(runs, monkeypatch):
    monkeypatch.setattr(limbs, "NIMG", 100)
    made = {}
    for name in ("8", "none"):
        with limbs.open_snapshot(runs / name / "final.pt") as snapshot:
            made[name] = limbs.drawn(limbs.local(snapshot), {8})
    assert made["8"][1].shape == (100, 18 * 8 * 8)
    assert made["none"][1].shape == (100, 0)
    assert made["8"][2].shape == made["none"][2].shape == (100, 8 * 8 * 8)
    with limbs.open_snapshot(runs / "8" / "final.pt") as snapshot:
        assert torch.equal(limbs.drawn(limbs.local(snapshot), {8})[0], made["8"][0])


def test_offsets_can_be_exchanged_and_ones_own_change_nothing(runs, monkeypatch):
    monkeypatch.setattr(limbs, "NIMG", 200)
    with limbs.open_snapshot(runs / "8" / "final.pt") as snapshot:
        network = limbs.local(snapshot)
        images, offsets, _ = limbs.drawn(network, {8})
        assert torch.equal(limbs.redrawn(network, {8}, offsets), images)
        others = limbs.redrawn(network, {8}, 100 * np.roll(offsets, 1, axis=0))
        assert not torch.equal(others, images)
        assert torch.equal(limbs.drawn(network, {8})[0], images)  # no exchange remains in effect


def test_a_plain_run_is_refused(runs):
    with pytest.raises(UserError, match="must have MTM layers"):
        limbs.look(runs / "none" / "final.pt", None, {}, Pose())


def test_a_sweep_has_a_strip_for_each_strength(runs):
    sheet = show.sweep(runs / "8" / "final.pt")
    cell = (sheet.height - 2) // (len(show.STRENGTHS) * show.WAYS)
    assert sheet.width == LABEL_PX + cell * show.STEPS + 2


def test_an_animation_comes_back_and_differs_by_strength(runs, tmp_path):
    written = show.write_all(tmp_path, runs / "8" / "final.pt", None, None)
    assert [path.name for path in written] == ["sweep.png", "film.webp"]
    with Image.open(tmp_path / "film.webp") as film:
        assert film.n_frames == show.FRAMES
    ends = show.between(torch.ones(3), -torch.ones(3) * 2, 5)
    torch.testing.assert_close(ends[[0, -1]], torch.stack([torch.ones(3), -torch.ones(3) * 2]))


def test_plain_low_and_off_stand_below_each_other(runs):
    sheet = show.side_by_side(runs / "8" / "final.pt", runs / "none" / "final.pt", runs / "dots.zip")
    side = (sheet.height - 2) // len(show.ROWS)
    assert sheet.width == LABEL_PX + side * show.SHOWN_NIMG + 2
