"""Reads a host's network pickle, with a one-line error if it cannot be read; writes StyleSV's."""

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mtm_hosts.hosts import fail, module, reason


def read(path: str) -> dict[str, Any]:
    """What the host's legacy.py returns for the pickle at `path` (a file or an address): G, D, G_ema and more.

    If `path` is a file of tensors only (StyleSV's own resume also takes such files), G and D are name -> tensor.

    Raises:
        SystemExit: naming the file and the reason, e.g. that it is truncated.
    """
    try:
        if _is_zip(path):
            found = torch.load(path, map_location="cpu", weights_only=True)
        else:
            with module("dnnlib.util").open_url(path, verbose=False) as file:
                found = module("legacy").load_network_pkl(file)
        if "G" not in found:
            raise ValueError("it holds no generator G")
        return found
    except FileNotFoundError:
        fail(f"--resume: {path} must be a network pickle; got no such file, seen from {os.getcwd()}. Correct the path.")
    except Exception as error:  # a damaged pickle can raise any error
        fail(
            f"--resume: cannot read {path} as a network pickle: {reason(error)}. It is truncated, or not one. Pass an "
            "earlier snapshot."
        )


def _is_zip(path: str) -> bool:
    """torch.save's files are zips; a pickle is not."""
    try:
        with open(path, "rb") as file:
            return file.read(2) == b"PK"
    except OSError:  # an address, or no such file: open_url reports it
        return False


def write(loop: Mapping[str, Any]) -> str | None:
    """In StyleSV's training loop, which writes a network only if a metric improves: write it at every snapshot.

    Args:
        loop: the loop's locals().

    Returns:
        The pickle's path, on every rank; None if the tick has no snapshot.
    """
    if loop["snapshot_data"] is None:
        return None
    path = Path(loop["run_dir"], f"network-snapshot-{loop['cur_nimg'] // 1000:06d}.pkl")
    if loop["rank"] == 0:
        partial = path.with_name(path.name + ".partial")
        with partial.open("wb") as file:
            pickle.dump(loop["snapshot_data"], file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    return str(path)
