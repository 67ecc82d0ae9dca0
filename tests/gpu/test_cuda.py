"""The op on an NVIDIA GPU against the float64 reference on the CPU."""

import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from op_cases import Case, assert_close, cotangent, first_order, one_by_one, sample_inputs, second_order
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from mtm_ops import ModulatedTransformation, modulated_deform_conv2d

pytestmark = pytest.mark.gpu

INF, NAN = float("inf"), float("nan")
HOSTILE = (NAN, INF, -INF, 1e9, -1e9, 3.4e38, 2.0**31, -(2.0**31), 2.0**63, -1.0, -1e-45)
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
MIB = 1 << 20


def to_device(case: Case, device: str = "cuda") -> Case:
    return case.map(lambda _, t: t.to(device))


def hold(case: Case, dtype: torch.dtype, factor: float = 4, device: str = "cuda") -> None:
    """Compare result, first and second order on the GPU with float64 on the CPU, on a scale of at least 1."""
    exact = case.map(lambda _, t: t.double())
    for order in (first_order, second_order):
        got, want = order(to_device(case, device), "native"), order(exact, "reference")
        for name, value in want.items():
            found = got[name]
            assert value is not None
            assert found is not None, name
            assert found.device == to_device(case, device).x.device, name
            if value.numel() == 0:
                assert found.shape == value.shape, name
                continue
            scale = value.abs().max().clamp_min(1)
            error = (found.detach().cpu().double() / scale - value / scale).abs().max()
            assert_close(1 + error, torch.ones_like(error), dtype, name, factor)


def hostile(case: Case) -> Case:
    offset = case.offset.clone()
    for i, bad in enumerate(HOSTILE):
        offset.view(-1)[i * 5 :: 67] = bad
    return replace(case, offset=offset)


@DTYPES
@pytest.mark.parametrize("weight_groups", [1, 2])
def test_demodulation_in_every_dtype(weight_groups, dtype):
    """More channels and samples than a warp has lanes and a block has warps."""
    hold(sample_inputs(B=11, C=80, O=6, weight_groups=weight_groups, dtype=dtype), dtype, 16)


@DTYPES
@pytest.mark.parametrize("size", [(33, 31), (70, 66)], ids=str)
def test_maps_whose_index_has_several_parts_and_passes(size, dtype):
    hold(hostile(sample_inputs(C=16, O=4, size=size, demodulate=False, dtype=dtype)), dtype, 16)


@DTYPES
@pytest.mark.parametrize("style", [False, True], ids=["plain", "style"])
@pytest.mark.parametrize("mask", [False, True], ids=["no-mask", "mask"])
def test_every_dtype_to_the_second_order(mask, style, dtype):
    # Second order multiplies more rounded factors, so half types get four times the tolerance of first order.
    hold(sample_inputs(mask=mask, style=style, groups=2, dtype=dtype), dtype, 16)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(("C", "G"), [(1, 1), (3, 1), (8, 1), (8, 2), (24, 1), (40, 2), (130, 1), (132, 1), (264, 2)])
def test_every_launch_variant_with_hostile_offsets(C, G, dtype):
    hold(hostile(sample_inputs(B=3, C=C, O=2, groups=G, dtype=dtype, demodulate=False)), dtype, 16)


@pytest.mark.parametrize("B", [0, 1, 5])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 2), (5, 5)], ids=str)
def test_batches_and_kernels(kernel, B):
    hold(sample_inputs(B=B, kernel=kernel, size=(12, 11)), torch.float64)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_layout_of_x_is_kept(layout):
    case = to_device(sample_inputs(C=8, O=8, dtype=torch.float32))
    case = replace(case, x=case.x.contiguous(memory_format=layout))
    y = case.run("native")
    assert y.is_contiguous(memory_format=layout)
    assert_close(y, case.run("reference"), torch.float32)


def test_views_that_are_not_contiguous():
    case = to_device(sample_inputs(C=8, dtype=torch.float32))
    views = case.map(lambda _, t: torch.stack([t, t.flip(0)], -1)[..., 0])
    assert not views.x.is_contiguous()
    assert torch.equal(views.run("native"), case.run("native"))


@pytest.mark.parametrize("bad", [1e9, -INF, NAN], ids=str)
def test_all_offsets_bad_give_zero(bad):
    case = to_device(sample_inputs(C=130, dtype=torch.float16))
    found = first_order(replace(case, offset=torch.full_like(case.offset, bad)), "native")
    assert not any(t.any() for t in found.values())


def as_function(case: Case):
    leaves = to_device(case).leaves().tensors()

    def run(*tensors: Tensor) -> Tensor:
        given = dict(zip(leaves, tensors, strict=True))
        return case.map(lambda name, _: given[name]).run("native")

    return run, tuple(leaves.values())


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("mask", [False, True], ids=["no-mask", "mask"])
def test_gradcheck_and_gradgradcheck(mask, groups):
    """With no tolerance for results that differ between runs."""
    case = sample_inputs(C=2, O=2, mask=mask, groups=groups)
    assert gradcheck(*as_function(case))
    assert gradgradcheck(*as_function(case))


def test_deterministic_mode_is_accepted_and_changes_nothing(request):
    case = to_device(sample_inputs(C=8, dtype=torch.float32))
    want = second_order(case, "native")
    request.getfixturevalue("deterministic")
    got = second_order(case, "native")
    for name, value in want.items():
        assert torch.equal(got[name], value), name


@pytest.mark.parametrize("kind", ["one pixel", "outside", "NaN"])
def test_offsets_that_crowd_are_right_and_cost_at_most_ten_times(kind):
    """The inverse index is slowest if every tap is at one pixel, because one team then adds everything."""
    case = to_device(one_by_one(B=8, C=64, O=64, size=(32, 32), kernel=(3, 3), padding=(1, 1), dtype=torch.float32))
    crowded = replace(case, offset=torch.full_like(case.offset, {"outside": 1e9, "NaN": NAN}.get(kind, 0.0)))
    if kind == "one pixel":
        at = torch.arange(32, device="cuda", dtype=torch.float32)
        pairs, taps = crowded.offset.view(8, 9, 2, 32, 32), torch.arange(9, device="cuda")
        pairs[:, :, 0] = 7.25 - (at[:, None] - 1 + (taps // 3)[:, None, None])
        pairs[:, :, 1] = 5.5 - (at[None, :] - 1 + (taps % 3)[:, None, None])

    def ms(of: Case) -> float:
        first_order(of, "native")
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(5):
            first_order(of, "native")
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    hold(crowded.map(lambda _, t: t.cpu()), torch.float32, 64)
    assert ms(crowded) < 10 * ms(case)


TF32_SWITCHES = {"older": ("allow_tf32", True, False), "newer": ("fp32_precision", "tf32", "ieee")}


@pytest.mark.parametrize("switch", TF32_SWITCHES)
def test_float32_products_follow_the_convolutions_tf32_switch(switch):
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("TF32 needs compute capability 8.0")
    name, on, off = TF32_SWITCHES[switch]
    target = torch.backends.cudnn if switch == "older" else torch.backends.cudnn.conv
    case = one_by_one(C=256, O=64, size=(8, 8), style=False, mask=False, dtype=torch.float32)
    exact = first_order(case.map(lambda _, t: t.double()), "reference")
    errors = {}
    for value in (on, off):
        setattr(target, name, value)
        found = first_order(to_device(case), "native")
        errors[value] = {n: float((found[n].cpu() - t).abs().max() / t.abs().max()) for n, t in exact.items()}
    for n in ("y", "x", "weight"):
        assert errors[off][n] < 1e-5, (n, errors)
        assert 1e-5 < errors[on][n] < 5e-3, (n, errors)


def test_module_and_op_together():
    head = ModulatedTransformation(8, 4).cuda()
    x, w = torch.randn(2, 8, 6, 6, device="cuda"), torch.randn(2, 4, device="cuda")
    with torch.no_grad():
        head.weight.normal_()
    offset, mask = head(x, w)
    weight = torch.randn(4, 8, 3, 3, device="cuda")
    y = modulated_deform_conv2d(x, weight, offset, mask=mask, padding=1, impl="native")
    y.square().sum().backward()
    assert head.weight.grad is not None
    assert head.weight.grad.any()


def test_second_gpu_while_the_first_is_current():
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU")
    assert torch.cuda.current_device() == 0
    hold(sample_inputs(C=8), torch.float64, device="cuda:1")


def test_current_stream_is_used():
    """x is filled on the stream after a long wait, so a kernel on any other stream would read the old values."""
    case = to_device(sample_inputs(C=8, dtype=torch.float32))
    want = first_order(case, "native")
    late = replace(case, x=torch.zeros_like(case.x))
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        late.x.copy_(case.x)
        got = first_order(late, "native")
    stream.synchronize()
    for name, value in want.items():
        assert_close(got[name], value, torch.float32, name)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_autocast(dtype):
    case = sample_inputs(C=8, dtype=torch.float32)
    with torch.autocast("cuda", dtype=dtype):
        found = first_order(to_device(case), "native")
    want = first_order(case.map(lambda _, t: t.double()), "reference")
    assert found["y"].dtype == dtype
    for name, value in want.items():
        assert_close(found[name].cpu(), value, dtype, name, 4)
        assert name == "y" or found[name].dtype == torch.float32


@pytest.mark.filterwarnings("ignore")  # raised by inductor itself
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_torch_compile_without_a_graph_break(backend):
    case = to_device(sample_inputs(C=8, dtype=torch.float32)).leaves()

    def layer(x, weight, offset, style, mask):
        return modulated_deform_conv2d(x, weight, offset, style, mask=mask, impl="native", **case.options).square()

    tensors = tuple(case.tensors().values())
    y = torch.compile(layer, fullgraph=True, backend=backend)(*tensors)
    got = torch.autograd.grad(y, tensors, cotangent(y))
    want_y = layer(*tensors)
    want = torch.autograd.grad(want_y, tensors, cotangent(want_y))
    for a, b in zip((y, *got), (want_y, *want), strict=True):
        assert_close(a, b, torch.float32, factor=4)


def test_cuda_graph_captures_forward_and_backward_and_replays_them():
    case = to_device(sample_inputs(C=8, dtype=torch.float32)).leaves()
    tensors = tuple(case.tensors().values())
    grad_y = cotangent(case.run("native"))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            torch.autograd.grad(case.run("native"), tensors, grad_y)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = case.run("native")
        grads = torch.autograd.grad(y, tensors, grad_y)
    fresh = to_device(sample_inputs(C=8, dtype=torch.float32, seed=7))
    with torch.no_grad():
        for name, t in case.tensors().items():
            t.copy_(getattr(fresh, name))
    graph.replay()
    torch.cuda.synchronize()
    want_y = case.run("native")
    want = torch.autograd.grad(want_y, tensors, grad_y)
    for got, value in zip((y, *grads), (want_y, *want), strict=True):
        assert_close(got, value, torch.float32, factor=4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_the_same_bits_over_a_hundred_runs(dtype):
    case = to_device(one_by_one(B=4, C=64, O=64, size=(16, 16), kernel=(3, 3), padding=(1, 1), dtype=dtype))
    for order in (first_order, second_order):
        want = order(case, "native")
        for _ in range(100):
            got = order(case, "native")
            assert all(torch.equal(got[name], value) for name, value in want.items())


def growth(run) -> tuple[int, int, object]:
    """(bytes still allocated after the call, peak bytes during it), both relative to before; and the result."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    kept = run()
    torch.cuda.synchronize()
    return torch.cuda.memory_allocated() - before, torch.cuda.max_memory_allocated() - before, kept


def test_columns_are_neither_kept_nor_whole():
    shape = (32, 512, 32, 32)
    x = torch.randn(shape, device="cuda", requires_grad=True)
    weight = torch.randn(512, 512, 3, 3, device="cuda", requires_grad=True)
    offset = torch.randn(32, 18, 32, 32, device="cuda", requires_grad=True)
    size, columns = x.numel() * 4, 9 * x.numel() * 4

    def forward() -> Tensor:
        return modulated_deform_conv2d(x, weight, offset, padding=1, impl="native")

    for _ in range(2):  # the first call allocates library workspaces that stay
        torch.autograd.grad(forward(), (x, weight, offset), torch.ones(shape, device="cuda"))
    alive, peak, y = growth(forward)
    assert alive <= size + weight.numel() * 4 + 2 * MIB, "more than y and the weight in the product's layout is kept"
    assert peak < 0.6 * columns  # x and y as rows, y, and one chunk
    grad_y = torch.ones_like(y)
    _, peak, _ = growth(lambda: torch.autograd.grad(y, (x, weight, offset), grad_y))
    assert peak < columns, "the backward holds the columns whole"


def test_more_than_two_to_the_31_elements():
    if torch.cuda.get_device_properties(0).total_memory < 24 << 30:
        pytest.skip("needs 24 GiB")
    H, W, C = 2100, 2050, 512
    x = torch.randn(1, C, H, W, device="cuda", dtype=torch.float16)
    assert x.numel() > 2**31
    weight = torch.randn(1, C, 1, 1, device="cuda", dtype=torch.float16)
    offset = torch.zeros(1, 2, H, W, device="cuda")
    y = modulated_deform_conv2d(x, weight, offset, impl="native")
    want = F.conv2d(x[:, :, -2:].float(), weight.float())
    assert_close(y[:, :, -2:], want, torch.float16, factor=4)


BUILD = """
import time, torch
from mtm_ops import _build
start_s = time.monotonic()
_build.load_cuda(torch.cuda.get_device_capability())
print(time.monotonic() - start_s)
"""


def test_first_build_takes_less_than_a_minute(tmp_path):
    env = {**os.environ, "MTM_CACHE_DIR": str(tmp_path)}
    env.pop("TORCH_CUDA_ARCH_LIST", None)
    start_s = time.monotonic()
    done = subprocess.run([sys.executable, "-c", BUILD], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "building the CUDA" in done.stderr
    assert float(done.stdout) < 60
    assert time.monotonic() - start_s < 120


SANITISED = """
import torch
from op_cases import first_order, sample_inputs, second_order
for dtype in (torch.float32, torch.float16):
    for C, G in ((1, 1), (3, 1), (8, 2), (40, 1), (130, 1), (264, 1)):
        case = sample_inputs(B=2, C=C, O=2, groups=G, dtype=dtype)
        for i, bad in enumerate((float("nan"), float("inf"), -float("inf"), 1e9, -1e9, 2.0**31, -1.0)):
            case.offset.view(-1)[i * 5 :: 67] = bad
        case = case.map(lambda _, t: t.cuda())
        first_order(case, "native"), second_order(case, "native")
torch.cuda.synchronize()
print("fine")
"""


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "synccheck"])
def test_compute_sanitizer_finds_nothing(tool):
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    if sanitizer is None:
        pytest.skip("compute-sanitizer is not installed")
    folders = [str(Path(__file__).parents[1] / "ops"), *sys.path]
    env = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "PYTHONPATH": os.pathsep.join(folders)}
    command = [sanitizer, "--tool", tool, "--error-exitcode", "9", sys.executable, "-c", SANITISED]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "fine" in done.stdout
