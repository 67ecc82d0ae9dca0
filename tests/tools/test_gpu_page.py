"""The results of GPU sessions in docs/results-cuda.md. The sessions are made up from the benchmarks' own JSON."""

import json

import pytest
from click.testing import CliRunner

from experiments.files import UserError
from tools import bench, gpu_page
from tools.gpu_page import BEGIN, END, PAGE, read_sessions, write_page
from tools.gpu_steps import STEPS

WHERE = {"gpu": "NVIDIA H200", "torch": "2.11.0", "cuda": "13.0", "commit": "a" * 40, "date": "2026-11-30"}


def result(numbers: dict, state: str = "done", preset: str | None = None, **where) -> dict:
    facts = {"state": state, "seconds": 12.4, "figure": "a | figure", "numbers": numbers, "preset": preset}
    return facts | {"where": WHERE | where}


def session(folder, **steps):
    folder.mkdir(parents=True)
    (folder / "session.json").write_text(json.dumps({"schema": 1, "steps": steps}))
    return folder


def page_of(tmp_path, folders) -> str:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_page(page, read_sessions(folders))
    text = page.read_text()
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"\n{END}\nafter\n")
    assert "old" not in text
    return text


def bench_numbers(tmp_path) -> dict:
    """The benchmark's JSON from a small layer, relabelled with the real layer's size and stand-in values."""
    dest = tmp_path / "bench.json"
    done = CliRunner().invoke(bench.main, ["--json", str(dest), *"--shape 2 4 5 --seconds 0 --threads 1".split()])
    assert done.exit_code == 0, done.output
    numbers = json.loads(dest.read_text())
    (layer,) = numbers["layers"]
    layer |= {"batch": 32, "channels": 512, "side": 32, "kind": "fp16"}
    layer["ms"]["forward+backward"] = {"plain": 2.0, "ours": 3.0, "torchvision": 16.0}
    layer["roofline_ms"]["forward+backward"] = 1.25
    layer["peak_mib"] = {"plain": 100, "ours": 110}
    return numbers


def test_without_a_session_every_cell_says_not_run(tmp_path):
    text = page_of(tmp_path, [])
    for step in STEPS:
        assert f"| {step.name} | not run |" in text
    assert "| 32, 512, 32 | fp16 | nchw, nhwc | all | not run |" in text
    assert "| low,mid | not run | not run | 2.1 | 1.06 | not run | 1.0 |" in text
    assert "| stylegan2-mtm | not run |" in text


def test_layers_are_shown_as_the_bench_writes_them(tmp_path):
    text = page_of(tmp_path, [session(tmp_path / "a", bench=result(bench_numbers(tmp_path)))])
    assert "| 32, 512, 32 | fp16 | nchw | forward+backward | 2.000 | 3.000 | 16.000 | 1.250 | 1.50 | 1.5 |" in text
    assert "| 32, 512, 32 | fp16 | nhwc | all | not run |" in text
    assert "| 32, 512, 32 | fp16 | nchw | 100 | 110 | - | 1.10 |" in text
    assert "| bench | done | 12 | a / figure | NVIDIA H200, torch 2.11.0, CUDA 13.0 | 2026-11-30 | aaaaaaa |" in text


def test_iterations_and_trainings(tmp_path):
    low = {"training_ratio": 1.02, "inference_ratio": 1.004, "iteration_s": 0.1, "batch_s": 0.01, "parameters": 5}
    entry = {"kimg": 48.0, "s_per_kimg": 2.345, "metrics": {"frechet": {"value": 12.3456}}}
    steps = {"table4": result({"settings": {"low": low}}), "train-mtm": result(entry, preset="full")}
    text = page_of(tmp_path, [session(tmp_path / "a", **steps)])
    assert "| low | 100.00 | 1.02 | 1.2 | 1.03 | 1.00 | 1.0 |" in text
    assert "| stylegan2-mtm | done | 48 | 2.345 | 12.35 |" in text


def test_a_training_that_was_ended_has_no_distance(tmp_path):
    ended = result({"kimg": 12.0, "s_per_kimg": None, "metrics": {}}, state="timed out", preset="full")
    text = page_of(tmp_path, [session(tmp_path / "a", **{"train-plain": ended})])
    assert "| stylegan2 | timed out | 12 |  |  |" in text


def test_kernels(tmp_path):
    kernels = [{"name": f"kernel_{i}<a|b>", "launches": 2.0, "us": 50.0 - i} for i in range(20)]
    text = page_of(tmp_path, [session(tmp_path / "a", profile=result({"layer fp16 forward": kernels}))])
    assert "| layer fp16 forward | `kernel_0<a/b>` | 2 | 50.0 |" in text
    assert "kernel_7" in text
    assert "kernel_8" not in text


def test_of_several_sessions_the_last_that_ran_a_step_counts(tmp_path):
    first = session(tmp_path / "a", test=result({}, state="failed"), probe=result({}))
    last = session(tmp_path / "b", test=result({}, date="2026-12-01"), probe=result({}, state="not run", gpu=None))
    text = page_of(tmp_path, [first, last])
    assert "| test | done | 12 | a / figure | NVIDIA H200, torch 2.11.0, CUDA 13.0 | 2026-12-01 |" in text
    assert "| probe | done |" in text


@pytest.mark.parametrize("step", [result({}, gpu=None), result({}, preset="smoke")], ids=["cpu", "smoke"])
def test_a_rehearsal_is_refused(tmp_path, step):
    with pytest.raises(UserError, match="must be of a session on a GPU; got train-plain"):
        read_sessions([session(tmp_path / "a", **{"train-plain": step})])


def test_a_folder_without_a_session_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"must hold session\.json"):
        read_sessions([tmp_path])


@pytest.mark.parametrize("text", ["", "[]", '{"steps": {"bench": {"state": "done"}}}'])
def test_a_damaged_session_is_refused(tmp_path, text):
    (tmp_path / "session.json").write_text(text)
    with pytest.raises(UserError, match=r"gpu-page: .*session\.json must be as gpu-session wrote it; got "):
        read_sessions([tmp_path])


def test_the_page_has_the_marks():
    assert PAGE.read_text().count(BEGIN) == PAGE.read_text().count(END) == 1


def test_a_page_without_the_marks_is_left_alone(tmp_path):
    (tmp_path / "page.md").write_text("nothing")
    result = CliRunner().invoke(gpu_page.main, ["--page", str(tmp_path / "page.md")])
    assert result.exit_code == 1
    assert "must hold the lines" in result.output
    assert (tmp_path / "page.md").read_text() == "nothing"
