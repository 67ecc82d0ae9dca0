"""A training on several machines: torchrun on each of them, with the same command.

The runner says how many by MTM_NNODES and where they meet by MTM_RDZV; neither decides what is trained, so they are no
options of a row. The runner starts the first machine's part; the same command starts the others' (docs/running.md).
"""

import os

from experiments.files import UserError

NNODES, RDZV = "MTM_NNODES", "MTM_RDZV"


def nodes() -> int:
    return int(os.environ.get(NNODES) or 1)


def check_nodes(count: int, rdzv: str, gpus: list[int]) -> None:
    """Raises UserError where `count` machines cannot share so many GPUs, or have no place to meet."""
    if count == 1:
        return
    host, _, port = rdzv.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(
            f"reproduce: RDZV must be HOST:PORT of the first machine where NNODES is {count}; got {rdzv!r}. Give it: "
            "RDZV=node0:29500"
        )
    if uneven := [each for each in gpus if each % count]:
        raise UserError(f"reproduce: NNODES must divide the GPUs of every run; got {count} and {uneven[0]}. Set GPUS.")


def torchrun(gpus: int) -> list[str]:
    """The words that start a script on this machine's share of `gpus`; none for a single machine."""
    if nodes() == 1:
        return []
    words = [f"--nnodes={nodes()}", f"--nproc-per-node={gpus // nodes()}", "--rdzv-backend=c10d"]
    return ["-m", "torch.distributed.run", *words, f"--rdzv-endpoint={os.environ[RDZV]}"]
