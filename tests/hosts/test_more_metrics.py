"""CLIP-FD, sFID and FD-DINOv2 in the hosts' own training and calc_metrics.py, with stand-in weights.

The tests also check that metrics leave the training's random streams unchanged.
"""

import json
import math
import pickle
import random
import re
import sys
import types
from pathlib import Path

import eg3d_lab
import numpy as np
import pytest
import stylegan3_lab
import stylegan_v_lab
import stylesv_lab
import torch
from lab import PKL, ROOT, assert_same_training
from lab_metrics import Mean

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
    """CLIP's stand-in weights only, drawn with another seed."""
    folder = tmp_path_factory.mktemp("other-weights")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stand_ins, "SEED", 1)
        stand_ins.make_stand_ins(folder, ["clip-vit-b-32"], small=True)
    return folder


@pytest.fixture
def env(weights, tmp_path):
    """Environment in which a host uses few images and keeps its statistics in the test's own folder."""
    paths = f"{ROOT}:{Path(__file__).parent}"
    kept = {"DNNLIB_CACHE_DIR": str(tmp_path / "cache"), "MTM_WEIGHTS": str(weights)}
    return {**kept, "MTM_METRICS": "lab_metrics", "PYTHONPATH": paths}


def train(host, checkout, data, folder, names, env, iterations=1):
    """The folder of a training that computes the metrics `names` after each iteration."""
    part = {"iterations": iterations, "tick": 1}
    if host == "stylesv":
        part |= {"words": stylesv_lab.options(1, data, folder), "metrics": names}
    elif host == "stylegan-v":
        part |= {"arguments": stylegan_v_lab.arguments(data, folder, f"training.metrics=[{names}]")}
        part |= {"image_snapshot_ticks": None}
    elif host == "eg3d":
        part |= {"arguments": eg3d_lab.arguments(data, folder, "--metrics", names)}
    else:
        part |= {"arguments": stylegan3_lab.arguments("stylegan2", data, folder, "--metrics", names or "none")}
    return Path(checkout.probe("with_environment", env=env, of="train_part", **part))


def calc_metrics(host, checkout, data, pkl, names, env):
    script = "src/scripts/calc_metrics.py" if HOSTS[host].package else "calc_metrics.py"
    done = checkout.run(script, "--network", str(pkl), "--data", str(data), "--metrics", names, **env)
    return done.stdout + done.stderr  # the hosts' Logger writes both to one stream


def lines(run, name):
    found = [json.loads(line) for line in (run / f"metric-{name}.jsonl").read_text().splitlines()]
    assert {line["snapshot_pkl"] for line in found} == {PKL}
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("host", "data", "real_nimg"),
    [("stylegan3", "images", 12), ("eg3d", "posed", 12), ("stylegan-v", "clips", 135), ("stylesv", "clips", 135)],
)
def test_ours_are_taken_in_training_and_by_calc_metrics(host, data, real_nimg, request, env, weights, tmp_path):
    data, checkout = request.getfixturevalue(data), request.getfixturevalue(host.replace("-", "_"))["patched"]
    run = train(host, checkout, data, tmp_path / "run", "clip_fd50k_full,draws", env)
    said = calc_metrics(host, checkout, data, run / PKL, "clip_fd50k_full", env)
    assert "clip_fd50k_full: CLIP ViT-B/32" in said
    assert "stand-in weights" in said
    assert "512 dimensions: the covariance is singular" in said

    in_training, afterwards = lines(run, "clip_fd50k_full")
    facts = afterwards["fingerprint"]
    for line in (in_training, afterwards):
        assert math.isfinite(line["results"]["clip_fd50k_full"])
        assert line["results"]["clip_fd50k_full"] > 0
        assert line["fingerprint"] == facts
    assert facts["weights_sha256"] == locate(["clip-vit-b-32"], weights)["clip-vit-b-32"].sha256
    counts = (facts["weights"], facts["real_nimg"], facts["generated_nimg"], facts["ddof"])
    assert counts == ("stand-in", real_nimg, 8, 0)
    assert ["fingerprint" in line for line in lines(run, "draws")] == [False]


@pytest.mark.slow
def test_metrics_leave_the_random_streams_of_a_training_alone_where_asked_to(stylegan3, images, env, tmp_path):
    checkout = stylegan3["patched"]

    def run(folder, names, isolate):
        where = env | {"MTM_ISOLATE_METRICS": isolate}
        return train("stylegan3", checkout, images, tmp_path / folder, names, where, iterations=2)

    plain, isolated, as_upstream = run("plain", "", ""), run("isolated", "draws", "1"), run("upstream", "draws", "0")
    assert_same_training(checkout, plain, isolated)
    first, last = checkout.probe("pickled", paths=[str(plain / PKL), str(as_upstream / PKL)])
    assert any(not torch.equal(first["G"][name], last["G"][name]) for name in first["G"])


@pytest.mark.parametrize("host", HOSTS)
def test_every_host_looks_its_metric_code_up_at_each_call(host):
    """This lets `register` replace the code in the module."""
    called = {
        path.name: set(re.findall(r"(\S*)(?:calc|report)_metric\(", path.read_text()))
        for path in (ROOT / "vendor" / host / HOSTS[host].code).rglob("*.py")
        if path.name in ("training_loop.py", "calc_metrics.py", "calc_metrics_for_dataset.py")
    }
    if not called:
        pytest.skip(f"vendor/{host} is not fetched")
    assert set().union(*called.values()) == {"metric_main."}
    assert {"training_loop.py", "calc_metrics.py"} <= set(called)


def test_random_streams_are_put_back_also_where_a_metric_fails():
    def calc_metric(device):
        random.random(), np.random.rand(), torch.randn(3)
        raise KeyError(device)

    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = [draw_all() for _ in range(2)]
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    found = [draw_all()]
    with pytest.raises(KeyError):
        metrics.isolated(calc_metric)(device=torch.device("cpu"))
    assert [*found, draw_all()] == expected


def draw_all():
    return random.random(), np.random.rand(), torch.randn([]).item()


def test_a_switch_that_is_neither_0_nor_1_is_refused(monkeypatch):
    host = types.ModuleType("host_of_the_test")
    exec("def report_metric(*a): ...\ndef calc_metric(*a): ...\ndef register_metric(f): return f", vars(host))
    monkeypatch.setitem(sys.modules, host.__name__, host)
    monkeypatch.setenv("MTM_ISOLATE_METRICS", "yes")
    with pytest.raises(SystemExit, match=r"MTM_ISOLATE_METRICS must be 0 or 1; got 'yes'\. Correct it"):
        metrics.register(host.register_metric)


@pytest.mark.parametrize("name", NAMES)
def test_the_names_are_those_of_experiments_with_the_same_features(name):
    metric = METRICS[name]
    assert metric.by_host
    assert (metric.features.backbone, metric.features.tap) == more_metrics.FEATURES[name]
    short = METRICS[name.replace("_50k_full", "").replace("50k_full", "")]
    assert short.features == metric.features


def test_cached_statistics_depend_on_the_weights(weights, other_weights, monkeypatch):
    facts = []
    for folder in (weights, other_weights, weights):
        monkeypatch.setenv("MTM_WEIGHTS", str(folder))
        facts.append(metrics.cache_facts(more_metrics.address("clip_fd50k_full")))
    assert facts[0] == facts[2] != facts[1]


def test_missing_weights_are_named_in_one_line_of_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("MTM_WEIGHTS", str(tmp_path))
    with pytest.raises(SystemExit, match=r"(?s)^Error: sfid50k_full: .*make weights WEIGHTS=.inception-2015-12-05"):
        metrics.cache_facts(more_metrics.address("sfid50k_full"))


def taken(checkout, env, data, calls, **options):
    """For each (name, folder of weights): the value from the host's calc_metric, or its error; cached statistics."""
    calls = [(name, str(folder)) for name, folder in calls]
    return checkout.probe("with_environment", env=env, of="our_metrics", data=str(data), calls=calls, **options)


@pytest.mark.slow
def test_statistics_of_the_data_are_those_of_experiments_and_are_cached_for_the_weights(
    stylegan3, images, env, weights, other_weights
):
    calls = [(name, weights) for name in (*NAMES, "clip_fd50k_full")] + [("clip_fd50k_full", other_weights)]
    found = taken(stylegan3["patched"], env, images, calls)
    values, cached = found["values"], [set(names) for names in found["cached"]]
    assert all(math.isfinite(value) and value > 0 for value in values)
    assert values[0] == values[3] != values[4]
    assert [len(names) for names in cached] == [1, 2, 3, 3, 4]

    folder = Path(env["DNNLIB_CACHE_DIR"], "gan-metrics")
    decoded = next(ImageFiles(images, "real").batches(12))
    for name in NAMES:
        (file,) = (folder / file for file in cached[2] if f"-{name}-" in file)
        backbone, tap = more_metrics.FEATURES[name]
        features = build_extractor(backbone, weights)(decoded, [tap])[tap].double().numpy()
        moments = load_moments(file, name)
        scale = abs(features).max()
        np.testing.assert_allclose(moments.mean, features.mean(axis=0), atol=1e-4 * scale)
        np.testing.assert_allclose(moments.covariance, np.cov(features.T, ddof=0), atol=1e-4 * scale**2)
        assert moments.n == 12


@pytest.mark.slow
def test_two_ranks_give_what_one_does(stylegan3, images, env, weights, tmp_path):
    """Both ranks draw the same latents here, so each generated image counts twice."""
    checkout, calls = stylegan3["patched"], [("clip_fd50k_full", str(weights))]
    one = taken(checkout, env, images, calls, generated=4)["values"][0]
    arguments = {"env": {}, "of": "our_metrics", "data": str(images), "calls": calls, "generated": 8}
    probe = checkout.command("with_environment", tmp_path / "rankRANK.pt", arguments)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python")
    two = env | {"DNNLIB_CACHE_DIR": str(tmp_path / "cache-of-two")}
    said = checkout.run(*launcher, sys.executable, *probe, **two)
    ranks = [torch.load(tmp_path / f"rank{r}.pt")["values"][0] for r in (0, 1)]
    assert ranks[0] == ranks[1] == pytest.approx(one, rel=1e-4)
    assert (said.stdout + said.stderr).count("12 real and 8 generated images") == 1


@pytest.mark.parametrize(
    ("package", "complaint"),
    [
        ("torch_fidelity", "metrics: torch-fidelity must be installed; got none. Run: make setup, or in your "),
        ("pydantic", "the packages of experiments.metrics must be installed; got: import of pydantic halted; None in "
         "sys.modules. Run: pip install pydantic, or use the codebase's own metrics"),
    ],
)  # fmt: skip
def test_without_their_packages_ours_say_what_is_missing_and_theirs_are_taken(
    package, complaint, stylegan3, images, env, weights, tmp_path
):
    (tmp_path / "inception-2015-12-05.pkl").write_bytes(pickle.dumps(Mean()))
    calls = [("clip_fd50k_full", weights), ("fid_few", weights)]
    env |= {"MTM_DETECTORS": str(tmp_path)}
    ours, theirs = taken(stylegan3["patched"], env, images, calls, missing=[package])["values"]
    assert ours.startswith(f"Error: clip_fd50k_full: {complaint}")
    assert theirs > 0
