"""What a child process does inside a checkout of stylegan-v: see probe_lab.py. The tests compare what it returns."""

import json
import sys

import torch
from probe_lab import grow, main, stub_pkg_resources, tensors

SIZE = 32  # the generator takes any power of two, training 128 and more
CFG = {"w_dim": 16, "z_dim": 16, "c_dim": 0, "use_noise": False, "input": {"type": "temporal"}}
CFG |= {"motion": {"z_dim": 8, "v_dim": 8, "motion_z_distance": 16, "gen_strategy": "conv", "kernel_size": 11}}
CFG["motion"] |= {"use_fractional_t": True, "fourier": True}
CFG |= {"time_enc": {"cond_type": "concat_const", "dim": 8, "min_period_len": 16, "max_period_len": 1024}}
CFG["time_enc"]["phase_dropout_std"] = 1.0
CFG["sampling"] = {"type": "random", "num_frames_per_video": 3, "max_num_frames": 64, "max_dist": 32}
KINDS = {"motion": {}, "concat_w": {"time_enc": {**CFG["time_enc"], "cond_type": "concat_w"}}}
KINDS["sum_w"] = {"time_enc": {**CFG["time_enc"], "cond_type": "sum_w"}, "w_dim": 2 * CFG["time_enc"]["dim"]}
KINDS["still"] = {"motion": {"v_dim": 0}, "input": {"type": "const"}}
for kind in ("concat_w", "sum_w"):  # these put the motion into w, and nothing into the input
    KINDS[kind]["input"] = {"type": "const"}


def build(kind="motion", seed=3, **options):
    """A generator; options go to its synthesis network."""
    sys.path.append("src")  # as the scripts do
    from omegaconf import OmegaConf
    from src import dnnlib

    cfg = OmegaConf.create({**CFG, **KINDS[kind]})
    synthesis = dnnlib.EasyDict(channel_base=256, channel_max=8, **options)
    mapping = dnnlib.EasyDict(num_layers=2, cfg=cfg)
    torch.manual_seed(seed)
    return dnnlib.util.construct_class_by_name(
        class_name="training.networks.Generator",
        **{"c_dim": 0, "w_dim": cfg.w_dim, "img_resolution": SIZE, "img_channels": 3},
        **{"mapping_kwargs": mapping, "synthesis_kwargs": synthesis, "cfg": cfg},
    )


def inputs(G, videos=2):
    """Latents, labels, and three times for each video."""
    z = torch.randn([videos, G.z_dim], generator=torch.Generator().manual_seed(1))
    return z, torch.zeros([videos, 0]), torch.tensor([[0.0, 5.5, 20.0]]).repeat(videos, 1)


def draw(G, **options):
    torch.manual_seed(7)  # the motion's noise
    return G(*inputs(G), noise_mode="const", **options)


def networks(kinds, **options):
    """Parameters, buffers, random stream after construction, images and gradients of fresh generators."""
    stub_pkg_resources()
    out = {}
    for kind in kinds:
        G = build(kind, **options)
        stream = torch.randn(4)
        G.train()
        image = draw(G)
        names, params = zip(*G.named_parameters(), strict=True)
        grads = torch.autograd.grad(image.square().sum(), params, allow_unused=True)
        found, (z, c, t) = tensors(G), inputs(G)
        empty = G(torch.full_like(z, torch.nan), c, t)  # also the running mean of w
        out[kind] = {
            "tensors": found, "stream": stream, "image": image.detach(), "nan_shape": list(empty.shape),
            "grads": {n: g for n, g in zip(names, grads, strict=True) if g is not None},
            "modules": {n: m.w_dim for n, m in G.named_modules() if n.endswith(".mtm")},
            "init_kwargs": json.loads(json.dumps(dict(G.init_kwargs["synthesis_kwargs"]))),
        }  # fmt: skip
    return {"kinds": out, "mtm_ops": "mtm_ops" in sys.modules}


def offsets(**options):
    """What the offsets of grown modules depend on: (name, offsets of each frame) with one and the same x everywhere."""
    out = {}
    for kind in ("motion", "still"):
        G = grow(build(kind, mtm="low", **options)).eval().requires_grad_(False)
        fixed, seen = torch.Generator().manual_seed(5), []
        for layer in [m for m in G.synthesis.modules() if hasattr(m, "mtm")]:
            x = torch.randn([1, layer.mtm.in_channels, *[layer.resolution] * 2], generator=fixed)
            layer.mtm.register_forward_pre_hook(lambda m, a, x=x: (x.expand(len(a[1]), -1, -1, -1), a[1]))
            layer.mtm.register_forward_hook(lambda m, a, o, seen=seen: seen.append(o[0]))
        z, c, t = inputs(G)
        noise = torch.randn([2, 64, 8], generator=fixed)
        runs = {"videos": (z, t, noise), "same_motion": (z, t, noise[:1].repeat(2, 1, 1))}
        runs["same_content"] = z[:1].repeat(2, 1), t, noise
        runs["same_time"] = z, t[:, :1].repeat(1, 3), noise
        for name, (z, t, noise) in runs.items():
            seen.clear()
            G(z, c, t, noise_mode="const", **({"motion_z": noise} if kind == "motion" else {}))
            out[kind, name] = [o.unflatten(0, (2, 3)) for o in seen]  # videos, frames
    return out


def regularise(heads):
    """Path-length regularisation's gradients, through the host's own loss."""
    build()
    from omegaconf import OmegaConf
    from src.training.loss import StyleGAN2Loss

    out = {}
    for head in heads:
        G = grow(build(mtm="low", mtm_head=head)).train()
        loss = StyleGAN2Loss(
            OmegaConf.create({}), torch.device("cpu"), G.mapping, G.synthesis, None, style_mixing_prob=0, pl_weight=2
        )
        z, c, t = inputs(G, 4)
        t = t[:, :1]  # upstream has it for one frame a video
        loss.accumulate_gradients("Greg", torch.zeros(4, 3, 3, 4, 4), c, t, z, c, t, sync=True, gain=4)
        out[head] = {n: p.grad for n, p in G.named_parameters() if ".mtm." in n}
    return out


def layers(requests):
    """Which layers get the module, or the error, for a list of options."""
    out = []
    for options in requests:
        try:
            out.append([n for n, m in build(**options).named_modules() if n.endswith(".mtm")])
        except (ValueError, TypeError) as error:
            out.append(str(error))
    return out


def equivalence(kinds):
    """Layers with offsets turned off against the host's own convolution, at grown parameters."""
    from mtm_ops import offsets_disabled

    out = {}
    for kind in kinds:
        G, plain = grow(build(kind, mtm="low,4")).eval(), build(kind).eval()
        with offsets_disabled(G):
            off = draw(G).detach()
        out[kind] = [draw(plain).detach(), off, draw(G).detach()]
    return out


def half():
    """A layer in float16 against float32."""
    G = grow(build(mtm="low"), 0.1).eval().requires_grad_(False)
    layer, seen = G.synthesis.b16.conv1, []
    layer.mtm.register_forward_hook(lambda m, a, o: seen.append((a[0].dtype, o[0].dtype)))
    generator = torch.Generator().manual_seed(2)
    x = torch.randn([2, layer.weight.shape[1], 16, 16], generator=generator)
    w = torch.randn([2, layer.mtm.w_dim], generator=generator)
    runs = [layer(x.to(d), w, noise_mode="const", fused_modconv=False).float() for d in (torch.float32, torch.float16)]
    return {"runs": runs, "offsets": seen}


if __name__ == "__main__":
    main(globals())
