"""make smoke's table: every official codebase, plain and with MTM. All except StyleSV are killed and resumed."""

import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
from repository_lab import Repository

from experiments.files import UserError
from experiments.snapshots import open_snapshot
from experiments.table import load_table
from mtm_hosts.hosts import HOSTS

# StyleSV would take as long as the others together. tests/hosts/test_stylesv_resume.py stops and resumes it.
ROWS = [row.id for row in load_table("smoke").rows if row.mtm != "none" and row.trainer != "stylesv"]
WORDS = ("-m", "experiments.run", "smoke", "--out", "out", *(word for row in ROWS for word in ("--row", row)))
LESS = {
    "parallel = 2": "parallel = 1",  # a kill ends every running row
    'cfg = "stylegan2"': 'cfg = "stylegan2"\ngpus = 2',  # two ranks, one of which is killed
    'metrics = ["frechet"]': "metrics = []",
    "samples_nimg = 24": "samples_nimg = 4",
    "kimg = 0.4": "kimg = 0.1",
    "kimg = 0.008": "kimg = 0.004",
    "kimg = 0.032": "kimg = 0.012",
    "kimg = 0.048": "kimg = 0.012",
}


def test_every_codebase_is_in_the_table_with_and_without_mtm() -> None:
    table = load_table("smoke")
    assert {row.trainer for row in table.rows} == HOSTS.keys()
    pairs = list(zip(table.rows[::2], table.rows[1::2], strict=True))
    for plain, mtm in pairs:
        assert (plain.mtm, mtm.mtm, mtm.baseline) == ("none", "low", plain.id)
        assert {**plain.options, "mtm": "low"} == mtm.options
    assert len(pairs) == 5
    assert table.meaningless


def test_images_of_ones_own_cannot_stand_in_for_clips() -> None:
    table = load_table("smoke")
    assert table.with_data(["openmoji", "openmoji-views"]).datasets["openmoji-views"].recipe == "images"
    with pytest.raises(UserError, match="--data must stand for a data set of images; got openmoji-clips"):
        table.with_data(["openmoji", "openmoji-clips"])


def start_until_it_saves(repository: Repository, row: str) -> tuple[subprocess.Popen[str], dict]:
    """Run the table until the row has its first training state; returns the runner and the row's state."""
    runner = repository.start(*WORDS)
    out, end = repository.root / "out", time.monotonic() + 900
    while not list(out.glob(f"runs/{row}/*/train/**/training-state-*.pt")):
        assert runner.poll() is None, runner.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.05)
    (state,) = out.glob(f"runs/{row}/*/state.json")
    return runner, json.loads(state.read_text())


def kill_once_it_saves(repository: Repository, row: str) -> None:
    """Kill runner, row and trainer."""
    runner, state = start_until_it_saves(repository, row)
    for pid in (runner.pid, state["pid"], state["child_pid"]):
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    runner.communicate()


def kill_a_rank_once_it_saves(repository: Repository, row: str) -> str:
    """Kill the second of two ranks; returns what the runner printed once the row had failed and it was stopped."""
    runner, state = start_until_it_saves(repository, row)
    ranks = [p for p in psutil.Process(state["child_pid"]).children() if "spawn_main" in " ".join(p.cmdline())]
    assert len(ranks) == 2
    ranks[1].kill()
    while not [entry for entry in entries(repository.root / "out") if entry["row"] == row]:
        assert runner.poll() is None
        time.sleep(0.05)
    os.kill(runner.pid, signal.SIGINT)  # before it runs the other rows
    return runner.communicate()[0]


def entries(out: Path) -> list[dict]:
    """The ledger's entries about rows."""
    lines = (out / "ledger.jsonl").read_text().splitlines() if (out / "ledger.jsonl").exists() else []
    return [entry for entry in map(json.loads, lines) if entry["event"] == "row"]


@pytest.mark.slow
def test_killed_in_a_codebase_it_goes_on_to_the_end(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "copy")
    for host in ("stylegan3", "eg3d", "stylegan-v"):
        repository.patch(host)
    table = repository.root / "experiments/tables/smoke.toml"
    for whole, less in LESS.items():
        assert whole in table.read_text()
        table.write_text(table.read_text().replace(whole, less))
    printed = kill_a_rank_once_it_saves(repository, ROWS[0])
    assert f"row {ROWS[0]}/0 failed: train ended with exit code 1" in printed
    for row in ROWS[1:]:
        kill_once_it_saves(repository, row)
    printed = repository.python(*WORDS)
    out = repository.root / "out"
    for row in ROWS:
        (log,) = out.glob(f"runs/{row}/*/log.txt")
        assert "Resume: exactly as" in log.read_text()
    done = {entry["row"] for entry in entries(out) if entry["status"] == "done"}
    assert done == set(ROWS), printed
    assert list(out.glob("runs/stylegan-v-mtm/*/images/films.png"))
    repository.python("-m", "experiments.run", "smoke", "--out", "straight", "--row", ROWS[0])
    check_bits(repository.root / "straight", out)


def starts(out: Path) -> list[Path]:
    """The folders of all starts of StyleGAN2's training."""
    return sorted(out.glob(f"runs/{ROWS[0]}/*/train/*-*"))


def check_bits(straight: Path, broken: Path) -> None:
    """Check that weights, optimisers, random states, counters and statistics equal those of the uninterrupted run."""
    (whole,), (_, *_, last) = starts(straight), starts(broken)
    networks = []
    for folder in (whole, last):
        with open_snapshot(folder / "network-snapshot-000000.pkl") as snapshot:
            networks.append(snapshot.generate(torch.randn(8, 512, generator=torch.Generator().manual_seed(0))))
    assert torch.equal(*networks)
    averages = []
    for rank in ("", "-rank1"):
        paths = [folder / f"training-state-000000{rank}.pt" for folder in (whole, last)]
        states = [torch.load(path, weights_only=True) for path in paths]
        for state in states:
            del state["random"]["python"]  # the host neither seeds nor uses it
        for name in states[0].keys() & {"buffers", "optimisers", "counters", "random", "loss"}:
            assert flat(states[0][name]) == flat(states[1][name]), (rank, name)
        averages.append(states[0]["buffers"]["G"]["mapping.w_avg"])
    assert not torch.equal(*averages), "ranks differ in what no pickle holds"
    assert last_tick(whole) == last_tick(last)


def last_tick(folder: Path) -> dict:
    """The last tick's losses and progress, without timings."""
    line = json.loads((folder / "stats.jsonl").read_text().splitlines()[-1])
    return {k: v for k, v in line.items() if k.startswith(("Loss/", "Progress/"))}


def flat(value) -> list:
    """Every leaf; tensors become lists of bytes, so that equality means equal bits."""
    if isinstance(value, torch.Tensor):
        return [value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()] if value.ndim else [value.item()]
    if isinstance(value, dict):
        return [leaf for key in sorted(value, key=str) for leaf in [str(key), *flat(value[key])]]
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in flat(item)]
    return [value]


@pytest.mark.slow
def test_a_figure_of_the_paper_runs_whole_and_another_table_takes_its_run(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "copy")
    repository.patch("stylegan3")
    words = ("-m", "experiments.reproduce", "--preset", "smoke", "--out", "out", "--row", "taichi-stylegan3-mtm")
    repository.python(*words, "fig4")
    out = repository.root / "out"
    assert list(out.glob("runs/taichi-stylegan3-mtm/*/images/fig4.png"))
    (folder,) = out.glob("runs/taichi-stylegan3-mtm/*")
    printed = repository.python(*words, "tableA1")
    assert "1 of 1 runs are finished already" in printed
    assert list(out.glob("runs/taichi-stylegan3-mtm/*")) == [folder]
    report = (out / "report.md").read_text()
    for said in ("## Figure 4: offsets on and off, TaiChi", "## Table A1", "(stand-in weights)", "not run", "13.6"):
        assert said in report
    measured = json.loads((folder / "metrics/fid.json").read_text())
    assert measured["fingerprint"]["weights"] == "stand-in"
