"""Loads snapshots of StyleSV in a checkout without our lines. This file's source goes into each, so it stands alone.

StyleSV's legacy.py builds G_ema anew from the checkout's own network file. Without our lines that file does not support
MTM. Then the network in the snapshot, which carries its own code, is used instead.
"""

import copy
import importlib
import importlib.util
import pathlib
import sys
from typing import Any

import torch

NETWORKS = "src.training.networks"


class KeepsItsCode(torch.nn.Module):
    """Has no tensors. When it is unpickled and the network file does not support MTM, it makes legacy.py use the
    snapshot's network."""

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)
        spec = importlib.util.find_spec("src") and importlib.util.find_spec(NETWORKS)
        if spec and spec.origin and "mtm_hosts" not in pathlib.Path(spec.origin).read_text(encoding="utf-8-sig"):
            networks: Any = importlib.import_module(NETWORKS)
            if not hasattr(networks.Generator, "of_a_snapshot"):
                networks.Generator = taking_snapshots(networks.Generator)


def taking_snapshots(generator: Any) -> Any:
    """The class Generator, except that a network with MTM is a copy of the caller's local variable `old`."""

    def build(*arguments: Any, **options: Any) -> Any:
        if (options.get("synthesis_kwargs") or {}).get("mtm") is None:
            return generator(*arguments, **options)
        old = sys._getframe(1).f_locals.get("old")
        if old is None:
            raise TypeError(
                "Generator: synthesis_kwargs must not have mtm in a checkout without MTM; got mtm="
                f"{options['synthesis_kwargs']['mtm']!r}. Patch it (make patch), or copy the snapshot's network."
            )
        return copy.deepcopy(old)

    build.of_a_snapshot = True  # type: ignore[attr-defined]
    return build
