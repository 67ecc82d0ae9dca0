"""Probes that run in a child process inside a checkout of StyleSV. See probe_lab.py. The tests compare the results."""

import contextlib
import hashlib
import io
import json
import os
import pickle
import sys
import warnings
from pathlib import Path

import probe_lab
import torch
from probe_lab import Stopped, grow, main, stub_pkg_resources, tensors

sys.path.append("src")  # as train.py and the scripts do
TINY = {"img_resolution": 32, "img_channels": 3, "c_dim": 0, "w_dim": 512}
FEW = {"num_layers": 9, "margin_size": 2}  # the defaults are 14 and 10, and the reference filters are slow
SIZES = {"channel_base": 2048, "num_fp16_res": 4, "conv_clamp": 256}
# Stage 1 has no motion. Stage 2 lets it in through a mask, learned from zeros. In "moving" it is active at once.
KINDS = {
    "stage-1": (),
    "stage-2": ("model.generator.learnable_motion_mask=true",),
    "moving": ("model.generator.learnable_motion_mask=true", "model.generator.init_motion_mask=ones"),
}


def configured(words):
    """The configuration that launch.py writes for these words."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf
    from src.infra.utils import recursive_instantiate

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the host's outdated way to write configurations
        with initialize_config_dir(str(Path("configs").resolve()), version_base="1.1"):
            cfg = compose("config", [*words, f"env.project_path={Path.cwd()}"])
    recursive_instantiate(cfg)
    OmegaConf.set_struct(cfg, True)
    return cfg


def build(kind, seed=3, **options):
    from src import dnnlib

    cfg = configured(["dataset=sky_timelapse", "sampling.num_frames_per_video=3", *KINDS[kind]]).model.generator
    torch.manual_seed(seed)
    shape = {**TINY, "img_resolution": options.pop("img_resolution", TINY["img_resolution"])}
    how = {"synthesis_kwargs": {**SIZES, **FEW, **options}, "mapping_kwargs": {"num_layers": 2, "cfg": cfg}, "cfg": cfg}
    return dnnlib.util.construct_class_by_name(class_name="training.networks.Generator", **shape, **how)


def draw(G, batch=1, frames=2, **how):
    """Images with the same latents and the same motion for every call."""
    z = torch.randn([batch, G.z_dim], generator=torch.Generator().manual_seed(1))
    times = torch.arange(frames).float()[None].repeat(batch, 1) * 40
    torch.manual_seed(1)
    return G(z, torch.zeros(batch, 0), times, noise_mode="const", **how)


def networks(kinds, **options):
    """Fresh generators: parameters, buffers, random stream after construction, images and gradients."""
    stub_pkg_resources()
    out = {}
    for kind in kinds:
        G = build(kind, **options)
        stream = torch.randn(4)
        image = draw(G.train())
        names, params = zip(*G.named_parameters(), strict=True)
        grads = torch.autograd.grad(image.square().sum(), params, allow_unused=True)
        empty = G(torch.full([1, G.z_dim], torch.nan), torch.zeros(1, 0), torch.zeros(1, 1))
        init = G.init_kwargs["synthesis_kwargs"]
        out[kind] = {
            "tensors": tensors(G), "stream": stream, "image": image.detach(), "nan_shape": list(empty.shape),
            "grads": {n: g for n, g in zip(names, grads, strict=True) if g is not None},
            "modules": [n for n, m in G.named_modules() if n.endswith(".mtm")], "init_kwargs": dict(init),
        }  # fmt: skip
    return {"kinds": out, "mtm_ops": "mtm_ops" in sys.modules}


def layers(requests):
    """For each set of options: the layers that get the module, or the error."""
    out = []
    for options in requests:
        try:
            out.append([n for n, m in build("stage-1", **options).named_modules() if n.endswith(".mtm")])
        except (ValueError, TypeError) as error:
            out.append(str(error))
    return out


def offsets(kinds):
    """Each layer's offsets for one input x and the network's own w, for two latents with three frames each."""
    out = {}
    for kind in kinds:
        G, seen = grow(build(kind, mtm="low")).eval().requires_grad_(False), {}
        for name, module in G.named_modules():
            if name.endswith(".mtm"):
                module.register_forward_hook(
                    lambda m, given, made, name=name, seen=seen: seen.update({name: (m, *given)})
                )
        draw(G, batch=2, frames=3)
        out[kind] = {
            name: module(x[:1].expand(len(w), -1, -1, -1), w)[0].unflatten(0, (2, 3))
            for name, (module, x, w) in list(seen.items())
        }
    return out


def equivalence(kinds):
    """Layers with offsets turned off against the host's own convolution, with grown parameters."""
    from mtm_ops import offsets_disabled

    out = {}
    for kind in kinds:
        G, plain = (build(kind, **options).eval().requires_grad_(False) for options in ({"mtm": "low"}, {}))
        with offsets_disabled(grow(G)):
            off = draw(G)
        out[kind] = [draw(plain), off, draw(G)]
    return out


def half(kinds):
    """A layer in float16 and in float32, and the dtypes of its module's input and output."""
    (kind,) = kinds
    G = grow(build(kind, mtm="low"), 0.1).eval().requires_grad_(False)
    layer = next(m for m in G.synthesis.modules() if hasattr(m, "mtm"))
    kept = []
    layer.mtm.register_forward_hook(lambda m, a, o: kept.append((a[0].dtype, o[0].dtype)))
    generator = torch.Generator().manual_seed(2)
    x = torch.randn([1, layer.in_channels, *layer.in_size[::-1].tolist()], generator=generator)
    w = torch.randn([1, layer.w_dim], generator=generator)
    how = {"w": layer.weight, "s": layer.affine(w), "padding": layer.conv_kernel - 1, "input_gain": torch.tensor(0.7)}
    runs = [layer.mtm.at(w)(x=x.to(d), demodulate=True, **how).float() for d in (torch.float32, torch.float16)]
    return {kind: {"runs": runs, "offsets": kept}}


def shrunk(train):
    """train.py with a small network, also in our checks, which run before the loop."""
    ours = getattr(train.dnnlib, "mtm_hosts", None)
    for module in filter(None, (getattr(ours, name, None) for name in ("mtm", "resume"))):

        def small(c, *more, configure=module.configure):
            c.G_kwargs.synthesis_kwargs.update(FEW)
            configure(c, *more)

        module.configure = small
    return train


def small_training(words, iterations, tick=None, stop=None, previews=False, metrics=None):
    """Make train.py's own main train for a few iterations. FID falls at each snapshot, so each saves best_fid.pkl.

    tick: iterations per tick. stop: end as if killed after saving this many iterations. previews: draw images and
    videos. metrics: use these instead of that FID.
    """
    cfg = configured([*words, f"training.metrics=[{'fid50k_full' if metrics is None else metrics}]"])
    import train
    from omegaconf import OmegaConf

    loop, initial = shrunk(train).training_loop, {}
    whole, show, frames = loop.training_loop, loop.misc.print_module_summary, cfg.sampling.num_frames_per_video
    results = iter(range(0, -1000, -1))

    def few(**c):
        c["G_kwargs"]["synthesis_kwargs"].update(FEW)
        c["total_kimg"] = iterations * c["batch_size"] * frames / 1000
        if tick:
            c["kimg_per_tick"] = tick * c["batch_size"] * frames / 1000
        if not previews:
            c["image_snapshot_ticks"] = None
        whole(**c)

    def summary(module, arguments):
        initial.setdefault(type(module).__name__, tensors(module))
        return show(module, arguments)

    def metric(**_options):
        results_dict = loop.dnnlib.EasyDict(fid50k_full=float(next(results)))
        return loop.dnnlib.EasyDict(results=results_dict, metric="fid50k_full")

    loop.training_loop, loop.misc.print_module_summary = few, summary
    if metrics is None:
        loop.metric_main.calc_metric = metric
    torch.multiprocessing.set_start_method = lambda method: None  # forked workers start at once
    if stop:
        resume = loop.dnnlib.mtm_hosts.resume
        save = resume.save

        def save_and_stop(names):
            save(names)
            if names["batch_idx"] == stop:
                raise Stopped

        resume.save = save_and_stop
    folder = Path(cfg.project_release_dir)
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(cfg, folder / "experiment_config.yaml")
    sys.path[:] = [str(Path(path).resolve()) for path in sys.path]
    os.chdir(folder)
    return train, initial


def train_few(words, iterations, **part):
    train, initial = small_training(words, iterations, **part)
    train.main()
    with open("output/best_fid.pkl", "rb") as f:
        data = pickle.load(f)
    return {
        "initial": initial, "trained": {k: tensors(data[k]) for k in ("G", "D", "G_ema")},
        "files": sorted(os.listdir("output")), "run": os.path.abspath("output"), "mtm_ops": "mtm_ops" in sys.modules,
        "synthesis_kwargs": dict(data["G"].init_kwargs["synthesis_kwargs"]),
    }  # fmt: skip


def train_part(words, **part):
    """Run a training that may stop in the middle; returns its folder."""
    train, _ = small_training(words, **part)
    with contextlib.suppress(Stopped):
        train.main()
    return os.path.abspath("output")


def clips_read(words, workers, skip, batches):
    """The frames and clips that the data loader reads: batches `skip` to `batches` of an uninterrupted loader, and the
    same from a loader that continues at `skip`."""
    from src import dnnlib
    from src.torch_utils import misc

    from mtm_hosts.replay import skipped

    cfg = configured(words).dataset
    data = dnnlib.util.construct_class_by_name(class_name="training.dataset.VideoFramesFolderDataset",
                                               path=cfg.path, cfg=cfg)  # fmt: skip
    sampler = misc.InfiniteSampler(dataset=data, rank=0, num_replicas=1, seed=0)
    options = {"num_workers": workers, "prefetch_factor": 2}
    torch.manual_seed(4)
    whole = iter(torch.utils.data.DataLoader(dataset=data, sampler=sampler, batch_size=3, **options))
    loop = {"batch_size": 3, "num_gpus": 1, "training_set": data, "training_set_sampler": sampler,
            "data_loader_kwargs": options, "training_set_iterator": whole}  # fmt: skip
    straight = [next(whole) for _ in range(batches)][skip:]
    later = skipped(loop, skip)
    return [[{k: batch[k] for k in ("image", "times")} for batch in read]
            for read in (straight, [next(later) for _ in range(batches - skip)])]  # fmt: skip


def with_environment(env, of, **arguments):
    """The result of the probe `of`, with `env` added to the environment."""
    os.environ.update(env)
    return globals()[of](**arguments)


def pickled(paths):
    """The tensors of the networks in snapshots."""
    return [probe_lab.pickled(path) for path in paths]


def train_rank(words, iterations):
    """One rank of a torchrun: a digest of its final state."""
    import torch.distributed as dist

    train, _ = small_training(words, iterations)
    digest, seen = io.BytesIO(), {}
    step, destroy = torch.optim.Adam.step, dist.destroy_process_group

    def watched(self, *a, **k):
        done = step(self, *a, **k)
        parameters = [p.detach().numpy().tobytes() for g in self.param_groups for p in g["params"]]
        digest.write(hashlib.sha256(b"".join(parameters)).digest())
        return done

    torch.optim.Adam.step = watched
    dist.destroy_process_group = lambda *a: (seen.update(world=dist.get_world_size()), destroy(*a))
    train.main()
    return {"digest": digest.getvalue(), **seen}


def refused(word_lists):
    """For each configuration: what train.py's own checks print, or their error."""
    out, configurations = [], [configured(words) for words in word_lists]
    import train

    shrunk(train)
    for cfg in configurations:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            try:
                train.process_hyperparams(cfg)
            except SystemExit as error:
                said.write(str(error))
        out.append(said.getvalue())
    return out


def snapshot(path, kind, head, **options):
    """Write a snapshot of a generator with grown MTM, as the training loop does; returns what it draws."""
    G = grow(build(kind, mtm="low", mtm_head=head, **options)).eval().requires_grad_(False)
    with open(path, "wb") as f:
        pickle.dump({"G": G, "D": G, "G_ema": G, "augment_pipe": None, "training_set_kwargs": {}}, f)
    return {"image": draw(G)}


def load_elsewhere(path):
    """Read a snapshot with this checkout's legacy.py while neither of our packages can be imported."""
    stub_pkg_resources()
    sys.modules["mtm_ops"] = sys.modules["mtm_hosts"] = None
    import legacy

    with open(path, "rb") as f, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = legacy.load_network_pkl(f)
        image = draw(data["G_ema"])
    from src.training.networks import Generator

    try:
        Generator(**data["G_ema"].init_kwargs)
    except TypeError as error:
        anew = str(error)
    plain = {**data["G_ema"].init_kwargs}
    plain["synthesis_kwargs"] = {k: v for k, v in plain["synthesis_kwargs"].items() if not k.startswith("mtm")}
    return {"image": image, "warnings": [str(w.message) for w in caught], "anew": anew,
            "plain": type(Generator(**plain)).__name__, "own": data["G_ema"] is not data["G"]}  # fmt: skip


def load_here(path):
    """Read a snapshot with a patched checkout's legacy.py, which rebuilds G_ema. Also draws with offsets turned off."""
    import legacy

    from mtm_ops import offsets_disabled

    with open(path, "rb") as f:
        data = legacy.load_network_pkl(f)
    with offsets_disabled(data["G_ema"]):
        straight = draw(data["G_ema"])
    names = [n for n, _ in data["G_ema"].named_parameters() if ".mtm." in n]
    return {"names": names, "image": draw(data["G_ema"]), "straight": straight,
            "anew": data["G_ema"] is not data["G"]}  # fmt: skip


def copies():
    """Copy checkpoints between networks with and without MTM."""
    from src.torch_utils import misc

    def copy(source, target):
        try:
            misc.copy_params_and_buffers(source, target.requires_grad_(False))
        except ValueError as error:
            return str(error)
        return ""

    plain, low, both = build("stage-1"), grow(build("stage-1", mtm="low")), build("stage-1", mtm="low", mtm_head=BOTH)
    fresh = build("stage-2", seed=4, mtm="low")
    before = {n: t for n, t in tensors(fresh).items() if ".mtm." in n}
    result = {"into_mtm": copy(plain, fresh)}
    result["mtm_kept"] = all(torch.equal(t, before[n]) for n, t in tensors(fresh).items() if n in before)
    result["images"] = [draw(G.eval()).detach() for G in (plain, fresh)]
    result["into_plain"], result["other_head"] = copy(low, build("stage-2")), copy(both, build("stage-1", mtm="low"))
    result["same"], result["more"] = (
        copy(low, build("stage-2", mtm="low")),
        copy(build("stage-1", mtm="16"), build("stage-1", mtm="low")),
    )
    return result


BOTH = "offset+mask"


def metric(words, folder):
    """A small FVD through calc_metrics.py's own main, for a snapshot at 128 px, with a test detector."""
    from omegaconf import OmegaConf

    class Moments(torch.nn.Module):
        def forward(self, x, rescale: bool = False, resize: bool = False, return_features: bool = False):
            x = x.float() / 255
            return torch.stack(
                [x.mean([1, 2, 3, 4]), x.std([1, 2, 3, 4]), (x[:, :, 1:] - x[:, :, :-1]).std([1, 2, 3, 4])], 1
            )

    torch.jit.script(Moments()).save(os.path.join(folder, "i3d_torchscript.pt"))
    Path(folder, "sv_metrics.py").write_text(
        "def register(register_metric):\n"
        "    from metrics import frechet_video_distance as fvd\n"
        "    fvd.NUM_FRAMES_IN_BATCH = {128: 4}\n"
        "    def fvd_tiny(opts):\n"
        "        options = dict(max_real=4, num_gen=3, num_frames=4, cache_suffix='_tiny')\n"
        "        return dict(fvd_tiny=fvd.compute_fvd(opts, **options))\n"
        "    register_metric(fvd_tiny)\n"
    )
    sys.path.insert(0, folder)
    os.environ.update(MTM_METRICS="sv_metrics", MTM_DETECTORS=folder, DNNLIB_CACHE_DIR=os.path.join(folder, "cache"))
    output = Path(folder, "output")
    output.mkdir()
    path = output / "network-snapshot-000000.pkl"
    drawn = snapshot(path, "moving", "offset", img_resolution=128)["image"]
    (output / "training_options.json").write_text("{}")
    cfg = configured(words)
    OmegaConf.save(cfg, Path(folder, "experiment_config.yaml"))
    torch.multiprocessing.set_start_method = lambda method: None
    sys.path.append("src/scripts")
    import calc_metrics
    from metrics import metric_main

    seen, calc = [], metric_main.calc_metric
    metric_main.calc_metric = lambda **k: seen.append(draw(k["G"])) or calc(**k)
    calc_metrics.calc_metrics(["--network", str(path), "--data", cfg.dataset.path, "--metrics", "fvd_tiny"],
                              standalone_mode=False)  # fmt: skip
    (line,) = map(json.loads, (output / "metric-fvd_tiny.jsonl").read_text().splitlines())
    return {"result": line["results"]["fvd_tiny"], "cached": os.listdir(Path(folder, "cache", "gan-metrics")),
            "drawn": [drawn, *seen]}  # fmt: skip


if __name__ == "__main__":
    main(globals())
