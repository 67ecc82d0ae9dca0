"""python -m experiments.metrics on a snapshot with MTM of each official codebase, with stand-in weights."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from experiments.metrics.__main__ import main
from experiments.stand_ins import make_stand_ins

BACKBONES = {"clip_fd": "clip-vit-b-32", "fvd16": "i3d-kinetics-400"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    make_stand_ins(folder, list(BACKBONES.values()), small=True)
    return folder


@pytest.mark.parametrize(
    ("host", "kind", "data", "metric", "labels"),
    [
        ("stylegan3", "stylegan2", "images", "clip_fd", None),
        ("eg3d", "eg3d", "posed", "clip_fd", "drawn as the real data's"),
        ("stylegan_v", "motion", "clips", "fvd16", None),
        ("stylesv", "moving", "clips", "fvd16", None),
    ],
)
def test_a_snapshot_is_measured(host, kind, data, metric, labels, weights, request, tmp_path, monkeypatch):
    monkeypatch.setenv("MTM_CACHE", str(tmp_path / "cache"))
    snapshot, real = tmp_path / "network.pkl", Path(request.getfixturevalue(data))
    request.getfixturevalue(host)["patched"].probe("snapshot", path=str(snapshot), kind=kind, head="offset")
    words = [metric, str(real), str(snapshot), "--nimg=4", "--nclips=2", f"--weights={weights}", "--json", "--quiet"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    fingerprint = json.loads(result.stdout)[metric]["fingerprint"]
    assert json.loads(result.stdout)[metric]["value"] > 0
    assert fingerprint["weights"] == "stand-in"
    assert fingerprint.get("generated_nimg", 2 * fingerprint.get("generated_nclip", 0)) == 4
    assert fingerprint.get("labels") == labels
