"""The adapter of StyleGAN-V: what it types, that the command trains, and how it goes on."""

import numpy as np
import pytest
import torch
from repository_lab import Repository
from test_stylesv_trainer import words
from test_trainers import make_run

from experiments.datasets.zips import write_clips
from experiments.trainers import TRAINERS
from experiments.trainers.official import kimg_of, starts

V = TRAINERS["stylegan-v"]
TINY = {"resolution": 128, "batch": 1, "workers": 1, "snap": 1, "fp32": True, "mirror": False, "threads": 1}
TINY |= {"aug": "noaug", "model.generator.fmaps": 0.0078125, "model.discriminator.fmaps": 0.0078125}
TINY |= {f"model.{network}.channel_max": 8 for network in ("generator", "discriminator")}


def test_what_it_types(tmp_path):
    step = V.train_step(make_run(tmp_path, "stylegan-v", mtm="low,mid", **TINY))
    said = words(step)
    assert step.argv[:2] == ["python", "src/infra/launch.py"]
    assert (step.cwd, step.env) == ("vendor/stylegan-v", {"OMP_NUM_THREADS": "1"})
    expected = {"mtm": "[low,mid]", "training.kimg": "10", "training.seed": "3", "training.metrics": "[]"}
    expected |= {"dataset.resolution": "128", "++model.generator.fmaps": "0.0078125", "num_gpus": "1"}
    expected |= {"training.aug": "noaug", "training.target": "null", "training.augpipe": "null"}
    expected |= {"project_release_dir": f"{tmp_path}/train/00000-stylegan-v", "++dataset.path": f"{tmp_path}/d.zip"}
    assert expected.items() <= said.items()
    adaptive = words(V.train_step(make_run(tmp_path, "stylegan-v")))
    assert adaptive.keys().isdisjoint({"training.target", "training.augpipe"})


def test_metrics_of_the_host_are_asked_of_its_own_script(tmp_path):
    run = make_run(tmp_path, "stylegan-v", **TINY)
    step = next(V.metric_steps(run, "a.pkl", ["fvd2048_16f", "fvd2048_128f", "fid50k_full"]))
    assert step.argv[1:3] == ["src/scripts/calc_metrics.py", "--network_pkl=a.pkl"]
    assert "--metrics=fvd2048_16f,fvd2048_128f,fid50k_full" in step.argv


@pytest.mark.slow
def test_the_command_trains_and_goes_on_exactly(tmp_path):
    repository = Repository(tmp_path / "copy")
    repository.patch("stylegan-v")
    run = make_run(tmp_path, "stylegan-v", **TINY, **{"sampling.max_dist": 4})
    random = np.random.default_rng(0)
    write_clips(run.data, [random.integers(0, 256, (10, 128, 128, 3), np.uint8) for _ in range(3)], 128)
    log = tmp_path / "log.txt"
    repository.run_until(V.train_step(run), lambda: any(run.train.glob("*/output/training-state-*.pt")), log)
    assert [path.name for path in starts(run)] == ["00000-stylegan-v"]
    snapshot = V.snapshot(run)
    assert kimg_of(snapshot) == 0
    state = torch.load(snapshot.with_name("training-state-000000.pt"), weights_only=True)
    assert (state["counters"]["cur_nimg"], state["options"]["G_kwargs"]["synthesis_kwargs"]["mtm"]) == (3, "low")
    assert [round(1000 * tick.kimg) for tick in V.ticks(run, [])] == [3]
    assert V.facts(run)["generator_parameters"] > 1e6

    again = V.train_step(run)
    assert words(again)["training.resume"] == str(snapshot)
    repository.run_until(again, lambda: "Training for " in log.read_text(), log)
    assert f"Resume: exactly as {snapshot} was, from kimg 0.003" in log.read_text()
    assert [path.name for path in starts(run)] == ["00000-stylegan-v", "00001-stylegan-v"]
