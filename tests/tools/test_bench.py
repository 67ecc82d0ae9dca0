"""The benchmark's arithmetic, verdicts and candidates, tested on the CPU."""

import itertools
import json
from functools import partial

import pytest
import torch
from click.testing import CliRunner

from tools import bench, timing
from tools.layer import PASSES, Problem, can, why_not

LAYER = (32, 512, 32)


@pytest.mark.parametrize("layout", list(bench.LAYOUTS.values()), ids=str)
@pytest.mark.parametrize("name", ["plain", "ours"])
def test_every_pass_runs(name, layout):
    problem = Problem((2, 4, 5), torch.float32, layout)
    assert problem.x.is_contiguous(memory_format=layout)
    for run in PASSES.values():
        run(problem, name)


def test_onnxruntime_computes_what_ours_does():
    if reason := why_not("onnxruntime", "cpu", torch.float32):
        pytest.skip(reason)
    problem = Problem((2, 4, 5))
    assert torch.allclose(problem.onnxruntime(), problem.ours(), atol=1e-5)


def test_what_a_candidate_cannot_do_is_not_timed():
    assert [what for what in PASSES if can("onnxruntime", what)] == ["forward"]
    assert not can("torchvision", "double backward")
    assert can("ours", "double backward")
    assert "float32 on the CPU" in str(why_not("onnxruntime", "cuda", torch.float32))
    assert "float32 on the CPU" in str(why_not("onnxruntime", "cpu", torch.float16))


def test_roofline_is_the_slower_of_bytes_and_matmuls():
    shape, x, w, o = (2, 8, 4), 2 * 8 * 16 * 4, 9 * 64 * 4, 2 * 18 * 16 * 4
    memory_bound = partial(bench.roofline_ms, shape, "fp32", rates=bench.Rates(1e3, {"fp32": 1e30}))
    compute_bound = partial(bench.roofline_ms, shape, "fp32", rates=bench.Rates(1e30, {"fp32": 1e3}))
    assert memory_bound("forward") == pytest.approx(2 * x + w + o)
    assert memory_bound("forward+backward") == pytest.approx(3 * (2 * x + w + o))
    assert compute_bound("forward") == pytest.approx(2 * 9 * 64 * 32)
    assert compute_bound("double backward") == pytest.approx(6 * 9 * 64 * 32)


def test_targets_of_a_gpu_are_judged():
    def missed(ours: float, peak: float, **others: float) -> list[str]:
        both = {"plain": 1.0, "ours": ours, **others}
        ms = {"forward": {"plain": 1.0, "ours": 1.0}, "forward+backward": both}
        return bench.verdicts(bench.SUITES["cuda"], LAYER, ms, {"plain": 100, "ours": peak})

    assert missed(1.4, 114, torchvision=6.0) == []
    assert len(missed(1.6, 116, torchvision=6.0)) == 3
    assert len(missed(1.6, 116)) == 2


def test_targets_of_a_cpu_are_judged():
    def missed(shape: bench.Shape, ours: float, **others: float) -> list[str]:
        ms = {"forward": {"plain": 1.0, "ours": 1.2, **others}, "forward+backward": {"plain": 1.0, "ours": ours}}
        return bench.verdicts(bench.SUITES["cpu"], shape, ms, {"plain": 1, "ours": 9})

    assert missed((4, 512, 8), 1.29, onnxruntime=1.3) == []
    assert len(missed((4, 512, 8), 1.31, onnxruntime=1.1)) == 2
    assert missed((8, 64, 32), 2.1) == []
    assert len(missed((8, 64, 32), 2.3)) == 1


def test_inputs_rotate():
    calls = []
    problems: list = ["a", "b"]
    PASSES["noted"] = lambda problem, name: calls.append((problem, name))
    try:
        for run in itertools.islice(bench.rotate(problems, "noted", "ours"), 3):
            run()
    finally:
        del PASSES["noted"]
    assert calls == [("a", "ours"), ("b", "ours"), ("a", "ours")]


def test_candidates_take_turns_and_the_statistic_is_of_their_own_times():
    order: list[str] = []
    times = iter([1, 10, 3, 30, 2, 20])
    runs = {name: partial(order.append, name) for name in ("a", "b")}

    def clock(run: timing.Run) -> float:
        run()
        return next(times)

    assert timing.turns_ms(runs, clock, rounds=3) == {"a": 2, "b": 20}
    assert order == ["a", "b"] * 4  # one warm-up round
    times = iter([3, 30, 1, 10])
    assert timing.turns_ms(runs, clock, rounds=2, statistic="min") == {"a": 1, "b": 10}


@pytest.mark.parametrize("kind", ["fp32", "tf32"])
def test_tf32_is_what_the_row_says_for_convolutions_and_matmuls_alike(kind, monkeypatch):
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    seen = set()

    def note(self, name: str) -> None:
        seen.add((torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32))

    monkeypatch.setitem(PASSES, "forward", note)
    try:
        options = f"--shape 2 4 5 --seconds 0 --threads 1 --dtype {kind}".split()
        result = CliRunner().invoke(bench.main, options)
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
    assert result.exit_code == 0, result.output
    assert seen == {(kind == "tf32",) * 2}
    assert f"[2, 4, 5, 5] {kind} nchw" in result.output


def test_the_table_of_a_small_layer_on_the_cpu(tmp_path):
    options = ["--json", str(tmp_path / "bench.json"), *"--shape 2 4 5 --seconds 0 --threads 1".split()]
    result = CliRunner().invoke(bench.main, options)
    assert result.exit_code == 0, result.output
    (forward,) = (line for line in result.output.splitlines() if "forward " in line and "[2, 4, 5, 5]" in line)
    assert forward.split()[-1].endswith("x")
    assert "peak MiB" in result.output
    written = json.loads((tmp_path / "bench.json").read_text())
    assert (written["device"], written["statistic"]) == ("cpu", "median")
    (layer,) = written["layers"]
    assert (layer["batch"], layer["channels"], layer["side"], layer["kind"], layer["layout"]) == (
        2,
        4,
        5,
        "fp32",
        "nchw",
    )
    assert f"{layer['ms']['forward']['ours'] / layer['ms']['forward']['plain']:.2f}x" == forward.split()[-1]
    assert layer["roofline_ms"]["forward"] is None
