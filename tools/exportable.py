"""A trained generator as one function of tensors, which torch can trace."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from experiments.files import UserError

NOISES = ("none", "const", "input")
_DRAWS = (torch.randn, torch.randn_like)


class Exportable(nn.Module):
    """z [B, z_dim], truncation [], label [B, c_dim] and noise -> image [B, 3, R, R], about [-1, 1].

    Truncation is a factor for every layer: 1 for none, below 1 towards the mean latent. `label` is there for networks
    that have labels (c_dim above 0). `noise` is a tensor [B, 1, r, r] of standard normal values for each layer that
    draws one, in the network's order; it is used only with noise="input".

    Args:
        generator: has mapping, with w_avg, and synthesis: the compact generator, StyleGAN2's or StyleGAN3's. It is
            changed in place: to evaluation mode, without gradients, float32, contiguous.
        noise: "const" (StyleGAN2's own constants; its default), "none" (the others' default), or "input".

    Raises:
        UserError: for a network of another kind, or one that does not support the requested noise.
    """

    def __init__(self, generator: Any, noise: str | None = None) -> None:
        super().__init__()
        generator = generator.eval().requires_grad_(False).float()
        self.generator = generator.to(memory_format=torch.contiguous_format)  # the format of exported files
        self.z_dim, self.c_dim = generator.z_dim, getattr(generator, "c_dim", 0)
        self.kind, self.noise, self.options = _describe(generator, noise)
        self.noise_shapes: list[list[int]] = []
        if self.noise == "input":
            with _Draws(None) as draws, torch.no_grad():
                self._image(torch.zeros(1, self.z_dim), torch.ones([]), torch.zeros(1, self.c_dim))
            self.noise_shapes = draws.shapes

    def forward(
        self, z: Tensor, truncation: Tensor, label: Tensor | None = None, noise: tuple[Tensor, ...] = ()
    ) -> Tensor:
        with _Draws(iter(noise)):
            return self._image(z, truncation, label)

    def _image(self, z: Tensor, truncation: Tensor, label: Tensor | None) -> Tensor:
        G = self.generator
        ws = G.map(z) if self.kind == "compact" else G.mapping(z, label)
        return G.synthesis(G.mapping.w_avg.lerp(ws, truncation), **self.options)

    def inputs(self, batch: int, truncation: float, seed: int) -> dict[str, Any]:
        """Random arguments for `forward`, by name: those that this network has."""
        stream = torch.Generator().manual_seed(seed)
        given: dict[str, Any] = {
            "z": torch.randn(batch, self.z_dim, generator=stream),
            "truncation": torch.tensor(truncation),
        }
        if self.c_dim:
            which = torch.randint(self.c_dim, [batch], generator=stream)
            given["label"] = nn.functional.one_hot(which, self.c_dim).float()
        if self.noise_shapes:
            given["noise"] = tuple(torch.randn(batch, *shape[1:], generator=stream) for shape in self.noise_shapes)
        return given

    def mtm_layers(self) -> int:
        # By name: unpickled snapshots have their own class.
        return sum(type(m).__name__ == "ModulatedTransformation" for m in self.modules())


class _Draws(TorchFunctionMode):
    """Replaces torch.randn and torch.randn_like: returns the given tensors, or, for None, records the shapes."""

    def __init__(self, given: Iterator[Tensor] | None) -> None:
        super().__init__()
        self.given = given
        self.shapes: list[list[int]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _DRAWS and self.given is not None:
            return next(self.given)
        result = func(*args, **(kwargs or {}))
        if func in _DRAWS:
            self.shapes.append(list(result.shape))
        return result


def _describe(generator: Any, noise: str | None) -> tuple[str, str, dict[str, Any]]:
    """The kind of network, its noise, and the matching options of its synthesis network."""
    synthesis = getattr(generator, "synthesis", None)
    can: tuple[str, ...]
    options: dict[str, Any]
    if hasattr(synthesis, "block_resolutions"):
        kind, can, noise = "StyleGAN2", NOISES, noise or "const"
        # The fused form folds the batch into the weight, whose shape is then valid for only one batch size.
        options = {"noise_mode": "random" if noise == "input" else noise, "fused_modconv": False}
    elif hasattr(synthesis, "layer_names"):
        kind, can, noise = "StyleGAN3", ("none",), noise or "none"
        options = {}
    elif hasattr(generator, "map") and hasattr(synthesis, "num_latents"):
        kind, can, noise = "compact", ("none", "input"), noise or "none"
        options = {"noise": noise == "input"}
    else:
        raise UserError(
            "export: SNAPSHOT must hold a generator that maps z to ws and ws to an image: the compact one, StyleGAN2's "
            f"or StyleGAN3's; got {type(generator).__name__}, which this tool does not know."
        )
    if noise not in can:
        raise UserError(f"export: --noise must be {' or '.join(can)} for a {kind} generator; got {noise}.")
    return kind, noise, options
