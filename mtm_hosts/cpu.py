"""Running without a GPU: on import, replaces the CUDA calls of the official code with CPU equivalents.

If CUDA is available, nothing is changed. To train on the CPU of a machine that has a GPU, hide it:
CUDA_VISIBLE_DEVICES= python train.py ...
"""

import functools
import os
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mtm_hosts.device import redirect


class Event:
    """torch.cuda.Event, measured with the CPU's clock."""

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
    """Replaces what needs a GPU: the device, timing events, streams, memory statistics, pinned memory, NCCL."""
    # Makes torch allocate huge pages: without them, page faults took two fifths of the time of a StyleSV run on a CPU.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
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
    _let_ddp_take_a_device()


def _let_ddp_take_a_device() -> None:
    """DistributedDataParallel rejects device_ids for modules on the CPU, but the video hosts pass them."""
    ddp: Any = torch.nn.parallel.DistributedDataParallel
    build = ddp.__init__

    @functools.wraps(build)
    def init(self: Any, module: Any, device_ids: Any = None, *arguments: Any, **options: Any) -> None:
        build(self, module, None, *arguments, **options)

    ddp.__init__ = init


# The previews that a training without a GPU draws to show its progress. With a GPU the hosts draw up to a thousand
# images, and videos of thousands of frames. The video hosts take the labels of their videos from the images.
PREVIEW_VIDEOS, PREVIEW_FRAMES = 1, 4
_grid = {"side": 6}


def small_grid(grid: Callable[..., Any], side: int | None = None) -> Callable[..., Any]:
    """A host's setup_snapshot_image_grid; without a GPU, its grid is cut to `side` x `side` images."""
    if torch.cuda.is_available():
        return grid
    _grid["side"] = side or _grid["side"]

    def small(training_set: Any, random_seed: int = 0) -> tuple[Any, ...]:
        side = _grid["side"]
        return ((side, side), *(part[: side * side] for part in grid(training_set, random_seed)[1:]))

    return small


def small_previews(grid: Callable[..., Any], videos: Callable[..., Any]) -> tuple[Callable[..., Any], ...]:
    """The video hosts' setup_snapshot_image_grid and generate_videos; without a GPU, for fewer images and videos."""
    if torch.cuda.is_available():
        return grid, videos

    def few_videos(G: Any, z: Tensor, c: Tensor, ts: Tensor, *more: Any, **options: Any) -> Tensor:
        def few(value: Any) -> Any:
            return value[:PREVIEW_VIDEOS] if isinstance(value, Tensor) else value

        options = {name: few(value) for name, value in options.items()}
        return videos(G, few(z), few(c), few(ts)[:, :PREVIEW_FRAMES].contiguous(), *map(few, more), **options)

    return small_grid(grid), few_videos


def few_previews(vis: Any) -> None:
    """Without a GPU, reduces StyleSV's number of videos in `vis`. Call before choosing images: it reduces those too."""
    if not torch.cuda.is_available():
        vis.num_videos, _grid["side"] = PREVIEW_VIDEOS, 2


if not torch.cuda.is_available():
    install()
