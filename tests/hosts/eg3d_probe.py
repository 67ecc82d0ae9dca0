"""Probes that run in a child process inside a checkout of eg3d. See official_probe.py."""

import functools

import torch
from eg3d_lab import camera
from official_probe import Probe
from probe_lab import grow

FEW = {"depth_resolution": 4, "depth_resolution_importance": 4}  # samples per ray; the default is 48 each
RENDERING = {
    "superresolution_module": "training.superresolution.SuperresolutionHybrid2X",
    "sr_antialias": True,
    "superresolution_noise_mode": "none",
    "c_gen_conditioning_zero": False,
    "c_scale": 1,
    "disparity_space_sampling": False,
    "clamp_mode": "softplus",
    "ray_start": 2.25,
    "ray_end": 3.3,
    "box_warp": 1,
    "avg_camera_radius": 2.7,
    "avg_camera_pivot": [0, 0, 0.2],
    **FEW,
}
# The superresolution needs 512 numbers in w. The backbone always has 256 px; the image here has 128 px.
TINY = {"z_dim": 16, "w_dim": 512, "c_dim": 25, "img_resolution": 128, "img_channels": 3, "channel_base": 256}
TINY |= {"channel_max": 8, "mapping_kwargs": {"num_layers": 2}, "num_fp16_res": 0, "conv_clamp": None}
NARROW = {128: 8, 64: 8}  # channels of the superresolution in training
RAYS = 8  # rays across the rendered image; the default is 64


class EG3D(Probe):
    def build(self, kind, seed=3, **options):
        import dnnlib

        torch.manual_seed(seed)
        kwargs = {**TINY, "rendering_kwargs": dict(RENDERING), **options}
        G = dnnlib.util.construct_class_by_name(class_name="training.triplane.TriPlaneGenerator", **kwargs)
        G.neural_rendering_resolution = RAYS
        return G

    def inputs(self, G, batch=2):
        z = torch.randn([batch, G.z_dim], generator=torch.Generator().manual_seed(1))
        return z, torch.tensor([camera(yaw) for yaw in (0.3, -0.2, 0.1, 0)[:batch]])

    def draw(self, G, z, c):
        torch.manual_seed(7)  # fixes the position of each sample within its part of the ray
        out = G(z, c, neural_rendering_resolution=RAYS, noise_mode="const")
        return torch.cat([out["image"].flatten(1), out["image_raw"].flatten(1), out["image_depth"].flatten(1)], 1)

    def shrink(self, c):
        """Reduce the time of a training: few samples per ray, no data-loading workers, and a narrow superresolution.

        The superresolution takes most of the time, but its width is not an option. Workers take seconds to start;
        StyleGAN3's tests cover them.
        """
        from training import superresolution as sr

        c["G_kwargs"].rendering_kwargs.update(FEW)
        c["data_loader_kwargs"] = {"num_workers": 0}
        if isinstance(sr.SynthesisBlock, type):
            sr.SynthesisBlock = functools.partial(_narrow, sr.SynthesisBlock)
            # Unpickling looks this class up in its module and needs a class, so it cannot be a partial.
            sr.SynthesisBlockNoUp.__init__ = functools.partialmethod(_narrow_init, sr.SynthesisBlockNoUp.__init__)
        return c

    def regularise(self):
        """Gradients of density regularisation, through the host's own loss."""
        from training.loss import StyleGAN2Loss

        G = grow(self.build("eg3d", mtm="low", mtm_head="offset+mask")).train()
        G.rendering_kwargs.update(density_reg=0.25, density_reg_p_dist=0.004, reg_type="l1")
        loss = StyleGAN2Loss(torch.device("cpu"), G, None, neural_rendering_resolution_initial=RAYS, gpc_reg_prob=0.5)
        z, c = self.inputs(G)
        loss.accumulate_gradients("Greg", torch.zeros(2, 3, 128, 128), c, z, c, gain=4, cur_nimg=0)
        return {n: p.grad for n, p in G.named_parameters() if ".mtm." in n}

    def second_order(self):
        """gradgradcheck's results for the convolution that the host uses on a GPU, run here on the CPU."""
        from torch_utils.ops import conv2d_gradfix as fix

        fix._should_use_custom_op = lambda input: True
        generator = torch.Generator().manual_seed(3)
        out = {}
        for name, operator, options in (
            ("stride 1", fix.conv2d, {"padding": 1}),
            ("stride 2", fix.conv2d, {"stride": 2}),
            ("groups", fix.conv2d, {"groups": 2}),
            ("transposed", fix.conv_transpose2d, {"stride": 2, "padding": 1}),
        ):
            shapes = (2, 4, 5, 7), (4, 4 // options.get("groups", 1), 3, 3)
            x, w = (torch.randn(s, generator=generator, dtype=torch.float64, requires_grad=True) for s in shapes)
            run = functools.partial(operator, **options)
            try:
                torch.autograd.gradcheck(run, (x, w))
                out[name] = torch.autograd.gradgradcheck(run, (x, w))
            except RuntimeError as error:
                out[name] = str(error)
        return out


def _narrow(block, in_channels, out_channels, **options):
    return block(NARROW.get(in_channels, in_channels), NARROW[out_channels], **options)


def _narrow_init(self, init, in_channels, out_channels, **options):
    init(self, in_channels, NARROW[out_channels], **options)


if __name__ == "__main__":
    EG3D().run()
