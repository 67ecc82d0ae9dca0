"""CLIP-FD, sFID and FD-DINOv2 in the hosts' own training and calc_metrics.py, with stand-in weights; random streams."""

import json
import math
import sys
from pathlib import Path

import eg3d_lab
import numpy as np
import pytest
import stylegan3_lab
import stylegan_v_lab
import stylesv_lab
import torch
from lab import PKL, ROOT, STATE, assert_same_training

from experiments import stand_ins
from experiments.metrics import METRICS
from experiments.metrics.extractors import build_extractor
from experiments.metrics.moments import load_moments
from experiments.metrics.sources import ImageFiles
from experiments.weights import locate
from mtm_hosts import metrics, more_metrics
from mtm_hosts.hosts import HOSTS

BACKBONES = [backbone for backbone, _ in more_metrics.FEATURES.values()]
NAMES = tuple(more_metrics.FEATURES)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    stand_ins.make_stand_ins(folder, BACKBONES, small=True)
    return folder


@pytest.fixture(scope="module")
def other_weights(tmp_path_factory):
    """CLIP's only, drawn from another seed."""
    folder = tmp_path_factory.mktemp("other-weights")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stand_ins, "SEED", 1)
        stand_ins.make_stand_ins(folder, ["clip-vit-b-32"], small=True)
    return folder


@pytest.fixture
def env(weights, tmp_path):
    """In which a host takes few images, and keeps statistics in the test's own folder."""
    paths = f"{ROOT}:{Path(__file__).parent}"
    kept = {"DNNLIB_CACHE_DIR": str(tmp_path / "cache"), "MTM_WEIGHTS": str(weights)}
    return {**kept, "MTM_METRICS": "lab_metrics", "PYTHONPATH": paths}


def train(host, checkout, data, folder, names, env):
    """The folder of a training of two iterations, with the metrics `names` after each."""
    part = {"iterations": 2, "tick": 1}
    if host == "stylesv":
        part |= {"words": stylesv_lab.options(1, data, folder), "metrics": names}
    elif host == "stylegan-v":
        part |= {"arguments": stylegan_v_lab.arguments(data, folder, f"training.metrics=[{names}]")}
        part |= {"image_snapshot_ticks": None}
    else:
        words = {"stylegan3": ("stylegan2",), "eg3d": ()}[host]
        lab = {"stylegan3": stylegan3_lab, "eg3d": eg3d_lab}[host]
        part |= {"arguments": lab.arguments(*words, data, folder, "--metrics", names or "none")}
    return Path(checkout.probe("with_environment", env=env, of="train_part", **part))


def calc_metrics(host, checkout, data, pkl, names, env):
    script = "src/scripts/calc_metrics.py" if HOSTS[host].package else "calc_metrics.py"
    done = checkout.run(script, "--network", str(pkl), "--data", str(data), "--metrics", names, **env)
    return done.stdout + done.stderr  # the hosts' Logger writes both to one


def lines(run, name):
    found = [json.loads(line) for line in (run / f"metric-{name}.jsonl").read_text().splitlines()]
    assert {line["snapshot_pkl"] for line in found} == {PKL}
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("host", "data", "real_nimg"),
    [("stylegan3", "pictures", 12), ("eg3d", "posed", 12), ("stylegan-v", "clips", 135), ("stylesv", "clips", 135)],
)
def test_ours_are_taken_in_training_which_they_leave_alone_and_by_calc_metrics(
    host, data, real_nimg, request, env, weights, tmp_path
):
    data, checkout = request.getfixturevalue(data), request.getfixturevalue(host.replace("-", "_"))["patched"]
    isolated = env | {"MTM_ISOLATE_METRICS": "1"}
    plain = train(host, checkout, data, tmp_path / "plain", "", isolated)
    measured = train(host, checkout, data, tmp_path / "measured", "clip_fd50k_full,draws", isolated)
    assert_same_training(checkout, plain, measured)

    said = calc_metrics(host, checkout, data, measured / PKL, "clip_fd50k_full", env)
    assert "clip_fd50k_full: CLIP ViT-B/32" in said
    assert "stand-in weights" in said
    assert "512 dimensions: the covariance is singular" in said
    *in_training, afterwards = lines(measured, "clip_fd50k_full")
    assert len(in_training) == len(lines(measured, "draws")) == 2
    facts = afterwards["fingerprint"]
    for line in (*in_training, afterwards):
        assert math.isfinite(line["results"]["clip_fd50k_full"])
        assert line["results"]["clip_fd50k_full"] > 0
        assert line["fingerprint"] == facts
    assert facts["weights_sha256"] == locate(["clip-vit-b-32"], weights)["clip-vit-b-32"].sha256
    assert (facts["weights"], facts["real_nimg"], facts["generated_nimg"], facts["ddof"]) == (
        *("stand-in", real_nimg, 8, 0),
    )
    assert "fingerprint" not in lines(measured, "draws")[0]
