"""What the probes of all hosts share. A probe runs in a checkout, as a child process: <host>_probe.py NAME OUT.pt JSON.

Probes also run in checkouts without our patches, so they bring their own stand-ins for what newer libraries lack.
"""

import json
import os
import pickle
import sys
import types
from pathlib import Path

import torch


def stub_pkg_resources():
    """For a checkout without our concern compat; where it is applied, our own stand-in is what runs."""
    first = next(path for path in map(Path, ("dnnlib/__init__.py", "src/dnnlib/__init__.py")) if path.exists())
    if "mtm_hosts.compat" in first.read_text():
        return
    from packaging.version import parse

    sys.modules.setdefault("pkg_resources", types.ModuleType("pkg_resources"))
    sys.modules["pkg_resources"].parse_version = parse


def tensors(module):
    return {n: t.detach().clone() for n, t in [*module.named_parameters(), *module.named_buffers()]}


def grow(G, scale=0.3):
    """Give every MTM parameter of G a value with effect, as training would."""
    generator = torch.Generator().manual_seed(9)
    for n, p in G.named_parameters():
        if ".mtm." in n:
            p.data += scale * torch.randn(p.shape, generator=generator)
    return G


class Stopped(BaseException):
    """Ends a training in the middle, as a kill does."""


def pickled(path):
    """The tensors of a snapshot's networks."""
    with open(path, "rb") as f:
        data = pickle.load(f)
    return {k: data[k].state_dict() for k in ("G", "D", "G_ema", "augment_pipe") if data[k] is not None}


def main(probes):
    """Run the probe that the command line names, in the working directory, and keep what it returns."""
    name, path, arguments = sys.argv[1:]
    sys.path.insert(0, os.getcwd())
    result = probes[name](**json.loads(arguments))
    torch.save(result, path.replace("RANK", os.environ.get("RANK", "")))
