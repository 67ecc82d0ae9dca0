"""How a CUDA kernel is launched: device, stream and errors. Stand-ins replace torch.cuda and the library."""

import contextlib
import ctypes

import pytest
import torch

from mtm_ops import _build, _launch, _native


class Entry:
    """A kernel's entry point that records its calls and returns an error message or None."""

    def __init__(self, calls: list, current: list[int], error: bytes | None) -> None:
        self.calls, self.current, self.error = calls, current, error
        self.argtypes = self.restype = None

    def __call__(self, params, stream) -> bytes | None:
        assert self.restype is ctypes.c_char_p
        assert self.argtypes == (ctypes.c_void_p, ctypes.c_void_p)
        self.calls.append((self.current[0], stream))
        return self.error


@pytest.fixture
def gpu(monkeypatch):
    """Two GPUs, number 0 current: (calls, loads, a list whose only item is the error that launches return)."""
    calls, loads, current, error = [], [], [0], [None]

    @contextlib.contextmanager
    def device(index):
        before, current[0] = current[0], index
        yield
        current[0] = before

    class Library:
        def __getattr__(self, name):
            loads.append(name)
            return Entry(calls, current, error[0])

    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[0])
    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, index))
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda index: 100 + index, raising=False)
    monkeypatch.setattr(_build, "load_cuda", lambda capability: Library())
    _launch._cuda_kernel.cache_clear()
    yield calls, loads, error
    _launch._cuda_kernel.cache_clear()


def test_a_kernel_starts_on_its_device_and_that_devices_current_stream(gpu):
    calls, loads, _ = gpu
    params = _native.SampleParams()
    for device in ("cuda", "cuda:0", "cuda:1", "cuda:1", "cuda:0"):
        _launch.launch("gather", torch.float16, torch.device(device), params)
    assert calls == [(0, 100), (0, 100), (1, 101), (1, 101), (0, 100)]
    assert loads == ["launch_gather_f16"] * 2, "looked up once for each device"


def test_a_launch_that_cuda_refuses_raises(gpu):
    gpu[2][0] = b"too many resources"
    with pytest.raises(RuntimeError, match=r"launch_backward_f32 did not start on cuda:1: too many resources\."):
        _launch.launch("backward", torch.float32, torch.device("cuda:1"), _native.SampleParams())


def test_the_probe_has_no_rows(gpu, monkeypatch):
    seen = []
    monkeypatch.setattr(_launch, "launch", lambda *args: seen.append(args))
    _native.probe(torch.device("cuda:1"))
    ((name, _, device, params),) = seen
    assert (name, device.index, params.row_begin, params.row_end) == ("gather", 1, 1, 1)
