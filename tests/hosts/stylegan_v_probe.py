"""Probes that run in a child process inside a checkout of stylegan-v. See official_probe.py and video_probe.py."""

import torch
from probe_lab import grow
from video_probe import VideoProbe

SIZE = 32  # the generator takes any power of two; training needs at least 128
MOTION = {"z_dim": 8, "v_dim": 8, "motion_z_distance": 16, "gen_strategy": "conv", "kernel_size": 11}
MOTION |= {"use_fractional_t": True, "fourier": True}
TIME = {"cond_type": "concat_const", "dim": 8, "min_period_len": 16, "max_period_len": 1024, "phase_dropout_std": 1.0}
SAMPLING = {"type": "random", "num_frames_per_video": 3, "max_num_frames": 64, "max_dist": 32}
CFG = {"w_dim": 16, "z_dim": 16, "c_dim": 0, "use_noise": False, "input": {"type": "temporal"}}
CFG |= {"motion": MOTION, "time_enc": TIME, "sampling": SAMPLING}
CONST = {"input": {"type": "const"}}
KINDS = {
    "motion": {},  # upstream's default: the motion code goes into the 4x4 input
    "concat_w": {**CONST, "time_enc": {**TIME, "cond_type": "concat_w"}},
    "sum_w": {**CONST, "time_enc": {**TIME, "cond_type": "sum_w"}},
    "still": {**CONST, "motion": {"v_dim": 0}},
}


class StyleGANV(VideoProbe):
    def build(self, kind="motion", seed=3, **options):
        """A generator. The options go to its synthesis network."""
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

    def discriminator(self, G):
        from omegaconf import OmegaConf
        from src import dnnlib

        cfg = OmegaConf.create({"sampling": SAMPLING, "concat_res": 16, "num_frames_div_factor": 2, "dummy_c": False})
        shape = {"c_dim": 0, "img_resolution": SIZE, "img_channels": 3, "channel_base": 256, "channel_max": 8}
        return dnnlib.util.construct_class_by_name(class_name="training.networks.Discriminator", **shape, cfg=cfg)

    def inputs(self, G, batch=2):
        z = torch.randn([batch, G.z_dim], generator=torch.Generator().manual_seed(1))
        return z, torch.zeros([batch, 0])

    def times(self, z):
        """The times of three frames for each video."""
        return torch.tensor([[0.0, 5.5, 20.0]]).repeat(len(z), 1)

    def draw(self, G, z, c):
        torch.manual_seed(7)  # fixes the motion's noise
        return G(z, c, self.times(z), noise_mode="const")

    def offsets(self, **options):
        """Offsets of grown modules that all see the same x: (kind, what is held) -> [video, frame, ...] per module."""
        out = {}
        for kind in ("motion", "still"):
            G = grow(self.build(kind, mtm="low", **options)).eval().requires_grad_(False)
            fixed, seen = torch.Generator().manual_seed(5), []
            for layer in [m for m in G.synthesis.modules() if hasattr(m, "mtm")]:
                x = torch.randn([1, layer.mtm.in_channels, *[layer.resolution] * 2], generator=fixed)
                layer.mtm.register_forward_pre_hook(lambda m, a, x=x: (x.expand(len(a[1]), -1, -1, -1), a[1]))
                layer.mtm.register_forward_hook(lambda m, a, o, seen=seen: seen.append(o[0]))
            z, c = self.inputs(G)
            t, noise = self.times(z), torch.randn([2, 64, 8], generator=fixed)
            runs = {
                "nothing": (z, t, noise),
                "motion": (z, t, noise[:1].repeat(2, 1, 1)),
                "content": (z[:1].repeat(2, 1), t, noise),
                "time": (z, t[:, :1].repeat(1, 3), noise),
            }
            for held, (z, t, noise) in runs.items():
                seen.clear()
                G(z, c, t, noise_mode="const", **({"motion_z": noise} if kind == "motion" else {}))
                out[kind, held] = [o.unflatten(0, (2, 3)) for o in seen]
        return out

    def widths(self, kinds):
        """The number of values that drive each module's offsets."""
        return {k: {m.mtm.w_dim for m in self.build(k, mtm="low").modules() if hasattr(m, "mtm")} for k in kinds}

    def regularise(self, heads):
        """Gradients of path-length regularisation by the host's own loss, which applies it to one frame per video."""
        self.build()
        from omegaconf import OmegaConf
        from src.training.loss import StyleGAN2Loss

        out = {}
        for head in heads:
            G = grow(self.build(mtm="low", mtm_head=head)).train()
            networks = torch.device("cpu"), G.mapping, G.synthesis, None
            loss = StyleGAN2Loss(OmegaConf.create({}), *networks, style_mixing_prob=0, pl_weight=2)
            z, c = self.inputs(G, 4)
            t = self.times(z)[:, :1]
            loss.accumulate_gradients("Greg", torch.zeros(4, 1, 3, 4, 4), c, t, z, c, t, sync=True, gain=4)
            out[head] = {n: p.grad for n, p in G.named_parameters() if ".mtm." in n}
        return out

    def half(self, kinds):
        """A layer in float16 and in float32."""
        (kind,) = kinds
        G = grow(self.build(kind, mtm="low"), 0.1).eval().requires_grad_(False)
        layer, seen = G.synthesis.b16.conv1, []
        layer.mtm.register_forward_hook(lambda m, a, o: seen.append((a[0].dtype, o[0].dtype)))
        generator = torch.Generator().manual_seed(2)
        x = torch.randn([2, layer.weight.shape[1], 16, 16], generator=generator)
        w = torch.randn([2, layer.mtm.w_dim], generator=generator)
        how = {"noise_mode": "const", "fused_modconv": False}
        runs = [layer(x.to(d), w, **how).float() for d in (torch.float32, torch.float16)]
        return {kind: {"runs": runs, "offsets": seen}}


if __name__ == "__main__":
    StyleGANV().run()
