"""The position in the data when a training resumes: skips the images already used, and repeats the random draws.

The video hosts choose a clip's frames at random, in the data loader's workers. A worker's random stream depends on a
seed and on the clips it has read. So a worker that resumes repeats their draws, without reading them.
"""

import contextlib
import random
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler, get_worker_info


def skipped(loop: Mapping[str, Any], batches: int) -> Any:
    """The loop's data iterator after that many batches: their indices are drawn, their images are not read."""
    each = loop["batch_size"] // loop["num_gpus"]
    sampler, options = loop["training_set_sampler"], loop["data_loader_kwargs"]
    replay = Replay(sampler, loop["training_set_iterator"]._base_seed, batches, each)
    return iter(
        DataLoader(loop["training_set"], each, sampler=From(sampler, batches * each), worker_init_fn=replay, **options)
    )


class From(Sampler):
    """Another sampler's indices from number `count` on, counted from 0."""

    def __init__(self, sampler: Iterable[int], count: int) -> None:
        self.sampler, self.count = sampler, count

    def __iter__(self) -> Iterator[int]:
        return islice(iter(self.sampler), self.count, None)


class Replay:
    """Restores a worker's random streams to their state after `batches` batches of all workers.

    Args:
        sampler: the data set's sampler, from its beginning.
        seed: base seed of the workers of the training's first iterator; it follows from the training's seed.
        each: images in a batch.
    """

    def __init__(self, sampler: Iterable[int], seed: int, batches: int, each: int) -> None:
        self.sampler, self.seed, self.batches, self.each = sampler, seed, batches, each

    def __call__(self, worker: int) -> None:
        info: Any = get_worker_info()
        role = (self.batches + worker) % info.num_workers  # the worker that would have made this worker's first batch
        seed_as_torch_does(self.seed, role)
        draw = _drawer(info.dataset)
        if draw is not None:
            for number, index in enumerate(islice(iter(self.sampler), self.batches * self.each)):
                if number // self.each % info.num_workers == role:
                    draw(index)


def seed_as_torch_does(seed: int, worker: int) -> None:
    """Seeds the random streams of a data loader's worker like torch.utils.data."""
    from torch.utils.data._utils.worker import _generate_state

    random.seed(seed + worker)
    torch.manual_seed(seed + worker)
    np.random.seed(_generate_state(seed, worker))


def _drawer(dataset: Any) -> Any:
    """A function that draws like reading an item, without reading it; None for a data set that draws nothing."""
    if not hasattr(dataset, "_load_raw_frames"):
        return None
    module: Any = sys.modules[type(dataset).__module__]

    def draw(index: int) -> None:
        read = module.load_image_from_buffer
        module.load_image_from_buffer = lambda *_file, **_how: np.zeros(1, np.uint8)
        dataset._open_file = lambda name: contextlib.nullcontext()
        try:
            dataset._load_raw_frames(dataset._raw_idx[index])
        finally:
            module.load_image_from_buffer = read
            dataset.__dict__.pop("_open_file", None)

    return draw
