"""Stand-ins for the pretrained networks: one for every file of the table, reproducible, and recognised as stand-ins."""

import pickle

import pytest
import torch
from click.testing import CliRunner

from experiments.files import UserError
from experiments.metrics import GROUPS, METRICS
from experiments.metrics.extractors import MODULES, extractor_class
from experiments.stand_ins import WRITERS, main, make_stand_ins
from experiments.weights import WEIGHTS, locate

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.load. is deprecated:DeprecationWarning")


def test_every_entry_of_the_table_has_one_and_is_known_as_such(weights):
    assert set(WRITERS) == set(WEIGHTS)
    assert all(located.stand_in for located in locate(list(WEIGHTS), weights).values())


def test_they_are_the_same_at_each_making_and_the_random_stream_stays(weights, tmp_path):
    stream = torch.get_rng_state()
    make_stand_ins(tmp_path, ["clip-vit-b-32", "i3d-kinetics-400"], small=True)
    assert torch.equal(torch.get_rng_state(), stream)
    for name in ("clip-vit-b-32", "i3d-kinetics-400"):
        states = [torch.jit.load(folder / WEIGHTS[name].file).state_dict() for folder in (weights, tmp_path)]
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_the_official_codebases_detectors_are_called_as_theirs(weights):
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with (weights / WEIGHTS["inception-nvidia"].file).open("rb") as file:
        pickled = pickle.load(file)
    scripted = torch.jit.load(weights / WEIGHTS["inception-nvidia-pt"].file)
    features = [detector(images, return_features=True) for detector in (pickled, scripted)]
    assert features[0].shape == (2, 2048)
    torch.testing.assert_close(*features)


def test_a_file_that_is_no_stand_in_is_left(tmp_path):
    path = tmp_path / WEIGHTS["clip-vit-b-32"].file
    path.write_text("mine")
    with pytest.raises(UserError, match="exists and is not a stand-in, so it was not replaced"):
        make_stand_ins(tmp_path, ["clip-vit-b-32"], small=True)
    assert path.read_text() == "mine"


def test_the_command_line_says_what_they_are(tmp_path):
    result = CliRunner().invoke(main, [str(tmp_path), "--small", "--only", "i3d-kinetics-400"])
    assert result.exit_code == 0, result.output
    assert "say nothing about the images" in result.output
    result = CliRunner().invoke(main, [str(tmp_path), "--only", "vgg"])
    assert "must be one of inception-2015-12-05" in result.output


def test_the_table_of_weights_names_the_metrics_that_use_them():
    for name, metric in METRICS.items():
        if metric.features:
            assert metric.features.tap in extractor_class(metric.features.backbone).taps
            named = next((group for group, names in GROUPS.items() if name in names), name)
            assert named in WEIGHTS[metric.features.backbone].used_by
    assert set(MODULES) <= set(WEIGHTS)
