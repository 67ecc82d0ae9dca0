"""Probes that run in a child process inside a checkout of stylegan3. See official_probe.py."""

import functools
import os
import pickle
import sys
from pathlib import Path

import torch
from official_probe import Probe
from probe_lab import grow

TINY = {"z_dim": 16, "w_dim": 16, "c_dim": 0, "img_resolution": 32, "img_channels": 3, "channel_base": 256}
TINY |= {"channel_max": 8, "mapping_kwargs": {"num_layers": 2}}
FEW = {"num_layers": 6}  # stylegan3 has 14, and the reference filters are slow
KINDS = {
    "stylegan2": ("stylegan2", TINY),
    "stylegan3-t": ("stylegan3", {**TINY, **FEW}),
    "stylegan3-r": ("stylegan3", {**TINY, **FEW, "conv_kernel": 1, "channel_max": 16, "use_radial_filters": True}),
}


class StyleGAN3(Probe):
    def build(self, kind, seed=3, **options):
        import dnnlib

        name, kwargs = KINDS[kind]
        torch.manual_seed(seed)
        return dnnlib.util.construct_class_by_name(
            class_name=f"training.networks_{name}.Generator", **{**kwargs, **options}
        )

    def inputs(self, G, batch=2):
        return torch.randn([batch, G.z_dim], generator=torch.Generator().manual_seed(1)), torch.zeros([batch, G.c_dim])

    def shrink(self, c):
        if "stylegan3" in c["G_kwargs"].class_name:
            c["G_kwargs"].update(FEW)
        return c

    def regularise(self, heads):
        """Gradients of path-length regularisation, through the host's own loss."""
        from training.loss import StyleGAN2Loss

        out = {}
        for head in heads:
            G = grow(self.build("stylegan2", mtm="low", mtm_head=head)).train()
            loss = StyleGAN2Loss(torch.device("cpu"), G, None, pl_weight=2, style_mixing_prob=0.9)
            z, c = self.inputs(G, 4)
            loss.accumulate_gradients("Greg", None, None, z, c, gain=4, cur_nimg=0)
            out[head] = {n: p.grad for n, p in G.named_parameters() if ".mtm." in n}
        return out

    def exported(self, path, kind, arguments, **options):
        """Export a snapshot with tools.export's own command; also returns what the network draws for random latents."""
        from click.testing import CliRunner

        from tools import export

        G = grow(self.build(kind, mtm="low", mtm_head="offset+mask", **options)).eval().requires_grad_(False)
        for n, p in G.named_parameters():
            if n.endswith("noise_strength"):
                p += 0.3
        G.mapping.w_avg.normal_()
        with open(path, "wb") as f:
            pickle.dump({"G": G, "D": G, "G_ema": G, "augment_pipe": None, "training_set_kwargs": {}}, f)
        export.open_here = functools.partial(export.open_here, vendor=Path.cwd().parent)
        result = CliRunner().invoke(export.main, [path, *arguments])
        z = torch.randn([2, G.z_dim])
        c = torch.eye(2, G.c_dim) if G.c_dim else None
        draw = {n: t for n, t in G.named_buffers() if n.endswith("noise_const")}
        return {"output": result.output, "z": z, "c": c, "noise": list(draw.values()),
                "image": G(z, c, truncation_psi=0.7, noise_mode="const")}  # fmt: skip

    def our_metrics(self, data, calls, generated=8, missing=()):
        """The host's calc_metric for each (name, folder of weights), on a fresh generator with the same latents.

        Returns the values or error texts, and the cached files after each call. `missing` names packages that cannot be
        imported. It also works as one rank of a torchrun.
        """
        for package in missing:
            sys.modules[package] = None
        from metrics import metric_main, metric_utils

        metric_main.dnnlib.mtm_hosts.more_metrics.GENERATED_NIMG = generated
        rank, ranks = (int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1)))
        if ranks > 1:
            torch.distributed.init_process_group("gloo")
        dataset = {"class_name": "training.dataset.ImageFolderDataset", "path": data, "resolution": 32}
        options = {"G": self.build("stylegan2"), "dataset_kwargs": {**dataset, "use_labels": False}, "num_gpus": ranks}
        generate, out = metric_utils.compute_feature_stats_for_generator, {"values": [], "cached": []}

        def same_latents(**how):  # reading the data draws a random number, reading the cache does not
            torch.manual_seed(5)
            return generate(**how)

        metric_utils.compute_feature_stats_for_generator = same_latents
        for name, folder in calls:
            os.environ["MTM_WEIGHTS"] = folder
            metric_utils._feature_detector_cache.clear()
            try:
                taken = metric_main.calc_metric(name, rank=rank, device=torch.device("cpu"), **options)
                out["values"].append(taken.results[name])
            except SystemExit as error:
                out["values"].append(str(error))
            cache = Path(os.environ["DNNLIB_CACHE_DIR"], "gan-metrics")
            out["cached"].append(os.listdir(cache) if cache.exists() else [])
        if ranks > 1:
            torch.distributed.barrier()
            torch.distributed.destroy_process_group()
        return out

    def half(self, kinds):
        """The module's layers in float16 and in float32, through the host's layer if the CPU can run it."""
        out = {}
        for kind in kinds:
            G = grow(self.build(kind, mtm="low"), 0.1).eval().requires_grad_(False)
            layer = next(m for m in G.synthesis.modules() if hasattr(m, "mtm"))
            offsets = []
            layer.mtm.register_forward_hook(lambda m, a, o, kept=offsets: kept.append((a[0].dtype, o[0].dtype)))
            size = [layer.resolution] * 2 if hasattr(layer, "resolution") else layer.in_size[::-1].tolist()
            generator = torch.Generator().manual_seed(2)
            x = torch.randn([2, layer.in_channels, *size], generator=generator)
            w = torch.randn([2, layer.w_dim], generator=generator)
            if kind == "stylegan2":
                run = [layer(x.to(d), w, noise_mode="const").float() for d in (torch.float32, torch.float16)]
            else:
                style, gain = layer.affine(w), torch.tensor(0.7)
                run = [layer.mtm.at(w)(x=x.to(d), w=layer.weight, s=style, padding=layer.conv_kernel - 1,
                                       demodulate=True, input_gain=gain).float()
                       for d in (torch.float32, torch.float16)]  # fmt: skip
            out[kind] = {"runs": run, "offsets": offsets}
        return out


if __name__ == "__main__":
    StyleGAN3().run()
