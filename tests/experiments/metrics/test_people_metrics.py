"""The people metrics: arithmetic on known numbers, the whole path with stand-ins, and what real weights recognise.

The last part runs only if the weights folder holds the real weights.
"""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from metrics_lab import make_images

from experiments.files import UserError
from experiments.metrics import METRICS
from experiments.metrics.__main__ import main
from experiments.metrics.base import How
from experiments.metrics.blazepose import JOINTS, BlazePose
from experiments.metrics.features import FeatureStats
from experiments.metrics.joints import normalised, sliced_wasserstein
from experiments.metrics.mobilenet import MobileNetV2
from experiments.metrics.moments import Moments
from experiments.weights import ROOT, WEIGHTS, check_readers, examine

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.load. is deprecated:DeprecationWarning")
NAMES = "person_rate,joint_distance,frechet_mobilenet"


def stats(presence: list[float], places: np.ndarray) -> FeatureStats:
    """BlazePose features of figures whose 33 landmarks are `places` [N, 33, 2]."""
    made = FeatureStats(67, keep=True)
    made.append(np.concatenate([np.array(presence)[:, None], places.reshape(len(places), -1)], axis=1))
    return made


def figures(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 1, (count, 33, 2))


def test_the_person_rate_counts_from_a_half_on():
    found = METRICS["person_rate"].compare(
        stats([1.0, 1.0], figures(2)), stats([0.2, 0.5, 0.9, 0.49], figures(4)), How()
    )
    assert found == (0.5, {"presence": 0.5, "real_rate": 1.0})


def test_place_and_size_of_a_figure_do_not_matter_and_its_turn_does():
    real = figures(50)
    compare = METRICS["joint_distance"].compare
    moved = stats([1.0] * 50, real * 0.5 + [0.3, 0.1])
    assert compare(stats([1.0] * 50, real), moved, How())[0] == pytest.approx(0, abs=1e-3)
    turned = stats([1.0] * 50, real[:, :, ::-1] * [1, -1])
    assert compare(stats([1.0] * 50, real), turned, How())[0] > 5


def test_landmarks_that_are_no_joints_do_not_matter():
    real, other = figures(20), figures(20)
    rest = [i for i in range(33) if i not in JOINTS.values()]
    other[:, rest] = 0.7
    assert METRICS["joint_distance"].compare(stats([1.0] * 20, real), stats([0.0] * 20, other), How())[0] == 0


def test_normalised_figures_have_unit_size_also_where_all_joints_meet():
    joints = normalised(np.random.default_rng(1).uniform(0, 1, (7, 13, 2))).reshape(7, 13, 2)
    np.testing.assert_allclose(joints.mean(axis=1), 0, atol=1e-12)
    np.testing.assert_allclose(np.square(joints).sum(axis=2).mean(axis=1), 1)
    assert np.isfinite(normalised(np.full((1, 13, 2), 0.5))).all()


def test_sliced_wasserstein_of_a_shift_is_its_mean_projection():
    x = np.random.default_rng(2).standard_normal((300, 2))
    value, count = sliced_wasserstein(x, x + np.array([3.0, 0.0]), seed=0, projections=20_000)
    assert count == 300
    assert value == pytest.approx(3 * 2 / np.pi, rel=0.02)  # the mean of |cos| is 2 / pi


def test_sliced_wasserstein_takes_equal_numbers_and_is_the_same_for_a_seed():
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((500, 26)), rng.standard_normal((200, 26))
    assert sliced_wasserstein(x, y, 5) == sliced_wasserstein(x, y, 5)
    assert sliced_wasserstein(x, y, 5)[1] == 200
    assert sliced_wasserstein(x, y, 5)[0] != sliced_wasserstein(x, y, 6)[0]


@pytest.mark.parametrize("name", ["person_rate", "joint_distance"])
def test_moments_are_not_enough(name):
    with pytest.raises(UserError, match=f"{name}: must have the images"):
        METRICS[name].compare(Moments(np.zeros(67), np.eye(67)), Moments(np.zeros(67), np.eye(67)), How())


def test_mobilenet_has_the_parameters_that_its_authors_count():
    with torch.device("meta"):
        assert sum(p.numel() for p in MobileNetV2().parameters()) == 3_504_872


def test_the_command_line_measures_images_with_stand_ins_and_says_so(weights, tmp_path):
    real, fake = make_images(tmp_path / "real", 12, seed=1), make_images(tmp_path / "fake", 12, seed=2)
    words = [NAMES, str(real), str(fake), "--weights", str(weights), "--json", "--quiet"]
    done = CliRunner().invoke(main, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert {one["fingerprint"]["weights"] for one in found.values()} == {"stand-in"}
    assert 0 <= found["person_rate"]["value"] <= 1
    assert found["joint_distance"]["value"] > 0
    assert found["joint_distance"]["fingerprint"]["nimg_of_each"] == 12


def test_a_missing_reader_is_named_before_anything_trains(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="ai-edge-litert is not"):
        check_readers(["mobilenet-v2", "blazepose-full"])
    check_readers(["mobilenet-v2"])
    check_readers([])


def official(name: str) -> Path:
    state = examine(WEIGHTS[name], ROOT / "weights")
    if state.kind != "present":
        pytest.skip(f"the weights of {name} are not in weights/: make weights WEIGHTS={name}")
    return state.path


def test_torchvisions_weights_fit():
    state = torch.load(official("mobilenet-v2"), weights_only=True)
    MobileNetV2().load_state_dict(state)


def test_blazepose_sees_no_person_in_noise():
    pytest.importorskip("ai_edge_litert.interpreter")
    pose = BlazePose(official("blazepose-full"))
    found = pose(torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8), ("pose",))["pose"]
    assert found.shape == (4, 67)
    assert (found[:, 0] < 0.5).all()
