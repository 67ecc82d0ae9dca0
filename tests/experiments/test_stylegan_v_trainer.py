"""StyleGAN-V's adapter: the command line that it writes."""

from test_stylesv_trainer import words
from test_trainers import make_run

from experiments.trainers import TRAINERS

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
