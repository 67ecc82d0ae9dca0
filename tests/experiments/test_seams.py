"""Adding a trainer (with its own host), a metric or a data set takes one module and one line.

The metric, the data set and the table are the examples of docs/recipes.md.
"""

import json
import re
from pathlib import Path

import pytest
from documents import block
from repository_lab import Repository

METRIC, RECIPE = (block("docs/recipes.md", f"Add a {what}", "python") for what in ("metric", "data set"))
TABLE = block("docs/recipes.md", "Add a table", "toml")

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

# A "codebase" with an official one's files. It counts to kimg and stops once in the middle.
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


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A copy with the data set added that the tables below use."""
    repository = Repository(tmp_path / "copy")
    repository.add("experiments/datasets/ramps.py", RECIPE)
    repository.insert("experiments/datasets/__init__.py", '    "openmoji",', '    "ramps",')
    return repository


def run(repository: Repository, ok: bool = True, **changes: str) -> str:
    """Run the documentation's table with the values of some keys changed."""
    table = TABLE
    for key, value in changes.items():
        table, count = re.subn(rf"^{key} = .*$", f"{key} = {value}", table, flags=re.MULTILINE)
        assert count == 1, key
    (repository.root / "new.toml").write_text(table)
    return repository.python("-m", "experiments.run", "new.toml", "--out", "out", ok=ok)


def test_a_metric_a_data_set_and_a_table(repository):
    repository.add("experiments/metrics/brightness.py", METRIC)
    repository.insert("experiments/metrics/__init__.py", '    "random_frechet",', '    "brightness",')
    assert "Difference in brightness" in run(repository)
    (written,) = repository.root.glob("out/runs/only/*/metrics/brightness.json")
    assert json.loads(written.read_text())["value"] > 0
    assert "Difference in brightness" in (repository.root / "out/report.md").read_text()


def test_a_host(repository):
    repository.add("experiments/trainers/toy.py", TRAINER)
    repository.insert("experiments/trainers/__init__.py", '    "mini",', '    "toy",')
    facts = '\n[toy]\nurl = "https://example.org/toy"\ncommit = "{}"\nlicence = "none"\nvendor = "vendor/toy"\n'
    with (repository.root / "patches/upstreams.toml").open("a") as file:  # the overlay needs an entry for any host
        file.write(facts.format("0" * 40))
    for name, text in TOY.items():
        repository.add(f"vendor/toy/{name}", text)
    changes = {"trainer": '"toy"', "metrics": '["frechet"]', "kimg": "5"}
    assert "train ended with exit code 1" in run(repository, **changes, ok=False)
    output = run(repository, **changes)
    assert "Only  done         Fréchet distance, random embedding 5.000, 5 kimg" in output
    (part,) = repository.root.glob("out/runs/only/*/train/00001-toy")
    assert len(list(part.glob("*.pkl"))) == 3
