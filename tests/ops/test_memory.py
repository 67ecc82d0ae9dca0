"""What autograd keeps alive, and the peak memory of a forward and backward pass (Linux only)."""

import json
import os
import subprocess
import sys

import pytest
import torch
from op_cases import one_by_one

from mtm_ops import _chunks

MIB = 1 << 20
B, C, SIZE = 2, 128, 64
X_MIB = B * C * SIZE * SIZE * 4 / MIB  # 4
COLUMNS_MIB = 9 * X_MIB
OFFSETS_MIB = B * 18 * SIZE * SIZE * 4 / MIB


@pytest.mark.parametrize("style", [False, True], ids=["plain", "demod"])
@pytest.mark.parametrize("mask", [False, True], ids=["no-mask", "mask"])
def test_autograd_keeps_the_inputs_and_no_columns(mask, style):
    case = one_by_one(
        C=32, O=32, size=(16, 15), kernel=(3, 3), padding=(1, 1), mask=mask, style=style, dtype=torch.float32
    ).leaves()
    kept: dict[int, int] = {}

    def keep(t: torch.Tensor) -> torch.Tensor:
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        y = case.run("native")
    inputs = sum(t.nbytes for t in case.tensors().values())
    # With a style, autograd also keeps the modulated x, y before demodulation, the weight in the matmul's layout, its
    # squares, and vectors of C and O values.
    extra = case.x.nbytes + y.nbytes + 2 * case.weight.nbytes + 4096 if style else 0
    assert sum(kept.values()) <= inputs + extra
    assert sum(kept.values()) < 0.7 * 9 * case.x.nbytes


def test_the_reference_keeps_the_columns():
    """Shows that the test above can fail."""
    case = one_by_one(C=32, size=(16, 15), kernel=(3, 3), padding=(1, 1), dtype=torch.float32).leaves()
    kept = []

    def keep(t: torch.Tensor) -> torch.Tensor:
        kept.append(t.nbytes)
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        case.run("reference")
    assert sum(kept) > 9 * case.x.nbytes


PEAK = """
import json, sys, torch
import torch.nn.functional as F
from mtm_ops import modulated_deform_conv2d, _native
B, C, SIZE = map(int, sys.argv[1:])
torch.set_num_threads(1)
x, weight = torch.randn(B, C, SIZE, SIZE, requires_grad=True), torch.randn(C, C, 3, 3, requires_grad=True)
offset = torch.randn(B, 18, SIZE, SIZE, requires_grad=True)

def kib(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name))

def plain(double):
    return F.conv2d(x, weight, padding=1), [x, weight]

def ours(double):
    return modulated_deform_conv2d(x, weight, offset, padding=1, impl="native"), [x, weight, offset]

def keeping(double):
    s = _native.Sampling(x, offset, None, (3, 3), (1, 1), (1, 1), (1, 1))
    columns = torch.cat([s.gather(b, e, s.new_columns()[: e - b]) for b, e in s.chunks()]).requires_grad_()
    return columns @ weight.permute(0, 2, 3, 1).reshape(C, -1).t(), [weight, columns]

def peak_mib(make, double):
    for _ in range(2):  # the first call builds, plans and fills pools
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
        before = kib("VmRSS")
        y, ends = make(double)
        grads = torch.autograd.grad(y.square().sum(), ends, create_graph=double)
        if double:
            torch.autograd.grad(sum(g.square().sum() for g in grads), ends)
        del y, grads
        peak = kib("VmHWM") - before
    return peak / 1024

first = {make.__name__: peak_mib(make, False) for make in (plain, ours, keeping)}
print(json.dumps({**first, "ours_double": peak_mib(ours, True)}))
"""


def measure(batch: int, channels: int, size: int) -> dict[str, float]:
    """Peak MiB above the inputs for forward + backward, by implementation."""
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("the peak is read from Linux's /proc/self")
    # Make malloc return freed memory at once, so that the peak counts only live memory.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", PEAK, *map(str, (batch, channels, size))]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if "clear_refs" in done.stderr:
        pytest.skip("this kernel does not let a process reset its peak")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_peak_stays_near_plain_convolution_and_far_below_kept_columns():
    peaks = measure(B, C, SIZE)
    chunk = min(_chunks.CHUNK_ROWS["cpu"] * 9 * C * 4, _chunks.CHUNK_BYTES["cpu"]) / MIB
    # Allowed on top of plain convolution: x, its gradient and y's gradient as rows, the offset's gradients twice, and
    # at most two chunk buffers (the columns, which their gradient overwrites, and the copy that a matmul makes).
    assert peaks["ours"] <= peaks["plain"] + 3 * X_MIB + 2 * OFFSETS_MIB + 2 * chunk, peaks
    assert peaks["keeping"] > 2 * COLUMNS_MIB, peaks  # the comparison does hold the columns and their gradient
    assert peaks["ours"] < 0.7 * peaks["keeping"], peaks
    # The second order may hold two more copies of x, of y and of their rows, but no columns.
    assert peaks["ours_double"] <= peaks["ours"] + 8 * X_MIB + 4 * OFFSETS_MIB + chunk, peaks


def test_peak_does_not_grow_with_the_columns():
    few, many = measure(2, 32, SIZE), measure(8, 32, SIZE)
    x_mib = 6 * 32 * SIZE * SIZE * 4 / MIB  # the six additional images
    growth = {name: many[name] - few[name] for name in few}
    assert growth["keeping"] > 18 * x_mib, growth
    assert growth["ours"] < 9 * x_mib, growth
