"""Running without a GPU: on import, gives the CUDA calls of the official code a CPU meaning.

Where CUDA is available nothing is changed. To train on the CPU of a machine that has a GPU, hide it:
CUDA_VISIBLE_DEVICES= python train.py ...
"""

import time
from typing import Any

import torch

from mtm_hosts.device import redirect


class Event:
    """torch.cuda.Event on the host's clock."""

    def __init__(self, **_options: Any) -> None:
        self.time_s = 0.0

    def record(self, stream: Any = None) -> None:
        self.time_s = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: "Event") -> float:
        """Milliseconds from this event to `end`."""
        return (end.time_s - self.time_s) * 1e3


def install() -> None:
    """Replace what only a GPU has: the device, timing events, streams, memory statistics, pinned memory, NCCL."""
    redirect(lambda chosen: torch.device("cpu") if chosen.type == "cuda" else chosen)
    cuda: Any = torch.cuda
    cuda.Event = Event
    cuda.current_stream = lambda device=None: None
    cuda.reset_peak_memory_stats = lambda device=None: None
    cuda.max_memory_allocated = cuda.max_memory_reserved = lambda device=None: 0
    tensor: Any = torch.Tensor
    tensor.pin_memory = lambda self, device=None: self
    distributed: Any = torch.distributed
    join = distributed.init_process_group

    def init_process_group(backend: str | None = None, *arguments: Any, **options: Any) -> None:
        join("gloo" if backend == "nccl" else backend, *arguments, **options)

    distributed.init_process_group = init_process_group


if not torch.cuda.is_available():
    install()
