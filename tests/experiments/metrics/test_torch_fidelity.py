"""All of torch-fidelity against ours on two folders: reading, resizing, network and metric."""

import json
import os
from pathlib import Path

import forked
import pytest
from click.testing import CliRunner
from metrics_lab import make_images

from experiments.metrics.__main__ import main
from experiments.weights import WEIGHTS

ROOT = Path(__file__).resolve().parents[3]
NIMG = 8
THEIRS = """
import json, pathlib, sys
from tools.bench_metrics import substitute_torchvision
substitute_torchvision()
import torch_fidelity
from torch_fidelity.datasets import ImagesPathDataset
real, fake = (ImagesPathDataset(sorted(map(str, pathlib.Path(folder).iterdir()))) for folder in sys.argv[1:3])
metrics = torch_fidelity.calculate_metrics(
    input1=fake, input2=real, kid=True, prc=True, kid_subsets=2, kid_subset_size=8, cuda=False, verbose=False,
    feature_extractor="inception-v3-compat", feature_extractor_weights_path=sys.argv[3], cache=False, save_cpu_ram=True,
)
print(json.dumps(metrics))
"""


@pytest.mark.slow
def test_kid_precision_and_recall_of_two_folders_are_torch_fidelitys(tmp_path, weights):
    real, fake = make_images(tmp_path / "real", NIMG, 0), make_images(tmp_path / "fake", NIMG, 1, dark=20)
    words = [str(real), str(fake), str(weights / WEIGHTS["inception-2015-12-05"].file)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = forked.run("-c", THEIRS, *words, env=env)
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout.splitlines()[-1])
    result = CliRunner().invoke(main, ["kid,pr", *words[:2], f"--weights={weights}", "--json", "--quiet"])
    assert result.exit_code == 0, result.output
    ours = {name: one["value"] for name, one in json.loads(result.stdout).items()}
    # Each subset holds all images, so no random choice is involved.
    assert ours["kid"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-3, abs=1e-6)
    assert (ours["precision"], ours["recall"]) == (theirs["precision"], theirs["recall"])
    assert ours["kid"] != 0
