"""One way to call every trained generator, in the process that holds its network.

The compact generator runs in any process; that of an official codebase only in the process that experiments.snapshots
starts for it. To add a host, add a line in experiments.snapshots.HOSTS and, if its generator is called differently, a
class below.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from experiments.mini.data import to_uint8

MOST_PIXELS = 1 << 21  # per batch
MOST_NIMG = 100  # per batch


@dataclass(frozen=True)
class Layer:
    """A deformable layer: its name in the network, and its resolution, px.

    `planes`: its features are not aligned with the image (EG3D's three planes).
    """

    name: str
    resolution: int
    planes: bool = False


@dataclass(frozen=True)
class Facts:
    """Properties of a snapshot. `trainer`: mini or the name of a host; `frames`: whether it generates videos."""

    trainer: str
    z_dim: int
    c_dim: int
    resolution: int
    parameters: int
    mtm_parameters: int
    layers: tuple[Layer, ...] = ()
    frames: bool = False


class Generator(ABC):
    """A network, called in the way its trainer calls it."""

    trainer: str
    frames = False

    def __init__(self, network: Any, device: str) -> None:
        self.network, self.device = network.eval().requires_grad_(False).to(device), torch.device(device)
        self.c_dim = getattr(network, "c_dim", 0)
        self.resolution = getattr(network, "img_resolution", None) or network.resolution

    @abstractmethod
    def draw(self, z: Tensor, c: Tensor, times: Tensor, truncation: float, noise: bool) -> Tensor:
        """Images [N * T, 3, R, R], about [-1, 1], from z [N, z_dim], c [N, c_dim] and times [N, T] (in frames; T is 1
        for images).

        Without `noise` there is no noise, or the same for every image.
        """

    def labels(self, count: int) -> Tensor:
        """The default labels c [count, c_dim]: the classes in turn."""
        if self.c_dim == 0:
            return torch.zeros(count, 0)
        return torch.eye(self.c_dim)[torch.arange(count) % self.c_dim]

    def modules(self) -> dict[Layer, Any]:
        """The ModulatedTransformation of each deformable layer. Classes are compared by name, because a pickle brings
        classes of its own."""
        named: dict[str, Any] = dict(self.network.named_modules())
        found = {}
        for name, module in named.items():
            if type(module).__name__ == "ModulatedTransformation":
                parent = name.rpartition(".")[0]
                found[self.layer(parent, named[parent])] = module
        return found

    def layer(self, name: str, module: Any) -> Layer:
        """The Layer of that name."""
        # StyleGAN3's tensors have margins: the part that becomes the image is as wide as the sampling rate.
        across = getattr(module, "out_sampling_rate", None) or module.resolution
        return Layer(name.removeprefix("synthesis."), int(across))

    def facts(self) -> Facts:
        numbers = {name: p.numel() for name, p in self.network.named_parameters()}
        mtm = sum(n for name, n in numbers.items() if ".mtm." in name)
        return Facts(
            self.trainer,
            self.network.z_dim,
            self.c_dim,
            self.resolution,
            sum(numbers.values()),
            mtm,
            tuple(self.modules()),
            self.frames,
        )

    @torch.no_grad()
    def generate(
        self,
        z: Tensor,
        c: Tensor | None = None,
        frames: Sequence[float] | None = None,
        *,
        strength: float = 1.0,
        truncation: float = 1.0,
        noise: bool = False,
    ) -> Tensor:
        """uint8 images; see experiments.snapshots.Snapshot.generate."""
        c = self.labels(len(z)) if c is None else c
        self._check(z, c, frames)
        times = torch.tensor([float(t) for t in (frames or (0,))])
        size = max(1, min(MOST_NIMG, MOST_PIXELS // (self.resolution**2 * len(times))))
        parts = []
        with self._scaled(strength), self._stream(noise):
            for some_z, some_c in zip(z.split(size), c.split(size), strict=True):
                on_z, on_c, on_times = (t.to(self.device) for t in (some_z, some_c, times.repeat(len(some_z), 1)))
                parts.append(to_uint8(self.draw(on_z, on_c, on_times, truncation, noise)).cpu())
        images = torch.cat(parts)
        return images if frames is None else images.unflatten(0, (len(z), len(times)))

    @torch.no_grad()
    def offsets(
        self, z: Tensor, c: Tensor | None = None, frames: Sequence[float] | None = None
    ) -> tuple[Tensor, dict[Layer, Tensor]]:
        """Images of z as in `generate`, and for each layer the offsets [N, taps, 2 (dy, dx), h, w] in px of that layer;
        with `frames` N * T of them, frame after frame."""
        kept: dict[Layer, list[Tensor]] = {}
        hooks = []
        for layer, module in self.modules().items():

            def keep(_module: object, _inputs: object, output: tuple[Tensor, Tensor | None], at: Layer = layer) -> None:
                kept.setdefault(at, []).append(output[0].unflatten(1, (-1, 2)).cpu())

            hooks.append(module.register_forward_hook(keep))
        try:
            images = self.generate(z, c, frames)
        finally:
            for hook in hooks:
                hook.remove()
        return images, {layer: torch.cat(parts) for layer, parts in kept.items()}

    def _check(self, z: Tensor, c: Tensor, frames: Sequence[float] | None) -> None:
        z_dim = self.network.z_dim
        if z.ndim != 2 or len(z) == 0 or z.shape[1] != z_dim:
            raise ValueError(f"generate: z must be [N, {z_dim}] with N from 1 up; got {list(z.shape)}.")
        if c.shape != (len(z), self.c_dim):
            raise ValueError(
                f"generate: c must be [{len(z)}, {self.c_dim}], a label per latent; got {list(c.shape)}. "
                "Leave it out for the labels that `labels` gives."
            )
        if frames is not None and not (self.frames and len(frames)):
            raise ValueError(
                f"generate: frames must be times, at least one, and for a network that makes videos only; got "
                f"{frames!r} for {self.trainer}'s. Leave it out for images."
            )

    def _scaled(self, strength: float) -> AbstractContextManager[None]:
        if strength == 1:
            return nullcontext()
        from mtm_ops import offsets_scaled  # imported only if offsets are scaled

        return offsets_scaled(self.network, strength)

    @contextmanager
    def _stream(self, noise: bool) -> Iterator[None]:
        """With noise, draws from torch's global random stream, which advances. Without, draws from a separate stream
        that is the same at every call, so that noise, rays and motion do not differ between two calls; the global
        stream does not advance."""
        cuda = self.device.type == "cuda"
        if noise:
            if cuda:
                torch.cuda.manual_seed(int(torch.randint(2**62, ())))
            yield
            return
        with torch.random.fork_rng(devices=[self.device] if cuda else []):
            torch.manual_seed(0)
            yield


class Mini(Generator):
    """The compact generator (experiments/mini)."""

    trainer = "mini"

    def draw(self, z: Tensor, c: Tensor, times: Tensor, truncation: float, noise: bool) -> Tensor:
        return self.network(z, truncation=truncation, noise=noise)

    def layer(self, name: str, module: Any) -> Layer:
        # A control wraps the module, so the name may have more parts: the index is the third.
        resolution = self.network.synthesis.resolutions[int(name.split(".")[2])]
        return Layer(f"convs.{resolution}", resolution)


class Official(Generator):
    """The official StyleGAN3, StyleGAN2 and StyleGAN2-ADA; base class of the other hosts."""

    trainer = "stylegan3"

    def draw(self, z: Tensor, c: Tensor, times: Tensor, truncation: float, noise: bool) -> Tensor:
        return self.network(z, c, truncation_psi=truncation, **self._how(noise))

    def _how(self, noise: bool) -> dict[str, Any]:
        how: dict[str, Any] = {"noise_mode": "random" if noise else "const"}
        if self.device.type == "cpu":
            how["force_fp32"] = True  # half precision is for GPUs
        return how


class EG3D(Official):
    """Labels are cameras: 16 numbers of the camera-to-world matrix and 9 of the intrinsics."""

    trainer = "eg3d"
    FOV_DEG = 18.837  # as in the host's own samples

    def draw(self, z: Tensor, c: Tensor, times: Tensor, truncation: float, noise: bool) -> Tensor:
        return self.network(z, c, truncation_psi=truncation, **self._how(noise))["image"]

    def labels(self, count: int) -> Tensor:
        """The camera in front of the object."""
        camera: Any = importlib.import_module("camera_utils")
        facts = self.network.rendering_kwargs
        pivot = torch.tensor(facts.get("avg_camera_pivot", [0, 0, 0]))
        pose = camera.LookAtPoseSampler.sample(
            torch.pi / 2, torch.pi / 2, pivot, radius=facts.get("avg_camera_radius", 2.7)
        )
        intrinsics = camera.FOV_to_intrinsics(self.FOV_DEG, device="cpu")
        return torch.cat([pose.reshape(1, 16), intrinsics.reshape(1, 9)], dim=1).expand(count, -1)

    def layer(self, name: str, module: Any) -> Layer:
        return Layer(name.removeprefix("backbone.synthesis."), int(module.resolution), planes=True)


class Video(Official):
    """StyleGAN-V and StyleSV, which take a time per frame."""

    frames = True

    def draw(self, z: Tensor, c: Tensor, times: Tensor, truncation: float, noise: bool) -> Tensor:
        return self.network(z, c, times, truncation_psi=truncation, **self._how(noise))


class StyleGANV(Video):
    trainer = "stylegan-v"


class StyleSV(Video):
    trainer = "stylesv"
