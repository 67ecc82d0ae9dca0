"""experiments.reproduce: the plan for a table, what is missing, and how Make's variables become options."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from repository_lab import Repository

from experiments import folder, needs, reproduce
from experiments.costs import run_cost, training_ratios
from experiments.data import Data
from experiments.datasets import RECIPES
from experiments.paper_tables import load_paper
from experiments.run import Call
from experiments.trainers import TRAINERS
from experiments.trainers.contract import ROOT


@pytest.fixture(autouse=True)
def _own_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MTM_WEIGHTS", str(tmp_path / "weights"))
    for name in ("MTM_NNODES", "MTM_RDZV"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(folder, "host_state", lambda name: {"name": name})  # otherwise git runs for each row


def call(tmp_path: Path, name: str, *more: str) -> Result:
    words = [name, "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "data"), *more]
    return CliRunner().invoke(reproduce.main, words)


def files_below(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*")}


def test_a_dry_run_of_all_is_the_whole_plan_and_writes_nothing(tmp_path: Path) -> None:
    before = files_below(tmp_path)
    result = call(tmp_path, "all", "--dry-run")
    assert result.exit_code == 0, result.output
    assert files_below(tmp_path) == before
    rows = re.findall(r"^# row (\S+)/0:", result.output, re.MULTILINE)
    assert rows == [row.id for row in load_paper("all").rows]
    assert len(rows) == 29
    assert len(re.findall(r"(?:train|launch)\.py .*kimg=\d+", result.output)) == 29
    assert len(re.findall(r"^# cost: [\d,]+ (?:A100|V100)-hours", result.output, re.MULTILINE)) == 29
    assert "Table 3b: TaiChi-256: MoCoGAN-HD, DIGAN, TATS-base" in result.output
    assert "MTM counted as plain: its ratio has not been measured" in result.output
    assert re.search(r"^cost of 29 runs: [\d,]+ A100-hours and [\d,]+ V100-hours", result.output, re.MULTILINE)


def test_a_dry_run_lists_what_is_missing_with_the_command_that_gets_it(tmp_path: Path) -> None:
    output = call(tmp_path, "table1", "--dry-run").output
    listed = output[output.index("missing: ") :]
    for name in ("inception-2015-12-05", "clip-vit-b-32"):
        assert f'make weights WEIGHTS="{name}"' in listed
    for name in ("imagenet-128", "taichi-256", "lsun-church-256", "lsun-cat-256"):
        assert f"ln -s SOURCE {tmp_path}/data/{name}, then make reproduce-table1" in listed
        assert RECIPES[name].obtain in listed
    one = call(tmp_path, "table1b", "--dry-run").output
    assert "make reproduce-table1b DATA=taichi-256=SOURCE" in one
    assert "imagenet" not in one


def test_a_dry_run_says_that_given_data_is_not_there(tmp_path: Path) -> None:
    output = call(tmp_path, "table1b", "--dry-run", "--data", f"taichi-256={tmp_path}/nowhere").output
    assert "# cannot run yet: " in output[: output.index("missing: ")]
    listed = output[output.index("missing: ") :]
    assert f"{tmp_path}/nowhere" in listed
    assert "make reproduce-table1b DATA=taichi-256=SOURCE" in listed


def test_weights_of_metrics_that_a_training_takes_are_needed_too(tmp_path: Path) -> None:
    table = load_paper("table2")
    rows = [row.model_copy(update={"options": {**row.options, "metrics": "clip_fd50k_full"}}) for row in table.rows]
    one = Call(table, rows, tmp_path, Data(table, {}, tmp_path))
    assert {need.what.split()[1] for need in needs.needs(one, "x") if need.what.startswith("weights")} == {
        "inception-2015-12-05",
        "clip-vit-b-32",
    }


def test_a_dry_run_works_where_nothing_is_fetched(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    output = repository.python("-m", "experiments.reproduce", "all", "--out", "out", "--dry-run")
    for host in ("stylegan3", "eg3d", "stylegan-v", "stylesv"):
        assert f"vendor/{host} is not fetched.\n      make patch HOST={host}\n" in output
    assert "missing: 15\n" in output
    assert len(re.findall(r"(?:train|launch)\.py .*kimg=\d+", output)) == 29


def test_rendered_presets_lack_no_data(tmp_path: Path) -> None:
    smoke = call(tmp_path, "table3", "--preset", "smoke", "--dry-run").output
    assert "must come from you" not in smoke
    assert "experiments.stand_ins" in smoke
    assert "MTM_WEIGHTS=" in smoke
    assert "weights inception" not in smoke
    small = call(tmp_path, "table3", "--preset", "small", "--dry-run").output
    assert "must come from you" not in small
    assert "weights inception-2015-12-05 are missing" in small
    assert "Not run" in small


def test_nothing_starts_until_all_is_there_and_all_that_lacks_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = []
    monkeypatch.setattr(reproduce, "fetch", fetched.append)
    monkeypatch.setattr(needs, "host_state", lambda name: {"commit": None, "patches": {}})
    (tmp_path / "data").mkdir()
    (tmp_path / "data/lsun-cat-256").mkdir()
    result = call(tmp_path, "table1")
    assert result.exit_code == 1
    assert len(fetched) == 1
    for said in (
        "reproduce-table1: cannot run yet.",
        "vendor/stylegan3 is not fetched.",
        "make patch HOST=stylegan3",
        "missing: 6",
        "Rows whose data is there: ROW='cat-stylegan2 cat-stylegan2-mtm'",
    ):
        assert said in result.output
    assert not (tmp_path / "out").exists()


def test_what_can_be_had_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(needs.subprocess, "run", lambda words, **_: commands.append(words[1:]))
    states = {"commit": "c", "patches": {"compat": "h"}}
    monkeypatch.setattr(needs, "host_state", lambda name: states)
    table = load_paper("table2")
    needs.fetch(Call(table, table.rows, tmp_path, Data(table, {}, tmp_path)))
    apply, weights = commands
    assert apply == ["tools/apply_patches.py", "apply", "--host", "stylegan3", "--host", "eg3d"]
    assert weights == ["-m", "tools.weights", "inception-2015-12-05"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["table9"], "table must be one of all, table1, .*; got 'table9'"),
        (["table1", "--preset", "tiny"], "preset must be one of full, small, smoke"),
        (["table1", "--gpus", "3"], "GPUS must divide the batch of 64 of row imagenet-stylegan2 .*; got 3"),
        (["table1c", "--gpus", "16"], "into at least 8 images a GPU; got 16"),
        (["table1", "--row", "nobody"], "row must be one of imagenet-stylegan2, .*; got 'nobody'"),
        (["table1", "--nnodes", "2"], "RDZV must be HOST:PORT of the first machine where NNODES is 2; got ''"),
        (["table1", "--nnodes", "3", "--rdzv", "a:1"], "NNODES must divide the GPUs of every run; got 3 and 8"),
        (
            ["table1", "--data", "/nowhere"],
            "DATA must be NAME=PATH with a name of imagenet-128, .*; got '/nowhere', which does",
        ),
        (["table1b", "--data", "/nowhere"], "with a name of taichi-256, or a folder"),
        (["table2", "--data", "cats=/x"], "DATA must be NAME=PATH with a name of ffhq-256, .*; got 'cats=/x'"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, words: list[str], said: str) -> None:
    result = call(tmp_path, *words, "--dry-run")
    assert result.exit_code == 1
    assert re.search(said, result.output)


def test_fewer_gpus_take_the_same_batch_in_more_passes(tmp_path: Path) -> None:
    table = load_paper("all")
    table = reproduce.on_gpus(table, 2, table.rows)
    for row, before in zip(table.rows, load_paper("all").rows, strict=True):
        changed = {"gpus": 2}
        if row.trainer in ("stylegan3", "eg3d"):
            changed["batch-gpu"] = int(before.options["batch"]) // 8
        assert row.options == {**before.options, **changed}
    table3 = load_paper("table3")
    assert reproduce.on_gpus(table3, 8, table3.rows) == table3
    assert reproduce.on_gpus(table3, 7, []) == table3  # 7 divides no batch, but no row was requested


def test_seeds_and_rows_are_those_that_are_asked_for(tmp_path: Path) -> None:
    words = ["--row", "church-stylegan2", "--seed", "1", "--seed", "2", "--dry-run"]
    output = call(tmp_path, "table1", *words).output
    assert re.findall(r"^# row (\S+):", output, re.MULTILINE) == ["church-stylegan2/1", "church-stylegan2/2"]


def test_several_machines_start_their_share_with_torchrun(tmp_path: Path) -> None:
    words = ["--nnodes", "2", "--gpus", "16", "--rdzv", "node0:29500", "--dry-run"]
    torchrun = "-m torch.distributed.run --nnodes=2 --nproc-per-node=8 --rdzv-backend=c10d --rdzv-endpoint=node0:29500"
    output = call(tmp_path, "table1a", *words).output
    assert f"python {torchrun} train.py" in output
    assert "--gpus=16" in output
    videos = call(tmp_path, "table3a", *words).output
    assert len(re.findall(rf"MTM_LAUNCHER='\S+ {torchrun}' python src/infra/launch.py", videos)) == 3


def test_a_folder_or_a_made_zip_is_taken_as_data(tmp_path: Path) -> None:
    given = tmp_path / "given"
    (given / "imagenet-128").mkdir(parents=True)
    images = given / "lsun-cat-256.zip"
    _made(images, "lsun-cat-256")
    output = call(tmp_path, "table1", "--data", str(given), "--dry-run").output
    assert f"tools.data imagenet-128 {given}/imagenet-128 " in output
    assert f"# used as it is: {images}" in output
    assert f"--data={images}" in output
    assert "data set taichi-256 must come from you" in output
    assert "data set imagenet-128 must come" not in output


def _made(path: Path, recipe: str) -> None:
    """A zip with a data set's manifest."""
    import zipfile

    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mtm_manifest.json", json.dumps({"recipe": recipe}))


def test_costs_follow_from_kimg_and_a_measured_ratio() -> None:
    table = load_paper("table4")
    plain, low, mid, high = table.rows
    bench = {"device": "cuda", "settings": {"low": {"training_ratio": 1.5}}}
    costs = [run_cost(row, training_ratios(bench)) for row in (plain, low, mid)]
    assert [round(cost.device_s / 3600, 1) for cost in costs if cost] == [61.9, 92.9, 61.9]
    assert costs[1] is not None
    assert "× 1.50, as measured for StyleGAN2" in costs[1].text
    assert training_ratios({**bench, "device": "cpu"}) == {}
    assert high.estimate == plain.estimate


def test_make_hands_every_variable_over() -> None:
    words = ["GPUS=4", "NNODES=2", "RDZV=a:1", "ROW=r1 r2", "SEED=3", "SEEDS=4 5", "PARALLEL=2", "DRY_RUN=1"]
    done = subprocess.run(
        ["make", "-n", "reproduce-table1b", "PRESET=small", "DATA=a=/b c", *words],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if not k.startswith("MAKE")},  # `make test` may run this test
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    line = done.stdout.replace("\\\n", " ")
    line = " ".join(line[line.index("-m experiments.reproduce") :].split())
    assert line == (
        '-m experiments.reproduce table1b --preset small --out "$MTM_OUT" --data "$MTM_DATA" --gpus 4 --nnodes 2 '
        "--rdzv a:1 --row r1 --row r2 --seed 3 --seed 4 --seed 5 --parallel 2 --dry-run"
    )


def test_every_trainer_of_the_tables_is_an_official_codebase() -> None:
    assert {TRAINERS[row.trainer].host for row in load_paper("all").rows} == {
        "stylegan3",
        "eg3d",
        "stylegan-v",
        "stylesv",
    }
