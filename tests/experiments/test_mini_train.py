"""Training resumes bit for bit, stops when asked, refuses what it cannot do, and leaves no half-written files."""

import errno
import json
import os
import re
import signal
import zipfile
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner
from mini_lab import write_dots
from PIL import Image

from experiments.mini import loss, train
from experiments.mini.data import load_images, to_float, to_uint8
from experiments.mini.trainer import Trainer

TINY = {"kimg": 0.072, "batch": 6, "channels": 4, "latent": 8, "pl_interval": 2, "r1_interval": 3}
TINY |= {"tick_kimg": 0.018, "snap_kimg": 0.036}  # 12 iterations: a tick every 3, a snapshot every 6
TIMES = ("elapsed_s", "cpu_s", "s_per_kimg", "peak_memory_mb")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dots(tmp_path_factory.mktemp("data") / "dots.zip", 200, dots=2, resolution=8)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def run(outdir: Path, data: Path, **changes) -> None:
    train.train(outdir, data, **(TINY | changes))


def at_iteration(monkeypatch: pytest.MonkeyPatch, iteration: int, act) -> None:
    """Call `act` at the start of that iteration."""
    iterate = Trainer.iterate

    def patched(self: Trainer) -> None:
        if self.iteration == iteration:
            act()
        iterate(self)

    monkeypatch.setattr(Trainer, "iterate", patched)


def lines(outdir: Path) -> list[dict]:
    ticks = [json.loads(line) for line in (outdir / "stats.jsonl").read_text().splitlines()]
    return [{k: v for k, v in tick.items() if k not in TIMES} for tick in ticks]


def contents(outdir: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(outdir.iterdir())}


def flatten(value, name: str = "") -> dict[str, torch.Tensor]:
    """Every leaf as a tensor, keyed by its path."""
    if isinstance(value, torch.Tensor):
        return {name: value}
    if isinstance(value, str):
        return {name: torch.tensor(list(value.encode()))}
    if isinstance(value, (int, float)):
        return {name: torch.tensor(value, dtype=torch.float64)}
    items = value.items() if isinstance(value, dict) else enumerate(value or ())
    return {key: leaf for k, v in items for key, leaf in flatten(v, f"{name}/{k}").items()}


def assert_same_result(one: Path, other: Path) -> None:
    for name in ("snapshot.pt", "final.pt"):
        first, second = (flatten(torch.load(d / name, weights_only=True)) for d in (one, other))
        assert first.keys() == second.keys()
        assert [
            key for key in first if key not in ("/elapsed_s", "/cpu_s") and not torch.equal(first[key], second[key])
        ] == []
    assert lines(one) == lines(other)


@pytest.mark.parametrize("mtm", ["none", "8"])
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_resumes_to_the_bits_of_an_uninterrupted_one(
    tmp_path: Path, data: Path, monkeypatch, capsys, mtm: str, signum: int, code: int
) -> None:
    run(tmp_path / "whole", data, mtm=mtm)
    with monkeypatch.context() as patch:
        at_iteration(patch, 7, lambda: os.kill(os.getpid(), signum))
        with pytest.raises(SystemExit) as exit_info:
            run(tmp_path / "halves", data, mtm=mtm)
    assert exit_info.value.code == code
    assert re.search(r"stopped by SIG\w+ at 0.0 of 0.072 kimg.*Run the same command again", capsys.readouterr().err)
    assert torch.load(tmp_path / "halves/snapshot.pt", weights_only=True)["iteration"] == 8
    assert not (tmp_path / "halves/final.pt").exists()
    run(tmp_path / "halves", data, mtm=mtm)
    assert_same_result(tmp_path / "whole", tmp_path / "halves")


def test_a_killed_run_resumes_from_its_last_snapshot_to_the_same_bits(tmp_path: Path, data: Path, monkeypatch) -> None:
    run(tmp_path / "whole", data)

    class PowerCutError(Exception):
        pass

    def cut() -> None:
        raise PowerCutError

    with monkeypatch.context() as patch:
        at_iteration(patch, 10, cut)  # one tick after the snapshot of iteration 6
        with pytest.raises(PowerCutError):
            run(tmp_path / "cut", data)
    assert len(lines(tmp_path / "cut")) == 3
    with open(tmp_path / "cut/stats.jsonl", "a") as file:
        file.write('{"kimg": 0.0')  # a torn line
    run(tmp_path / "cut", data)
    assert_same_result(tmp_path / "whole", tmp_path / "cut")


def test_layers_that_do_not_exist_are_refused_before_the_folder_is_claimed(tmp_path: Path, data: Path) -> None:
    for mtm, message in {"64": r"resolutions of this generator, \[4, 8\]; got \[64\]", "lo": "got 'lo'"}.items():
        with pytest.raises(click.ClickException, match=message):
            run(tmp_path / "run", data, mtm=mtm)
    assert not (tmp_path / "run").exists()


def test_a_signal_while_the_data_is_read_is_not_lost(tmp_path: Path, data: Path, monkeypatch) -> None:
    def load(path: Path):
        os.kill(os.getpid(), signal.SIGTERM)
        return load_images(path)

    monkeypatch.setattr(train, "load_images", load)
    with pytest.raises(SystemExit) as exit_info:
        run(tmp_path / "run", data)
    assert exit_info.value.code == 143
    assert torch.load(tmp_path / "run/snapshot.pt", weights_only=True)["iteration"] == 0


def test_a_finished_run_stays_as_it_is_when_called_again(tmp_path: Path, data: Path) -> None:
    run(tmp_path / "run", data)
    before = contents(tmp_path / "run")
    run(tmp_path / "run", data)
    assert contents(tmp_path / "run") == before


def test_seeds_differ(tmp_path: Path, data: Path) -> None:
    for seed in (0, 1):
        run(tmp_path / str(seed), data, seed=seed)
    assert lines(tmp_path / "0") != lines(tmp_path / "1")


@pytest.mark.parametrize("change", [{"lr": 0.01}, {"mtm": "8"}, {"seed": 7}, {"threads": 2}])
def test_other_options_in_the_same_folder_are_refused_by_name_and_touch_nothing(
    tmp_path: Path, data: Path, change: dict
) -> None:
    run(tmp_path / "run", data, kimg=0.012)
    before = contents(tmp_path / "run")
    ((name, value),) = change.items()
    with pytest.raises(click.ClickException, match=rf"differs in {name}: .* -> {value!r} \(stored -> asked\)"):
        run(tmp_path / "run", data, kimg=0.012, **change)
    assert contents(tmp_path / "run") == before


def test_results_without_their_options_are_not_taken_over(tmp_path: Path, data: Path) -> None:
    (tmp_path / "stats.jsonl").write_text("mine")
    with pytest.raises(click.ClickException, match=r"has stats.jsonl but no training_options.json"):
        run(tmp_path, data)
    assert contents(tmp_path) == {"stats.jsonl": b"mine"}


@pytest.mark.parametrize(("code", "message"), [(errno.ENOSPC, "the disk is full"), (errno.EFBIG, "File too large")])
def test_a_full_disk_keeps_the_previous_snapshot_and_names_the_file(
    tmp_path: Path, data: Path, monkeypatch, code: int, message: str
) -> None:
    with monkeypatch.context() as patch:
        at_iteration(patch, 7, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(SystemExit):
            run(tmp_path / "run", data)
    before = contents(tmp_path / "run")
    write = Path.write_bytes

    def fill_up(path: Path, content: bytes) -> int:
        if "snapshot.pt" not in path.name:
            return write(path, content)
        write(path, content[: len(content) // 2])
        raise OSError(code, os.strerror(code), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", fill_up)
        with pytest.raises(click.ClickException, match=rf"snapshot\.pt.*{message}"):
            run(tmp_path / "run", data)
    after = contents(tmp_path / "run")
    assert after["snapshot.pt"] == before["snapshot.pt"]
    assert set(after) == set(before)  # no partial file
    run(tmp_path / "whole", data)
    run(tmp_path / "run", data)
    assert_same_result(tmp_path / "whole", tmp_path / "run")


def test_a_loss_that_is_not_finite_stops_the_run_before_it_reaches_the_weights(
    tmp_path: Path, data: Path, monkeypatch
) -> None:
    calls = []

    def explode(logits: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return logits.sum() * (float("nan") if len(calls) > 8 else 1)

    monkeypatch.setattr(loss, "generator_loss", explode)
    with pytest.raises(click.ClickException, match=r"G_loss must stay finite; got nan at 0\.048 kimg"):
        run(tmp_path / "run", data)
    state = torch.load(tmp_path / "run/snapshot.pt", weights_only=True)
    assert state["iteration"] == 6
    assert all(torch.isfinite(value).all() for value in state["G"].values())


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"no snapshot"])
def test_a_snapshot_that_is_cut_off_is_named_and_kept(tmp_path: Path, data: Path, monkeypatch, content: bytes) -> None:
    with monkeypatch.context() as patch:
        at_iteration(patch, 7, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(SystemExit):
            run(tmp_path / "run", data)
    (tmp_path / "run/snapshot.pt").write_bytes(content)
    with pytest.raises(click.ClickException, match=rf"is truncated or not a snapshot \({len(content)} bytes"):
        run(tmp_path / "run", data)
    assert (tmp_path / "run/snapshot.pt").read_bytes() == content


def test_the_command_line_writes_its_ticks_and_options(tmp_path: Path, data: Path) -> None:
    words = [f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()]
    result = CliRunner().invoke(train.main, ["--outdir", str(tmp_path / "run"), "--data", str(data), *words])
    assert result.exit_code == 0, result.output
    ticks = [json.loads(line) for line in (tmp_path / "run/stats.jsonl").read_text().splitlines()]
    assert [tick["kimg"] for tick in ticks] == [0.018, 0.036, 0.054, 0.072]
    assert {"kimg", "elapsed_s", "s_per_kimg", "peak_memory_mb", "G_loss", "D_loss", "r1", "path_length"} <= set(
        ticks[0]
    )
    options = json.loads((tmp_path / "run/training_options.json").read_text())
    assert (options["mtm"], options["resolution"], options["batch"]) == ("none", 8, 6)
    parameters = torch.load(tmp_path / "run/final.pt", weights_only=True)["generator"]
    del parameters["mapping.w_avg"]  # a buffer
    assert options["generator_parameters"] == sum(value.numel() for value in parameters.values())


def write_zip(path: Path, images: dict[str, tuple[int, int]]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, size in images.items():
            with archive.open(name, "w") as file:
                Image.new("RGB", size).save(file, "png")
    return path


def test_bad_data_is_refused_by_name_and_claims_no_folder(tmp_path: Path) -> None:
    (tmp_path / "text.zip").write_text("no zip")
    broken = write_zip(tmp_path / "broken.zip", {"a.png": (8, 8)})
    with zipfile.ZipFile(broken, "a") as archive:
        archive.writestr("b.png", b"\x89PNG not really")
    cases = {
        tmp_path / "absent.zip": "expected a file, got .*absent.zip",
        tmp_path / "text.zip": "text.zip",
        broken: "b.png in .*broken.zip",
        write_zip(tmp_path / "empty.zip", {}): "empty.zip",
        write_zip(tmp_path / "wide.zip", {"a.png": (16, 8)}): r"got 16 x 8 px in a.png",
        write_zip(tmp_path / "odd.zip", {"a.png": (24, 24)}): r"power of two from 8 px up, got 24 x 24 px in a.png",
        write_zip(tmp_path / "two.zip", {"a.png": (8, 8), "b.png": (16, 16)}): r"8 x 8 px like the first.*in b.png",
    }
    for path, message in cases.items():
        with pytest.raises(click.ClickException, match=message):
            run(tmp_path / "run", path)
    assert not (tmp_path / "run").exists()


def test_every_pass_shows_every_image_once_in_an_order_of_its_own(data: Path) -> None:
    images = load_images(data)
    whole = images.batch(0, 400, seed=5)
    parts = torch.cat([images.batch(start, 50, seed=5) for start in range(0, 400, 50)])
    assert torch.equal(whole, parts)
    first, second = to_uint8(whole[:200]).flatten(1), to_uint8(whole[200:]).flatten(1)
    assert not torch.equal(first, second)
    assert torch.equal(first.unique(dim=0), second.unique(dim=0))
    assert torch.equal(first.unique(dim=0), images.pixels.flatten(1).unique(dim=0))
    assert not torch.equal(whole, images.batch(0, 400, seed=6))


def test_quantisation_returns_every_value_it_was_given() -> None:
    values = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_float(values)), values)
    assert to_uint8(torch.tensor([-9.0, 9.0])).tolist() == [0, 255]
