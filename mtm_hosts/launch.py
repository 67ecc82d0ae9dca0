"""Several nodes: `torchrun --nnodes=N --nproc-per-node=M train.py --gpus=N*M ...`. Without torchrun nothing changes.

The video hosts' src/infra/launch.py creates a folder for the experiment, and starts train.py there by a command line.

Environment:
    MTM_LAUNCHER: the command that starts train.py in that line, such as "torchrun --nproc-per-node=8".
"""

import json
import os
import re
import shlex
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from mtm_hosts.device import redirect
from mtm_hosts.hosts import fail


def under_torchrun() -> bool:
    """Whether torchrun, or another launcher that sets the variables of env://, started this process."""
    return {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"} <= os.environ.keys()


def local_device(chosen: torch.device) -> torch.device:
    """The local rank's GPU. The hosts use the global rank as the GPU's index, which does not exist on a second node."""
    if chosen.type != "cuda" or chosen.index != int(os.environ["RANK"]):
        return chosen
    return torch.device("cuda", int(os.environ["LOCAL_RANK"]))


def quiet_followers() -> None:
    """Silences all ranks but the first: every rank runs the command line, but only the first prints the options."""
    if under_torchrun() and int(os.environ["RANK"]) > 0:
        # The host's logger redirects stderr to stdout: restore both streams first.
        sys.stderr = sys.__stderr__
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def command(line: str) -> str:
    """The command line with which launch.py starts train.py, changed to use this Python or MTM_LAUNCHER, to have our
    packages on its path, and to allow spaces in the folder's name."""
    launcher = os.environ.get("MTM_LAUNCHER") or shlex.quote(sys.executable)
    paths = [str(Path(__file__).resolve().parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    start = f"PYTHONPATH={shlex.quote(os.pathsep.join(paths))} {launcher} src/train.py"
    typed = re.search(r"cd ((?:(?! && ).)+) && \S+ src/train\.py", line)
    if typed is None:
        return line
    if any(word.lstrip("+") == "training.resume=latest" for word in sys.argv[1:]):
        _resume_latest(Path(typed[1], "experiment_config.yaml"))
    return line.replace(typed[0], f"cd {shlex.quote(typed[1])} && {start}")


def _resume_latest(config: Path) -> None:
    """launch.py does not change the configuration in an existing folder. train.py reads it, would start anew, and would
    fail because output exists. So this sets training.resume to "latest" there."""
    if config.is_file():
        from omegaconf import OmegaConf

        kept = OmegaConf.load(config)
        kept.training.resume = "latest"
        OmegaConf.save(kept, config)


def run(line: str) -> NoReturn:
    """Runs that line and exits with its exit code: launch.py alone would report success for a training that failed."""
    raise SystemExit(subprocess.call(line, shell=True))


def train(subprocess_fn: Callable[..., None], c: Any) -> None:
    """This rank's part of a training that torchrun started: agree on the run's folder, then run the host's function.

    Args:
        subprocess_fn: the host's function, called with the positional arguments rank, c, temp_dir.
        c: the host's options; num_gpus must be the number of processes.

    Raises:
        SystemExit: if it is not; the message names the option.
    """
    world = int(os.environ["WORLD_SIZE"])
    if c.num_gpus != world:
        fail(
            f"--gpus must be the number of processes that torchrun starts, {world}; got {c.num_gpus}. "
            f"Pass --gpus={world}, with a --batch that it divides."
        )
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if gpu else "gloo", init_method="env://")
    distributed: Any = dist
    distributed.init_process_group = lambda *_how, **_where: None  # the host's own call follows, with its own init file
    c.run_dir = _agree_on_folder(c)
    try:
        subprocess_fn(dist.get_rank(), c, c.run_dir)
    except Exception:
        # The host's logger captures this rank's stderr; without this line the error would appear only in its log.
        traceback.print_exc(file=sys.__stderr__)
        raise
    dist.destroy_process_group()


def _agree_on_folder(c: Any) -> str:
    """The run folder. The first rank creates it, with the options in it; every node must share that file system."""
    box: list[Any] = [c.run_dir]
    dist.broadcast_object_list(box, src=0)
    folder = Path(box[0])
    c.run_dir = str(folder)
    if dist.get_rank() == 0:
        folder.mkdir(parents=True, exist_ok=bool(c.get("resume_whole_state")))
        if "cfg" not in c:  # the video hosts keep their whole configuration elsewhere
            (folder / "training_options.json").write_text(json.dumps(c, indent=2))
    dist.barrier()
    folder.mkdir(parents=True, exist_ok=True)  # a node without the shared file system keeps its own log
    return c.run_dir


if under_torchrun():
    redirect(local_device)
