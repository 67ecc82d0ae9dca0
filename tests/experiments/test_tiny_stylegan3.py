"""The tiny table of the official StyleGAN2, run, killed in the middle, resumed to the same bits, reported."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from repository_lab import Repository

from experiments.snapshots import open_snapshot

ROW = "mtm-low"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    repository = Repository(tmp_path_factory.mktemp("tiny") / "copy")
    repository.patch("stylegan3")
    return repository


def words(out: str) -> list[str]:
    return ["-m", "experiments.run", "tiny-stylegan3", "--out", out, "--row", ROW]


def parts(repository: Repository, out: str) -> list[Path]:
    return sorted(repository.root.glob(f"{out}/runs/{ROW}/*/train/*-*"))


def kill(pid: int) -> None:
    os.killpg(pid, signal.SIGKILL)


def statistics(folders: list[Path]) -> list[dict]:
    """What was trained, tick by tick, without what time it took."""
    lines = [json.loads(line) for folder in folders for line in (folder / "stats.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k.startswith(("Loss/", "Progress/"))} for line in lines]


@pytest.mark.slow
def test_killed_in_the_middle_it_resumes_to_the_bits_of_an_uninterrupted_run_and_reports(repository):
    straight = repository.python(*words("straight"))
    assert "MTM, Low  done         Fréchet distance, random embedding" in straight

    runner = repository.start(*words("broken"))
    end = time.monotonic() + 900
    while not list(repository.root.glob(f"broken/runs/{ROW}/*/train/*/training-state-000001.pt")):
        assert time.monotonic() < end
        assert runner.poll() is None, runner.communicate()[0]
        time.sleep(0.02)
    state = json.loads(next(repository.root.glob(f"broken/runs/{ROW}/*/state.json")).read_text())
    kill(runner.pid)
    kill(state["pid"])
    kill(state["child_pid"])
    runner.communicate()

    resumed = repository.python(*words("broken"))
    assert "MTM, Low  done         Fréchet distance, random embedding" in resumed
    check_bits(repository)
    check_outputs(repository)


def check_bits(repository: Repository) -> None:
    """Weights, optimisers, random states, counters and statistics are those of the uninterrupted run."""
    (whole,), (first, second) = parts(repository, "straight"), parts(repository, "broken")
    assert len(statistics([first])) < len(statistics([whole]))
    networks = []
    for folder in (whole, second):
        with open_snapshot(folder / "network-snapshot-000002.pkl") as snapshot:
            networks.append(snapshot.generate(torch.randn(8, 512, generator=torch.Generator().manual_seed(0))))
    assert torch.equal(*networks)
    states = [torch.load(folder / "training-state-000002.pt", weights_only=True) for folder in (whole, second)]
    for state in states:
        del state["random"]["python"]  # never seeded by the host, nor drawn from
    for name in ("buffers", "optimisers", "counters", "random", "loss"):
        assert flat(states[0][name]) == flat(states[1][name]), name
    assert statistics([whole])[-1] == statistics([second])[-1]


def check_outputs(repository: Repository) -> None:
    """Images, metrics, ledger and report are there, and the metrics are those of the uninterrupted run."""
    out = repository.root / "broken"
    (folder,) = out.glob(f"runs/{ROW}/*")
    assert {"samples", "reals", "fig4", "offsets"} <= {path.stem for path in (folder / "images").glob("*.png")}
    (entry,) = [
        json.loads(line) for line in (out / "ledger.jsonl").read_text().splitlines() if '"event": "row"' in line
    ]
    assert entry["resumed_from_kimg"] >= 1
    assert (
        entry["metrics"]
        == json.loads((repository.root / "straight/ledger.jsonl").read_text().splitlines()[0])["metrics"]
    )
    assert entry["host"]["patches"]["mtm"]
    for name in ("report.md", "report.html"):
        assert "vendor/stylegan3" in (out / name).read_text()


def flat(value) -> list:
    """Every leaf, tensors as lists of bytes, so that equality means bits."""
    if isinstance(value, torch.Tensor):
        return [value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()] if value.ndim else [value.item()]
    if isinstance(value, dict):
        return [leaf for key in sorted(value, key=str) for leaf in [str(key), *flat(value[key])]]
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in flat(item)]
    return [value]
