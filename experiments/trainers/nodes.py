"""Training on several machines: torchrun on each of them, with the same command.

The runner gets their number from MTM_NNODES and the rendezvous from MTM_RDZV. Neither decides what is trained, so they
are not options of a row. The runner starts the first machine's part; run the same command on the others
(docs/running.md).
"""

import os

from experiments.files import UserError

NNODES, RDZV, SLURM = "MTM_NNODES", "MTM_RDZV", "SLURM_JOB_ID"


def nodes() -> int:
    return int(os.environ.get(NNODES) or 1)


def check_nodes(count: int, rdzv: str, gpus: list[int], slurm: bool = False) -> None:
    """Raises UserError if `count` machines cannot share these numbers of GPUs, or have no rendezvous. A Slurm job sets
    its own rendezvous."""
    if count == 1:
        return
    host, _, port = rdzv.rpartition(":")
    if not slurm and (not host or not port.isdigit()):
        raise UserError(
            f"reproduce: RDZV must be HOST:PORT of the first machine where NNODES is {count}; got {rdzv!r}. Give it: "
            "RDZV=node0:29500"
        )
    if uneven := [each for each in gpus if each % count]:
        raise UserError(f"reproduce: NNODES must divide the GPUs of every run; got {count} and {uneven[0]}. Set GPUS.")


def on_nodes(argv: list[str], gpus: int) -> list[str]:
    """The command `argv`, ["python", ...], under torchrun on this machine's share of `gpus`; in a Slurm job, srun
    starts that on each machine. On a single machine `argv` is unchanged."""
    if nodes() == 1:
        return argv
    words = [f"--nnodes={nodes()}", f"--nproc-per-node={gpus // nodes()}", "--rdzv-backend=c10d"]
    words.append(f"--rdzv-endpoint={os.environ.get(RDZV) or 'HOST:PORT'}")
    each = ["srun", "--ntasks-per-node=1"] if SLURM in os.environ else []
    return [*each, argv[0], "-m", "torch.distributed.run", *words, *argv[1:]]
