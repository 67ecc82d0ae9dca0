"""Shares work between several processes started by torchrun. Sample i belongs to rank i modulo the number of ranks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Ranks:
    """This process's rank, the number of ranks, and the device on which they communicate ("cpu" or "cuda")."""

    rank: int = 0
    count: int = 1
    device: str = "cpu"

    @property
    def first(self) -> bool:
        return self.rank == 0

    def all(self, here: bool) -> bool:
        """Whether `here` is true on every rank. All ranks get the same answer."""
        if self.count == 1:
            return here
        import torch
        import torch.distributed as dist

        votes = torch.tensor([int(here)], device=self.device)
        dist.all_reduce(votes, op=dist.ReduceOp.MIN)
        return bool(votes.item())


@contextmanager
def joined(device: str) -> Iterator[tuple[Ranks, str]]:
    """The ranks that torchrun started, and this rank's device; one rank without torchrun. `device`: cpu or cuda."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Ranks(), device
        return
    import torch
    import torch.distributed as dist

    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    cuda = device.startswith("cuda")
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield Ranks(dist.get_rank(), count, device if cuda else "cpu"), device
    finally:
        dist.destroy_process_group()
