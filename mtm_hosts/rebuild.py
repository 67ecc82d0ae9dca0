"""Snapshots of StyleSV in a checkout without our lines. The source of this file goes into each, so it stands alone.

StyleSV's legacy.py builds G_ema anew from the checkout's own network file. Without our lines that file knows no MTM:
the network in the snapshot, which carries its own code, is taken instead.
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
    """Has no tensors. When it is unpickled where the network file knows no MTM, legacy.py takes the snapshot's."""

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)
        spec = importlib.util.find_spec("src") and importlib.util.find_spec(NETWORKS)
        if spec and spec.origin and "mtm_hosts" not in pathlib.Path(spec.origin).read_text(encoding="utf-8-sig"):
            networks: Any = importlib.import_module(NETWORKS)
            if not hasattr(networks.Generator, "of_a_snapshot"):
                networks.Generator = taking_snapshots(networks.Generator)


def taking_snapshots(generator: Any) -> Any:
    """The class Generator, but for a network with MTM: that is a copy of the one that the caller names `old`."""

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
