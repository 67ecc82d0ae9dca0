"""A trainer (with a host of its own), a metric and a data set are each added with one module and one line."""

import json
from pathlib import Path

import pytest
from repository_lab import Repository

METRIC = """
from experiments.metrics.base import Images, Metric

def compute(real: Images, generated: Images):
    facts = real.facts | generated.facts | {"generated_nimg": generated.nimg}
    return abs(mean(real) - mean(generated)), {"brightness": "mean of 0..255"} | facts

def mean(images: Images) -> float:
    return float(sum(b.float().sum() for b in images.batches()) / sum(b.numel() for b in images.batches()))

METRIC = Metric("brightness", "Difference in brightness", compute)
"""

TRAINER = """
from experiments.trainers.contract import IMAGES, METRICS, Step
from experiments.trainers.official import Official

class Toy(Official):
    name = "toy"
    host = "toy"

    def train_argv(self, run, options):
        return ["python", "train.py", *[f"{k}={v}" for k, v in {"outdir": run.train.resolve(), **options}.items()]]

    def metric_steps(self, run, snapshot, missing):
        if missing:
            yield Step(name="metrics", argv=["python", "measure.py", snapshot, str(run.folder / METRICS)], cwd=self.cwd)

    def image_steps(self, run, snapshot):
        yield Step(name="images", argv=["python", "draw.py", snapshot, str(run.folder / IMAGES)], cwd=self.cwd)

TRAINER = Toy()
"""

# A "codebase" with the files of an official one: it counts to kimg and stops once in the middle.
TOY = {
    "train.py": '''
import json, os, pickle, sys
o = dict(word.split("=", 1) for word in sys.argv[1:])
os.makedirs(o["outdir"], exist_ok=True)
folder = os.path.join(o["outdir"], f"{len(os.listdir(o['outdir'])):05d}-toy")
os.makedirs(folder)
json.dump({"resume_pkl": o.get("resume")}, open(os.path.join(folder, "training_options.json"), "w"))
begun = pickle.load(open(o["resume"], "rb"))["kimg"] if "resume" in o else 0
for kimg in range(1, int(o["kimg"]) + 1):
    pickle.dump({"kimg": begun + kimg}, open(os.path.join(folder, f"network-snapshot-{kimg:06d}.pkl"), "wb"))
    stat = lambda x: {"num": 1, "mean": x, "std": 0}
    line = {"Progress/kimg": stat(kimg), "Timing/total_sec": stat(kimg), "Loss/G/loss": stat(1 / kimg)}
    open(os.path.join(folder, "stats.jsonl"), "a").write(json.dumps(line) + "\\n")
    if begun == 0 and kimg == 2:
        sys.exit("RuntimeError: the toy is broken")
''',
    "measure.py": '''
import json, os, pickle, sys
os.makedirs(sys.argv[2])
value = pickle.load(open(sys.argv[1], "rb"))["kimg"]
json.dump({"value": value, "fingerprint": {}}, open(os.path.join(sys.argv[2], "frechet.json"), "w"))
''',
    "draw.py": '''
import os, sys
from PIL import Image
os.makedirs(sys.argv[2])
Image.new("RGB", (8, 8)).save(os.path.join(sys.argv[2], "samples.png"))
''',
}  # fmt: skip

RECIPE = """
import zipfile, io
import click
from PIL import Image
from experiments.datasets.recipe import Recipe
from experiments.datasets.zips import describe

def make(source, file, count):
    with zipfile.ZipFile(file, "w") as archive:
        for i in range(count):
            buffer = io.BytesIO()
            Image.new("RGB", (8, 8), (i, 2 * i, 0)).save(buffer, "png")
            archive.writestr(f"00000/img{i:08d}.png", buffer.getvalue())
        archive.writestr("dataset.json", '{"labels": null}')
    return describe(file)

RECIPE = Recipe(name="ramps", title="Ramps.", make=make, obtain="Nothing to obtain.", licence="public domain",
                takes_source=False, options=(click.Option(["--count"], type=int, default=70),))
"""

TABLE = """
name = "new"
title = "New"
about = "For a test."
trainer = "{trainer}"
dataset = "ramps"
metrics = {metrics}
samples_nimg = 8

[datasets.ramps]
options = {{ count = 70 }}

[options]
{options}

[presets.full.cost]
hours = 0.1
machine = "2 CPU cores"
memory_gb = 1
disk_gb = 0.001

[[rows]]
id = "only"
title = "Only"
mtm = "none"
"""


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A copy with the data set added, which the tables below use."""
    repository = Repository(tmp_path / "copy")
    repository.add("experiments/datasets/ramps.py", RECIPE)
    repository.insert("experiments/datasets/__init__.py", '    "openmoji",', '    "ramps",')
    return repository


def run(repository: Repository, trainer: str, metrics: list[str], options: str, ok: bool = True) -> str:
    (repository.root / "new.toml").write_text(TABLE.format(trainer=trainer, metrics=metrics, options=options))
    return repository.python("-m", "experiments.run", "new.toml", "--out", "out", ok=ok)


def test_a_metric_and_a_data_set(repository):
    repository.add("experiments/metrics/brightness.py", METRIC)
    repository.insert("experiments/metrics/__init__.py", '    "random_frechet",', '    "brightness",')
    small = "kimg = 0.024\nbatch = 8\nchannels = 4\nlatent = 8\n"
    output = run(repository, "mini", ["frechet", "brightness"], small)
    assert "Difference in brightness" in output
    (written,) = repository.root.glob("out/runs/only/*/metrics/brightness.json")
    assert json.loads(written.read_text())["value"] > 0
    assert "Difference in brightness" in (repository.root / "out/report.md").read_text()


def test_a_host(repository):
    repository.add("experiments/trainers/toy.py", TRAINER)
    repository.insert("experiments/trainers/__init__.py", '    "mini",', '    "toy",')
    facts = '\n[toy]\nurl = "https://example.org/toy"\ncommit = "{}"\nlicence = "none"\nvendor = "vendor/toy"\n'
    with (repository.root / "patches/upstreams.toml").open("a") as file:  # the overlay's entry of any host
        file.write(facts.format("0" * 40))
    for name, text in TOY.items():
        repository.add(f"vendor/toy/{name}", text)
    assert "train ended with exit code 1" in run(repository, "toy", ["frechet"], "kimg = 5", ok=False)
    output = run(repository, "toy", ["frechet"], "kimg = 5")
    assert "Only  done         Fréchet distance, random embedding 5.000, 5 kimg" in output
    (part,) = repository.root.glob("out/runs/only/*/train/00001-toy")
    assert len(list(part.glob("*.pkl"))) == 3
