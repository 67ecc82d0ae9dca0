"""Helpers that the probes of all hosts share.

A probe runs in a checkout, in a child process: <host>_probe.py NAME OUT.pt JSON. Some checkouts lack our patches, so
probes bring their own stand-ins for what newer libraries no longer have.
"""

import json
import os
import pickle
import sys
import types
from pathlib import Path

import torch


def stub_pkg_resources():
    """For checkouts without the concern compat. If it is applied, its own stand-in is used."""
    first = next(path for path in map(Path, ("dnnlib/__init__.py", "src/dnnlib/__init__.py")) if path.exists())
    if "mtm_hosts.compat" in first.read_text():
        return
    from packaging.version import parse

    sys.modules.setdefault("pkg_resources", types.ModuleType("pkg_resources"))
    sys.modules["pkg_resources"].parse_version = parse


def tensors(module):
    return {n: t.detach().clone() for n, t in [*module.named_parameters(), *module.named_buffers()]}


def grow(G, scale=0.3):
    """Give every MTM parameter of G a value that has an effect, as training would."""
    generator = torch.Generator().manual_seed(9)
    for n, p in G.named_parameters():
        if ".mtm." in n:
            p.data += scale * torch.randn(p.shape, generator=generator)
    return G


class Stopped(BaseException):
    """Ends a training in the middle, as if it were killed."""


def pickled(path):
    """The tensors of the networks in a snapshot."""
    with open(path, "rb") as f:
        data = pickle.load(f)
    return {k: data[k].state_dict() for k in ("G", "D", "G_ema", "augment_pipe") if data[k] is not None}


def metric(snapshot_path, data, folder):
    """A small FID through calc_metrics.py's own main, with a test metric and a test detector."""

    class Mean(torch.nn.Module):
        def forward(self, x, return_features: bool = True):
            return torch.nn.functional.adaptive_avg_pool2d(x.float(), 2).flatten(1)

    torch.jit.script(Mean()).save(os.path.join(folder, "inception-2015-12-05.pt"))
    with open(os.path.join(folder, "ov_metrics.py"), "w") as f:
        f.write("def register(register_metric):\n"
                "    from metrics import frechet_inception_distance as fid\n"
                "    def fid_tiny(opts):\n"
                "        return dict(fid_tiny=fid.compute_fid(opts, max_real=None, num_gen=64))\n"
                "    register_metric(fid_tiny)\n")  # fmt: skip
    sys.path.insert(0, folder)
    os.environ.update(MTM_METRICS="ov_metrics", MTM_DETECTORS=folder)
    os.environ["DNNLIB_CACHE_DIR"] = os.path.join(folder, "cache")
    import calc_metrics
    from metrics import metric_utils

    seen = []
    whole = metric_utils.compute_feature_stats_for_dataset
    here = {"data_loader_kwargs": {"num_workers": 0}}  # starting three workers takes longer than reading a few images
    metric_utils.compute_feature_stats_for_dataset = lambda **k: seen.append(s := whole(**k, **here)) or s
    words = ["--network", snapshot_path, "--data", data, "--metrics", "fid_tiny"]
    calc_metrics.calc_metrics(words, standalone_mode=False)
    run = os.path.dirname(snapshot_path)
    with open(os.path.join(run, "metric-fid_tiny.jsonl")) as f:
        line = json.loads(f.readlines()[-1])
    cached = os.listdir(os.path.join(folder, "cache", "gan-metrics"))
    return {"result": line["results"]["fid_tiny"], "cached": cached, "images": seen[0].num_items}


def main(probes):
    """Run the probe that the command line names in the working directory, and save what it returns."""
    name, path, arguments = sys.argv[1:]
    sys.path.insert(0, os.getcwd())
    result = probes[name](**json.loads(arguments))
    torch.save(result, path.replace("RANK", os.environ.get("RANK", "")))
