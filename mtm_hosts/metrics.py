"""Additional metrics, and custom detectors, in the official metric code.

Environment:
    MTM_METRICS: modules with a function `register(register_metric)`, separated by commas. Their metrics are added to
        those of mtm_hosts.more_metrics.
    MTM_DETECTORS: a folder whose files replace the detectors that the metrics would download: <name>.pt
        (TorchScript) or <name>.pkl (pickle) for an address that ends in <name>.<anything>.
    MTM_WEIGHTS: the folder that `make weights` filled (else `weights` in this repository). The official detectors are
        read from it and verified, instead of downloaded; random stand-ins in it are not used.
    MTM_ISOLATE_METRICS: 1 to restore the random streams after each metric: then a training draws the same numbers
        whichever metrics it computes. 0, or unset: as upstream.
"""

import functools
import hashlib
import importlib
import os
import pickle
import random
import sys
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mtm_hosts import hosts, more_metrics


def register(register_metric: Callable[..., Any]) -> None:
    """Add our metrics, and those of the modules that MTM_METRICS lists, through the host's own decorator. Isolate
    all of them if MTM_ISOLATE_METRICS is set.

    Raises:
        SystemExit: if MTM_ISOLATE_METRICS is neither 0 nor 1.
    """
    more_metrics.register(register_metric)
    for name in filter(None, os.environ.get("MTM_METRICS", "").split(",")):
        importlib.import_module(name.strip()).register(register_metric)
    isolate = os.environ.get("MTM_ISOLATE_METRICS") or "0"
    if isolate not in ("0", "1"):
        hosts.fail(f"MTM_ISOLATE_METRICS must be 0 or 1; got {isolate!r}. Correct it, or unset it.")
    if isolate == "1":
        host = sys.modules[register_metric.__module__]
        vars(host)["calc_metric"] = isolated(host.calc_metric)


def isolated(calc_metric: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps the host's calc_metric: afterwards the random streams continue as if it had not been called."""

    @functools.wraps(calc_metric)
    def calc(*arguments: Any, **options: Any) -> Any:
        with _kept_streams(options.get("device")):
            return calc_metric(*arguments, **options)

    return calc


@contextmanager
def _kept_streams(device: torch.device | None) -> Iterator[None]:
    """Restores the generators of Python, NumPy and torch: on the CPU, on `device`, and on the current GPU."""
    gpus = {torch.cuda.current_device()} if torch.cuda.is_available() else set()
    if gpus and device is not None and device.type == "cuda" and device.index is not None:
        gpus.add(device.index)
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=sorted(gpus)):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def provide(cache: MutableMapping[tuple[str, torch.device], Any], url: str, device: torch.device) -> None:
    """Put the detector for `url` into the host's cache, if it is not there yet: one of ours, its replacement, or the
    official one if it was fetched before. A fetched file whose bytes are not the official ones ends the program."""
    if (url, device) in cache:
        return
    if more_metrics.is_ours(url):
        cache[url, device] = more_metrics.detector(url, device)
        return
    path = _stand_in(url) or _fetched(url)
    if path is None:
        return
    if path.suffix == ".pt":
        detector = torch.jit.load(str(path), map_location=device).eval()
    else:
        with path.open("rb") as file:
            detector = pickle.load(file).to(device)
    cache[url, device] = detector


def cache_facts(url: str) -> dict[str, str]:
    """What else a file of dataset statistics depends on: the bytes of our weights, or of the replacement. Empty for the
    official detector, so that its existing statistics are found again."""
    if more_metrics.is_ours(url):
        return more_metrics.cache_facts(url)
    path = _stand_in(url)
    return {} if path is None else {"detector_sha256": _sha256(path)}


def folder() -> str:
    """Where StyleSV looks for a detector before it downloads it; replaces the hard-coded folder of its authors."""
    return os.environ.get("MTM_DETECTORS") or os.path.join(os.devnull, "none")


def whole_tag(tag: str, url: str, **facts: Any) -> str:
    """StyleSV's name for a file of dataset statistics, with everything the statistics depend on. The authors removed
    that, so statistics of another resolution or split were reused."""
    text = repr(sorted({**facts, **cache_facts(url)}.items()))
    return f"{tag}-{hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()}"


@functools.cache
def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _stand_in(url: str) -> Path | None:
    folder = os.environ.get("MTM_DETECTORS")
    if not folder:
        return None
    stem = url.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    candidates = (Path(folder) / f"{stem}{suffix}" for suffix in (".pt", ".pkl"))
    return next((path for path in candidates if path.is_file()), None)


def _fetched(url: str) -> Path | None:
    if not os.path.isdir(Path(__file__).resolve().parents[1] / (os.environ.get("MTM_WEIGHTS") or "weights")):
        return None
    try:  # the host's own environment may lack what experiments needs: then it downloads, like upstream
        from experiments import weights
    except ImportError:
        return None
    try:
        return weights.official(url)
    except ValueError as error:
        hosts.fail(str(error))
