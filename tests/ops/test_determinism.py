"""Every call returns the same bits; sampling does so on any number of threads."""

import os
import subprocess
import sys

import pytest
import torch
from op_cases import Case, cotangent, first_order, one_by_one, sample_inputs, second_order

from mtm_ops import _build, _chunks, _native

GEOMETRY = ((3, 3), (1, 1), (1, 1), (1, 1))


def crowded(dtype: torch.dtype = torch.float32, C: int = 257, groups: int = 1) -> Case:
    """Taps that all fall on few pixels, so that a change in summation order changes the bits."""
    return one_by_one(B=3, C=C, size=(9, 8), kernel=(3, 3), padding=(1, 1), groups=groups, style=False, dtype=dtype)


def sample(case: Case, threads: int) -> dict[str, torch.Tensor]:
    """The columns and every gradient of the sampling, chunk by chunk, directly from the kernels."""
    torch.set_num_threads(threads)
    s = _native.Sampling(case.x, case.offset, case.mask, *GEOMETRY)
    found: dict[str, torch.Tensor] = {}
    for name in ("gather", "backward", "double_backward"):
        s.bind_gradients()
        s.bind_cotangents(cotangent(case.x, 2), cotangent(case.offset, 3), cotangent(s.tensors["mask"], 4))
        for begin, end in s.chunks():
            g = cotangent(s.new_columns()[: end - begin], begin)
            found[f"{name} {begin}"] = getattr(s, name)(begin, end, g).clone()
        found |= {f"{name} {k}": v for k, v in s.tensors.items() if k.startswith("grad_")}
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("C", "groups"), [(257, 1), (61, 1), (66, 3), (514, 2)])
def test_sampling_and_its_gradients_have_the_same_bits_on_any_number_of_threads(C, groups, dtype, monkeypatch):
    monkeypatch.setitem(_chunks.CHUNK_ROWS, "cpu", 100)  # three images of 72 rows, cut unevenly
    case = crowded(dtype, C, groups)
    one = sample(case, 1)
    assert len(one) == 3 * 3 + 3 * 3
    for threads in (2, 3, 7):
        for name, value in sample(case, threads).items():
            assert torch.equal(value, one[name]), f"{name} on {threads} threads"


def test_a_large_map_of_few_channels_has_the_same_bits_on_any_number_of_threads():
    """One 64x64 image, which is split only by blocks of pixels."""
    case = one_by_one(B=1, C=16, size=(64, 64), kernel=(3, 3), padding=(1, 1), style=False, dtype=torch.float32)
    one = sample(case, 1)
    for threads in (2, 7):
        for name, value in sample(case, threads).items():
            assert torch.equal(value, one[name]), f"{name} on {threads} threads"


def test_the_order_of_sums_would_show():
    """Checks that the case above can fail: with the rows in another order, its gradient has other bits."""
    case = crowded()
    s = _native.Sampling(case.x, case.offset, case.mask, *GEOMETRY)
    results = []
    for order in ((0, 1), (1, 0)):
        s.bind_gradients()
        for half in order:
            for b in range(3):
                begin = 72 * b + 36 * half
                s.backward(begin, begin + 36, cotangent(s.new_columns()[:36], begin))
        results.append(s.tensors["grad_x"])
    forwards, backwards = results
    assert not torch.equal(forwards, backwards)
    assert torch.allclose(forwards, backwards, atol=1e-4)


COUNT_THREADS = """
import os, sys, torch
from mtm_ops import _native
torch.set_num_threads(int(sys.argv[1]))
x, offset = torch.randn(1, 64, 9, 9), torch.randn(1, 18, 9, 9)
before = len(os.listdir("/proc/self/task"))
s = _native.Sampling(x, offset, None, (3, 3), (1, 1), (1, 1), (1, 1))
s.gather(0, s.rows, s.new_columns())
print(len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts threads in Linux's /proc")
@pytest.mark.parametrize("threads", [1, 4])
def test_kernels_run_on_as_many_threads_as_torch_is_told(threads):
    """Otherwise the comparison across thread counts would compare one thread with one thread."""
    if not _build.load_cpu().threads_built_in():
        pytest.skip("this compiler has no OpenMP")
    done = subprocess.run([sys.executable, "-c", COUNT_THREADS, str(threads)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) <= threads - 1
    assert (int(done.stdout) > 0) == (threads > 1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("order", [first_order, second_order])
def test_the_whole_op_has_the_same_bits_on_every_call(order, dtype):
    torch.set_num_threads(2)
    case = sample_inputs(B=3, C=34, O=17, size=(19, 18), dtype=dtype)
    first = order(case, "native")
    for _ in range(4):
        for name, value in order(case, "native").items():
            expected = first[name]
            assert value is not None
            assert expected is not None
            assert torch.equal(value, expected), name


def test_results_do_not_depend_on_what_was_computed_before():
    """Scratch memory comes from torch.empty, so no part of it may be read before it is written."""
    case = sample_inputs(B=2, C=17)
    first = second_order(case, "native")
    for fill in (float("nan"), 1e30):
        rubbish = [torch.full((n,), fill, dtype=torch.float64) for n in (64, 512, 4096, 32768) for _ in range(20)]
        del rubbish
        for name, value in second_order(case, "native").items():
            expected = first[name]
            assert value is not None
            assert expected is not None
            assert torch.equal(value, expected), name


def test_deterministic_mode_is_accepted():
    case = sample_inputs()
    want = second_order(case, "native")
    torch.use_deterministic_algorithms(True)
    try:
        got = second_order(case, "native")
    finally:
        torch.use_deterministic_algorithms(False)
    for name, value in want.items():
        found = got[name]
        assert value is not None
        assert found is not None
        assert torch.equal(found, value), name
