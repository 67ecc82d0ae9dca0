"""Every row of the paper's tables, in every preset: the host's own command line accepts its options."""

import json
from pathlib import Path

import forked
import pytest
from lab import Checkout
from PIL import Image

from experiments.paper_tables import ALL, load_paper
from experiments.trainers import TRAINERS
from experiments.trainers.contract import Run

pytestmark = pytest.mark.slow
PRESETS = ("full", "small", "smoke")

# Runs train.py's command with --dry-run for each line of words on stdin. The host checks the options, our inserted
# line builds the generator to see whether it has the layers, and nothing is written.
CLICK = """
import contextlib, io, json, sys
sys.path.insert(0, ".")
import train
for line in sys.stdin:
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            train.main.main(args=[*json.loads(line), "--dry-run"], standalone_mode=False)
        answer = "ok" if "Dry run" in said.getvalue() else said.getvalue()[-800:]
    except BaseException as error:
        answer = f"{type(error).__name__}: {getattr(error, 'message', error)}"
    print(json.dumps(answer), flush=True)
"""

# Does what launch.py does with its words: Hydra composes the configuration and rejects unknown keys.
HYDRA = """
import sys, json, os
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
for line in sys.stdin:
    words = [word for word in json.loads(line) if not word.startswith("hydra")]
    try:
        with initialize_config_dir(config_dir=os.path.abspath("configs"), version_base="1.1"):
            config = compose("config.yaml", overrides=words)
        answer = {word: str(OmegaConf.select(config, word.lstrip("+").partition("=")[0])) for word in words}
    except BaseException as error:
        answer = f"{type(error).__name__}: {error}"
    print(json.dumps(answer), flush=True)
"""


def rows_of(trainer: str, data: Path) -> dict[str, list[str]]:
    """The words of every training command for that trainer, without repeats, by preset and row."""
    found: dict[str, list[str]] = {}
    for preset in PRESETS:
        table = load_paper(ALL, preset)
        for row in table.rows:
            if row.trainer != trainer:
                continue
            px = 128 if row.dataset.endswith("128") or trainer != "stylegan3" else 256
            run = Run(
                table=ALL,
                preset=preset,
                row=row.id,
                title=row.title,
                trainer=trainer,
                mtm=row.mtm,
                seed=0,
                options=row.options,
                dataset=row.dataset,
                metrics=row.metrics,
                samples_nimg=8,
                folder=data / "run",
                data=data / (str(px) if preset == "full" else "64" if trainer == "stylegan3" else "128"),
            )
            words = TRAINERS[trainer].train_step(run).argv[2:]
            if words not in found.values():
                found[f"{preset} {row.id}"] = words
    return found


def ask(checkout: Checkout, script: str, asked: dict[str, list[str]], folder: Path) -> dict[str, object]:
    """The script's answer to each list of words, all in one process."""
    file = folder / "ask.py"
    file.write_text(script)
    lines = "".join(json.dumps(words) + "\n" for words in asked.values())
    done = forked.run(str(file), cwd=checkout.code, env=checkout.env(), input=lines, timeout=500)
    answers = [json.loads(line) for line in done.stdout.splitlines() if line[:1] in '"{']
    assert len(answers) == len(asked), done.stdout[-2000:] + done.stderr[-2000:]
    return dict(zip(asked, answers, strict=True))


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """A folder with two images for each resolution, and a camera for each image."""
    folder = tmp_path_factory.mktemp("images")
    for px in (64, 128, 256):
        (folder / str(px)).mkdir()
        names = [f"img{i:08d}.png" for i in range(2)]
        for name in names:
            Image.new("RGB", (px, px)).save(folder / str(px) / name)
        labels = [[name, [0.5] * 25] for name in names]
        (folder / str(px) / "dataset.json").write_text(json.dumps({"labels": labels}))
    return folder


@pytest.mark.parametrize("trainer", ["stylegan3", "eg3d"])
def test_train_py_takes_every_row(trainer, request, images, tmp_path):
    checkout = request.getfixturevalue(trainer)["patched"]
    asked = rows_of(trainer, images)
    answers = ask(checkout, CLICK, asked, tmp_path)
    assert {name: answer for name, answer in answers.items() if answer != "ok"} == {}
    assert len(answers) >= {"stylegan3": 20, "eg3d": 6}[trainer]
    wrong = next(iter(asked.values()))
    (answer,) = ask(checkout, CLICK, {"wrong": [*wrong, "--gama=1"]}, tmp_path).values()
    assert answer.startswith("NoSuchOption")


@pytest.mark.parametrize("trainer", ["stylegan-v", "stylesv"])
def test_hydra_takes_every_row(trainer, request, images, tmp_path):
    checkout = request.getfixturevalue(trainer.replace("-", "_"))["patched"]
    asked = rows_of(trainer, images)
    answers = ask(checkout, HYDRA, asked, tmp_path)
    refused = {name: answer for name, answer in answers.items() if isinstance(answer, str)}
    assert refused == {}
    assert len(answers) >= {"stylegan-v": 4, "stylesv": 8}[trainer]
    for name, values in answers.items():
        assert values["mtm=low" if "mtm" in name else "mtm=none"] in ("low", "none")
    wrong = next(iter(asked.values()))
    (answer,) = ask(checkout, HYDRA, {"wrong": [*wrong, "training.gama=1"]}, tmp_path).values()
    assert "gama" in str(answer)
