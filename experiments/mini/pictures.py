"""The pictures of a trained run: sample grids, the offsets switched on and off, and the learned offset fields."""

from __future__ import annotations

import math

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from experiments.mini.data import to_uint8
from experiments.mini.networks import Generator

GAP_PX = 2
LABEL_PX = 84


def grid(pixels: Tensor, columns: int, zoom: int = 3, labels: tuple[str, ...] = ()) -> Image.Image:
    """Pictures, uint8 [N, 3, R, R], in rows of `columns`, each enlarged `zoom` times; a label left of each row."""
    side = pixels.shape[-1] * zoom + GAP_PX
    margin = LABEL_PX if labels else 0
    sheet = Image.new(
        "RGB", (margin + columns * side + GAP_PX, math.ceil(len(pixels) / columns) * side + GAP_PX), "#ddd"
    )
    for i, array in enumerate(pixels.permute(0, 2, 3, 1).numpy()):
        picture = Image.fromarray(array).resize((side - GAP_PX, side - GAP_PX), Image.Resampling.NEAREST)
        sheet.paste(picture, (margin + GAP_PX + i % columns * side, GAP_PX + i // columns * side))
    draw = ImageDraw.Draw(sheet)
    for row, label in enumerate(labels):
        draw.text((6, int((row + 0.5) * side)), label, fill="black", font=ImageFont.load_default(13), anchor="lm")
    return sheet


@torch.no_grad()
def switch_grid(generator: Generator, z: Tensor) -> Image.Image:
    """The paper's Fig. 4 for this generator: the same latents with the offsets on, off, and the change.

    Noise is left out, so that the offsets alone make the difference.
    """
    from mtm_ops import offsets_disabled

    bent = to_uint8(generator(z, noise=False))
    with offsets_disabled(generator):
        straight = to_uint8(generator(z, noise=False))
    change = 255 - (bent.int() - straight.int()).abs().to(torch.uint8)
    return grid(torch.cat([bent, straight, change]), len(z), labels=("offsets on", "offsets off", "difference"))


@torch.no_grad()
def collect_offsets(generator: Generator, z: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
    """Pictures of z, uint8, and for each bending layer its offsets [B, taps, 2 (dy, dx), r, r] in px of that layer."""
    offsets: dict[int, Tensor] = {}
    hooks = []
    for resolution, layer in generator.bending_layers().items():
        assert layer.mtm is not None

        def keep(_module: object, _inputs: object, output: tuple[Tensor, Tensor | None], r: int = resolution) -> None:
            offsets[r] = output[0].unflatten(1, (-1, 2))

        hooks.append(layer.mtm.register_forward_hook(keep))
    try:
        pictures = to_uint8(generator(z, noise=False))
    finally:
        for hook in hooks:
            hook.remove()
    return pictures, offsets


def offset_fields(generator: Generator, z: Tensor) -> Figure:
    """A column per latent, a row per bending layer: arrows of the offset, mean over its taps, over the picture.

    An arrow starts where the plain convolution is centred and ends where the bent one is; arrows are to scale with the
    picture unless the row's title says how much they are drawn longer.
    """
    pictures, offsets = collect_offsets(generator, z)
    figure = Figure(figsize=(1.7 * len(z), 2.05 * len(offsets)), dpi=110, layout="constrained")
    axes = figure.subplots(len(offsets), len(z), squeeze=False)
    for row, (resolution, offset) in zip(axes, offsets.items(), strict=True):
        means = offset.mean(dim=1).numpy()
        lengths_px = np.sqrt((means**2).sum(axis=1))
        typical_px, stretch = lengths_px.mean(), _readable_stretch(np.quantile(lengths_px, 0.9), resolution)
        row[0].set_ylabel(
            f"{resolution} x {resolution} layer\nmean {typical_px:.2f} px\narrows x {stretch:g}", fontsize=8
        )
        for axis, picture, mean in zip(row, pictures, means, strict=True):
            _draw_field(axis, picture, mean, stretch)
    figure.suptitle("Learned offsets, mean over the nine taps (lengths in px of the layer)", fontsize=9)
    return figure


def _readable_stretch(long_px: float, resolution: int) -> float:
    """1, or the power of two that brings a long arrow to between one and two cells of the 8 x 8 that are drawn."""
    cell_px = max(1, resolution // 8)
    return 1.0 if long_px == 0 else max(1.0, 2.0 ** math.floor(math.log2(2 * cell_px / long_px)))


def _draw_field(axis: Axes, picture: Tensor, mean: np.ndarray, stretch: float) -> None:
    """mean [2, r, r], (dy, dx) in px of the layer, over picture [3, R, R]."""
    r, R = mean.shape[-1], picture.shape[-1]
    step = max(1, r // 8)
    cells = mean.reshape(2, r // step, step, r // step, step).mean(axis=(2, 4)) * (R / r) * stretch
    centre = (np.arange(r // step) + 0.5) * step * (R / r) - 0.5
    pale = picture.permute(1, 2, 0).numpy() // 2 + 127
    axis.imshow(pale, interpolation="nearest")
    axis.quiver(
        *np.meshgrid(centre, centre),
        cells[1],
        cells[0],
        angles="xy",
        scale_units="xy",
        scale=1,
        color="#b00",
        width=0.012,
    )
    axis.set(xticks=[], yticks=[], xlim=(-0.5, R - 0.5), ylim=(R - 0.5, -0.5))
