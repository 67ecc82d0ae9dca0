"""Exact resume: the state of a training that a network pickle does not hold, in a file beside it.

Beside network-snapshot-NNNNNN.pkl there is training-state-NNNNNN.pt, written after the pickle and that tick's metrics,
and training-state-NNNNNN-rank<R>.pt for each further rank. It relies on names that the training loops of all hosts
share. The pickle has the parameters of G, D and G_ema. These files restore the rest: the optimisers, the random states
of Python, NumPy and torch, every buffer (augmentation strength; moving averages, which differ among ranks), the loss's
own tensors, the statistics that control the augmentation, the counters, the grid's latents and the position in the
data, with the draws of the data loader's workers.

Environment:
    MTM_RESUME=weights: ignore these files; --resume then works as upstream.
    MTM_KIMG: the length of the training, such as 0.032; the hosts' own options take whole numbers only.
"""

import hashlib
import os
import random
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mtm_hosts import run_options
from mtm_hosts.hosts import fail, reason
from mtm_hosts.replay import skipped

KEEP = 2  # states of a run to keep: they are larger than the pickles, and a second one is a spare for a damaged pickle
_MODULES = ("G", "D", "G_ema", "augment_pipe")
_COUNTERS = ("cur_nimg", "cur_tick", "tick_start_nimg", "batch_idx")


def state_path(pkl: str | Path, rank: int = 0) -> Path:
    """The path of the state that belongs to a pickle, for a rank."""
    pkl = Path(pkl)
    name = pkl.stem.removeprefix("network-snapshot-") + (f"-rank{rank}" if rank else "")
    return pkl.with_name(f"training-state-{name}.pt")


def configure(c: Any) -> None:
    """Before a run folder is made: check the state beside c.resume_pkl, and restore its run's options.

    If there is no state, nothing differs from upstream.

    Raises:
        SystemExit: with one line, for a damaged pickle or state, and for options that differ from the state's.
    """
    run_options.shorten(c)
    if os.environ.get("MTM_RESUME", "") not in ("", "weights"):
        fail(f"MTM_RESUME must be weights, or not set; got {os.environ['MTM_RESUME']!r}. Correct it.")
    pkl = c.get("resume_pkl")
    if not pkl:
        return
    if not _continues(pkl):
        whole = c.get("resume_whole_state")  # the video hosts' training.resume=latest
        print(f"Resume: {pkl} as upstream does: {'not to the bit' if whole else 'the weights alone, from kimg 0'}")
        return
    state = _read(state_path(pkl))
    for rank in range(1, state["options"]["num_gpus"]):
        _read(state_path(pkl, rank))
    _check_pickle(pkl, state["pickle"])
    run_options.keep(c, state["options"])
    run_options.refuse_others(pkl, state["options"], c)
    print(f"Resume: exactly as {pkl} was, from kimg {state['counters']['cur_nimg'] / 1e3:g}")


def restore(loop: Mapping[str, Any]) -> tuple[Any, ...]:
    """In the training loop, before its first iteration: continue exactly, if there is a state to continue from.

    Args:
        loop: the loop's locals().

    Returns:
        cur_nimg, cur_tick, tick_start_nimg, batch_idx, training_set_iterator, with which the loop goes on; unchanged
        if it does not resume.
    """
    run_options.write(loop)
    pkl = loop["resume_pkl"]
    if not pkl or not _continues(pkl):
        return (*(loop[name] for name in _COUNTERS), loop["training_set_iterator"])
    shared = _read(state_path(pkl))
    mine = _read(state_path(pkl, loop["rank"]))
    run_options.refuse_others(pkl, shared["options"], loop)
    with torch.no_grad():
        for name, buffers in mine["buffers"].items():
            for key, buffer in loop[name].named_buffers():
                buffer.copy_(buffers[key])
        for name, tensor in mine["loss"].items():
            vars(loop["loss"])[name].copy_(tensor)
        for tensor, kept in zip(_grid(loop), mine["grid"], strict=True):
            tensor.copy_(kept)
    for optimiser, kept in zip(_optimisers(loop), shared["optimisers"], strict=True):
        optimiser.load_state_dict(kept)
    _restore_statistics(loop, mine["statistics"])
    iterator = skipped(loop, mine["counters"]["batch_idx"])
    _set_random_states(mine["random"], loop["device"])  # last: the code above draws random numbers
    return (*(mine["counters"][name] for name in _COUNTERS), iterator)


def save(loop: Mapping[str, Any]) -> None:
    """In the training loop, at the end of a tick: if it wrote a snapshot, write the state beside it.

    The first rank's file is written last and moved into place, so if it exists, the state is complete. The training
    goes on as if this had not been called.
    """
    pkl, rank = loop.get("network_pkl", loop["snapshot_pkl"]), loop["rank"]  # StyleSV's snapshot_pkl is the best so far
    if pkl is None:
        return
    state = {
        "counters": {name: int(loop[name]) for name in _COUNTERS},
        "buffers": {name: dict(loop[name].named_buffers()) for name in _MODULES if loop[name] is not None},
        "loss": {name: value for name, value in vars(loop["loss"]).items() if isinstance(value, torch.Tensor)},
        "grid": _grid(loop),
        "statistics": _statistics(loop),
        "random": _random_states(loop["device"]),
    }
    if rank > 0:
        _write(state, state_path(pkl, rank))
    if loop["num_gpus"] > 1:
        torch.distributed.barrier()
    if rank == 0:
        state["optimisers"] = [optimiser.state_dict() for optimiser in _optimisers(loop)]
        state["options"] = run_options.of(loop)
        state["pickle"] = {"size": os.path.getsize(pkl), "sha256": _sha256(pkl)}
        _write(state, state_path(pkl))
        _prune(Path(pkl).parent)


def _continues(pkl: str) -> bool:
    return os.environ.get("MTM_RESUME") != "weights" and state_path(pkl).is_file()


def _read(path: Path) -> dict[str, Any]:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise any error
        fail(
            f"--resume: cannot read the training state {path}: {reason(error)}. Pass an earlier snapshot, or set "
            "MTM_RESUME=weights to start anew from the weights alone."
        )


def _write(state: dict[str, Any], path: Path) -> None:
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _prune(folder: Path) -> None:
    """Keep only the newest states. A pickle without one can still be resumed from, as upstream."""
    whole = [path for path in folder.glob("training-state-*.pt") if "-rank" not in path.name]
    for path in sorted(whole, key=lambda p: p.stat().st_mtime_ns)[:-KEEP]:
        path.unlink()
        for more in folder.glob(f"{path.stem}-rank*.pt"):
            more.unlink()


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_pickle(pkl: str, facts: Mapping[str, Any]) -> None:
    size = os.path.getsize(pkl) if os.path.exists(pkl) else 0
    if size != facts["size"] or _sha256(pkl) != facts["sha256"]:
        fail(
            f"--resume: {pkl} must be the pickle that {state_path(pkl).name} was written for, {facts['size']} bytes; "
            f"got {size} bytes{' of other content' if size == facts['size'] else ''}. Pass an earlier snapshot."
        )


def _optimisers(loop: Mapping[str, Any]) -> list[torch.optim.Optimizer]:
    return list({id(phase.opt): phase.opt for phase in loop["phases"]}.values())


def _grid(loop: Mapping[str, Any]) -> list[torch.Tensor]:
    """The latents of the images that show progress: grid_z, or everything that the video hosts store in `vis`."""
    shown = loop["vis"].values() if "vis" in loop else [loop.get("grid_z")]
    tensors = [t for value in shown for t in (value if isinstance(value, tuple) else [value])]
    return [t for t in tensors if isinstance(t, torch.Tensor)]


def _statistics(loop: Mapping[str, Any]) -> dict[str, Any]:
    """The counters of training_stats, and how much of them its collectors have read: ADA's heuristic uses these."""
    stats = sys.modules[type(loop["stats_collector"]).__module__]
    collectors = {name: loop[name] for name in ("stats_collector", "ada_stats") if loop[name] is not None}
    return {
        "counters": {name: {d.type: t for d, t in found.items()} for name, found in stats._counters.items()},
        "cumulative": stats._cumulative,
        "collectors": {name: [seen._cumulative, seen._moments] for name, seen in collectors.items()},
    }


def _restore_statistics(loop: Mapping[str, Any], kept: Mapping[str, Any]) -> None:
    stats = sys.modules[type(loop["stats_collector"]).__module__]
    counters, cumulative = stats._counters, stats._cumulative
    counters.clear()
    for name, found in kept["counters"].items():
        places = {kind: torch.device("cpu") if kind == "cpu" else loop["device"] for kind in found}
        counters[name] = {places[kind]: tensor.to(places[kind]) for kind, tensor in found.items()}
    cumulative.clear()
    cumulative.update(kept["cumulative"])
    for name, (seen, moments) in kept["collectors"].items():
        loop[name]._cumulative.update(seen)
        loop[name]._moments.update(moments)


def _random_states(device: torch.device) -> dict[str, Any]:
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(np.array(keys, dtype=np.int64)), position, has_gauss, gauss],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def _set_random_states(kept: Mapping[str, Any], device: torch.device) -> None:
    random.setstate(kept["python"])
    name, keys, *rest = kept["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(kept["torch"])
    if kept["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(kept["cuda"], device)
