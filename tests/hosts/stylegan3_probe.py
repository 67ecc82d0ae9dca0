"""What a child process does inside a checkout of stylegan3: see probe_lab.py. The tests compare what it returns."""

import contextlib
import functools
import hashlib
import io
import json
import os
import pickle
import random
import sys
import warnings
from pathlib import Path

import torch
from probe_lab import Stopped, grow, main, stub_pkg_resources, tensors

TINY = {"z_dim": 16, "w_dim": 16, "c_dim": 0, "img_resolution": 32, "img_channels": 3, "channel_base": 256}
TINY |= {"channel_max": 8, "mapping_kwargs": {"num_layers": 2}}
FEW = {"num_layers": 6}  # of stylegan3's 14: the reference filters are slow
KINDS = {
    "stylegan2": ("stylegan2", TINY),
    "stylegan3-t": ("stylegan3", {**TINY, **FEW}),
    "stylegan3-r": ("stylegan3", {**TINY, **FEW, "conv_kernel": 1, "channel_max": 16, "use_radial_filters": True}),
}


def build(kind, seed=3, **options):
    import dnnlib

    name, kwargs = KINDS[kind]
    torch.manual_seed(seed)
    return dnnlib.util.construct_class_by_name(
        class_name=f"training.networks_{name}.Generator", **{**kwargs, **options}
    )


def inputs(G, batch=2):
    return torch.randn([batch, G.z_dim], generator=torch.Generator().manual_seed(1)), torch.zeros([batch, G.c_dim])


def networks(kinds, **options):
    """Parameters, buffers, random stream after construction, images and gradients of fresh generators."""
    stub_pkg_resources()
    out = {}
    for kind in kinds:
        G = build(kind, **options)
        stream = torch.randn(4)
        z, c = inputs(G)
        G.train()
        image = G(z, c, noise_mode="const")
        names, params = zip(*G.named_parameters(), strict=True)
        grads = torch.autograd.grad(image.square().sum(), params, allow_unused=True)
        empty = G(torch.full_like(z, torch.nan), c)
        out[kind] = {
            "tensors": tensors(G), "stream": stream, "image": image.detach(), "nan_shape": list(empty.shape),
            "grads": {n: g for n, g in zip(names, grads, strict=True) if g is not None},
            "modules": [n for n, m in G.named_modules() if n.endswith(".mtm")],
            "init_kwargs": json.loads(json.dumps(G.init_kwargs)),
        }  # fmt: skip
    return {"kinds": out, "mtm_ops": "mtm_ops" in sys.modules}


def small_training(iterations, tick=None, stop=None, **options):
    """Let train.py's own main train for a few iterations and draw four samples instead of a thousand.

    tick: iterations per tick; stop: end as if killed once so many are saved; options: of the training loop.
    """
    import train

    loop = train.training_loop
    whole, grid = loop.training_loop, loop.setup_snapshot_image_grid
    initial = {}

    def small_grid(training_set, random_seed=0):
        _, images, labels = grid(training_set, random_seed)
        return (2, 2), images[:4], labels[:4]

    def shrink(c):
        if "stylegan3" in c["G_kwargs"].class_name:
            c["G_kwargs"].update(FEW)
        return c

    def few(**c):
        shrink(c)
        c["total_kimg"] = iterations * c["batch_size"] / 1000
        if tick:
            c["kimg_per_tick"] = tick * c["batch_size"] / 1000
        whole(**{**c, **options})

    def summary(module, arguments, show=loop.misc.print_module_summary):
        initial.setdefault(type(module).__name__, tensors(module))
        return show(module, arguments)

    loop.training_loop, loop.setup_snapshot_image_grid, loop.misc.print_module_summary = few, small_grid, summary
    if hasattr(getattr(loop.dnnlib, "mtm_hosts", None), "mtm"):
        mtm = loop.dnnlib.mtm_hosts.mtm  # builds the generator once, before the loop does
        built = mtm._built
        mtm._built = lambda c: built(shrink(c))
    if stop:
        resume = loop.dnnlib.mtm_hosts.resume
        save = resume.save

        def save_and_stop(names):
            save(names)
            if names["batch_idx"] == stop:
                raise Stopped

        resume.save = save_and_stop
    return train, initial


def train_part(arguments, **part):
    """A training that may stop in the middle: its folder."""
    random.seed(0)  # the hosts leave Python's stream to chance, and its state is kept too
    with contextlib.suppress(Stopped):
        small_training(**part)[0].main(arguments, standalone_mode=False)
    outdir = arguments[arguments.index("--outdir") + 1]
    return os.path.join(outdir, sorted(os.listdir(outdir))[-1])


def train_few(arguments, iterations):
    train, initial = small_training(iterations)
    train.main(arguments, standalone_mode=False)
    outdir = arguments[arguments.index("--outdir") + 1]
    run = os.path.join(outdir, sorted(os.listdir(outdir))[-1])
    with open(os.path.join(run, "network-snapshot-000000.pkl"), "rb") as f:
        data = pickle.load(f)
    with open(os.path.join(run, "training_options.json")) as f:
        options = json.load(f)
    return {
        "initial": initial, "trained": {k: tensors(data[k]) for k in ("G", "D", "G_ema")}, "options": options,
        "files": sorted(os.listdir(run)), "runs": sorted(os.listdir(outdir)), "run": run,
        "init_kwargs": json.loads(json.dumps(data["G"].init_kwargs)), "mtm_ops": "mtm_ops" in sys.modules,
    }  # fmt: skip


def train_rank(arguments, iterations):
    """One rank of a torchrun: a digest of what it ends with."""
    import torch.distributed as dist

    train, _ = small_training(iterations)
    digest = io.BytesIO()
    step = torch.optim.Adam.step

    def watched(self, *a, **k):
        done = step(self, *a, **k)
        digest.write(hashlib.sha256(b"".join(p.detach().numpy().tobytes() for g in self.param_groups
                                             for p in g["params"])).digest())  # fmt: skip
        return done

    torch.optim.Adam.step = watched
    destroy, rank = dist.destroy_process_group, int(os.environ["RANK"])
    seen = {}
    dist.destroy_process_group = lambda *a: (seen.update(world=dist.get_world_size()), destroy(*a))
    train.main(arguments, standalone_mode=False)
    return {"digest": digest.getvalue(), "rank": rank, **seen}


def regularise(heads):
    """Path-length regularisation's gradients, through the host's own loss."""
    from training.loss import StyleGAN2Loss

    out = {}
    for head in heads:
        G = grow(build("stylegan2", mtm="low", mtm_head=head)).train()
        loss = StyleGAN2Loss(torch.device("cpu"), G, None, pl_weight=2, style_mixing_prob=0.9)
        z, c = inputs(G, 4)
        loss.accumulate_gradients("Greg", None, None, z, c, gain=4, cur_nimg=0)
        out[head] = {n: p.grad for n, p in G.named_parameters() if ".mtm." in n}
    return out


def snapshot(path, kind, head):
    """Write a snapshot as the training loop does, of a generator with grown MTM; and what it draws."""
    G = grow(build(kind, mtm="low", mtm_head=head)).eval().requires_grad_(False)
    z, c = inputs(G)
    with open(path, "wb") as f:
        pickle.dump({"G": G, "D": G, "G_ema": G, "augment_pipe": None, "training_set_kwargs": {}}, f)
    return {"image": G(z, c, noise_mode="const")}


def exported(path, kind, arguments, **options):
    """A snapshot, exported by tools.export's own command; and what the network itself draws for random latents."""
    from click.testing import CliRunner

    from tools import export

    G = grow(build(kind, mtm="low", mtm_head="offset+mask", **options)).eval().requires_grad_(False)
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


def load_elsewhere(path):
    """legacy.py's reading of it in this checkout, with neither of our packages to be had."""
    stub_pkg_resources()
    sys.modules["mtm_ops"] = sys.modules["mtm_hosts"] = None
    import legacy

    with open(path, "rb") as f, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        G = legacy.load_network_pkl(f)["G_ema"]
        z, c = inputs(G)
        image = G(z, c, noise_mode="const")
    errors = {}
    for name, build_anew in (
        ("rebuilt", lambda: type(G)(*G.init_args, **G.init_kwargs)),
        ("halves", lambda: legacy.load_network_pkl(open(path, "rb"), force_fp16=True)),  # noqa: SIM115
    ):
        try:
            build_anew()
        except ModuleNotFoundError as e:
            errors[name] = str(e)
    return {"image": image, "warnings": [str(w.message) for w in caught], **errors, "again": len(pickle.dumps(G))}


def load_here(path):
    """legacy.py in a patched checkout, and a rebuilt network with the parameters copied."""
    import legacy
    from torch_utils import misc

    with open(path, "rb") as f:
        G = legacy.load_network_pkl(f)["G_ema"]
    z, c = inputs(G)
    rebuilt = type(G)(*G.init_args, **G.init_kwargs).eval().requires_grad_(False)
    misc.copy_params_and_buffers(G, rebuilt, require_all=True)
    from mtm_ops import offsets_disabled

    with offsets_disabled(G):
        straight = G(z, c, noise_mode="const")
    with open(path, "rb") as f:
        halves = legacy.load_network_pkl(f, force_fp16=True)["G_ema"]
    names, halves = ([n for n, _ in g.named_parameters() if ".mtm." in n] for g in (G, halves))
    return {
        "names": names,
        "halves": halves,
        "image": G(z, c, noise_mode="const"),
        "rebuilt": rebuilt(z, c, noise_mode="const"),
        "straight": straight,
    }


def copies(kind):
    """Checkpoints among networks with and without MTM."""
    from torch_utils import misc

    def copy(source, target):
        try:
            misc.copy_params_and_buffers(source, target.requires_grad_(False))
        except ValueError as error:
            return str(error)
        return ""

    plain, low, both = build(kind), grow(build(kind, mtm="low")), grow(build(kind, mtm="low", mtm_head="offset+mask"))
    fresh = build(kind, seed=4, mtm="low")
    before = {n: t for n, t in tensors(fresh).items() if ".mtm." in n}
    result = {"into_mtm": copy(plain, fresh)}
    result["mtm_kept"] = all(torch.equal(t, before[n]) for n, t in tensors(fresh).items() if n in before)
    z, c = inputs(plain)
    result["images"] = [G.eval()(z, c, noise_mode="const").detach() for G in (plain, fresh)]
    result["into_plain"] = copy(low, build(kind))
    result["other_head"] = copy(both, build(kind, mtm="low"))
    result["same"] = copy(low, build(kind, mtm="low"))
    result["more"] = copy(low, build(kind, mtm="low,4" if kind == "stylegan2" else "low"))
    return result


def half(kinds):
    """The module's layers in float16 against float32, through the host's layer where the CPU lets it."""
    out = {}
    for kind in kinds:
        G = grow(build(kind, mtm="low"), 0.1).eval().requires_grad_(False)
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


def layers(requests):
    """Which layers get the module, or the error, for (kind, options) pairs."""
    out = []
    for kind, options in requests:
        try:
            G = build(kind, **options)
            out.append([n for n, m in G.named_modules() if n.endswith(".mtm")])
        except (ValueError, TypeError) as error:
            out.append(str(error))
    return out


def equivalence(kinds):
    """Layers with offsets turned off against the host's own convolution, at grown parameters."""
    from mtm_ops import offsets_disabled

    out = {}
    for kind in kinds:
        G = grow(build(kind, mtm="low")).eval()
        plain = build(kind).eval()
        z, c = inputs(G)
        with offsets_disabled(G):
            off = G(z, c, noise_mode="const").detach()
        out[kind] = [plain(z, c, noise_mode="const").detach(), off, G(z, c, noise_mode="const").detach()]
    return out


def options(argument_lists):
    """train.py's dry runs: what it prints, or its complaint."""
    import click
    import train

    out = []
    for arguments in argument_lists:
        said = io.StringIO()
        keep = sys.stdout, sys.stderr
        try:
            with contextlib.redirect_stdout(said):
                train.main([*arguments, "--dry-run"], standalone_mode=False)
        except (click.ClickException, SystemExit) as error:
            said.write(str(error))
        sys.stdout, sys.stderr = keep
        out.append(said.getvalue())
    return out


def metric(snapshot_path, data, folder):
    """A small FID through calc_metrics.py's own main, with a metric and a detector of ours."""

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
    os.environ.update(MTM_METRICS="ov_metrics", MTM_DETECTORS=folder, DNNLIB_CACHE_DIR=os.path.join(folder, "cache"))
    import calc_metrics
    from metrics import metric_utils

    seen = []
    whole = metric_utils.compute_feature_stats_for_dataset
    metric_utils.compute_feature_stats_for_dataset = lambda **k: seen.append(s := whole(**k)) or s
    calc_metrics.calc_metrics(["--network", snapshot_path, "--data", data, "--metrics", "fid_tiny"],
                              standalone_mode=False)  # fmt: skip
    run = os.path.dirname(snapshot_path)
    with open(os.path.join(run, "metric-fid_tiny.jsonl")) as f:
        line = json.loads(f.readlines()[-1])
    return {"result": line["results"]["fid_tiny"], "cached": os.listdir(os.path.join(folder, "cache", "gan-metrics")),
            "images": seen[0].num_items}  # fmt: skip


if __name__ == "__main__":
    main(globals())
