"""The images of a trained generator, the same for every trainer: sample grids, the offsets switched on and off, a sweep
of their strength, and the learned offset fields."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from experiments.datasets.images import decode_rgb, open_source
from experiments.files import UserError, atomic_output
from experiments.generators import Layer
from experiments.sheets import FEW_STRENGTHS, FILM_FRAMES, GAP_COLOUR, GAP_PX, STRENGTHS
from experiments.snapshots import Snapshot

LABEL_PX = 84
CELL_PX = (96, 256)  # images are enlarged by whole factors up to the first, or reduced to the second
MOST_NIMG = 96  # samples in a grid
COLUMNS, SWITCHED_NIMG, FIELDS_NIMG, SWEPT_NIMG = 16, 14, 7, 6
STRIP_NIMG = 4  # images in a strip, or frames of one video
FILMS, FILM_STEP = 4, 2  # number of videos, and the step between the frames that are shown
MAX_MPX = 25.0  # per real image

Save = Callable[..., None]


def make_images(snapshot: Snapshot, outdir: Path, data: Path | None, seed: int, count: int = MOST_NIMG) -> list[Path]:
    """Write all images of a snapshot; returns their paths.

    samples.png has `count` images, none selected; reals.png as many images of `data`; strip.png, for the contact sheet,
    the first few images or a few frames of the first video. For videos there is also films.png, with a row of frames
    per video. For networks with deformable layers there are also fig4.png (the same latents with the offsets on and
    off), offsets.png (the offset fields), strength-0.0.png to strength-1.5.png (the same few latents at each strength
    of the offsets), strip-off.png and strip-field.png.

    If `count` is less than MOST_NIMG, the other figures show proportionally fewer images, at least one, and the
    strength changes in steps of a half. The latents depend on the seed only, so they are the same for every snapshot
    with this z_dim.
    """
    saves: dict[str, Save] = {}
    if data is not None:
        saves["reals"] = grid(real_images(data, count, seed, snapshot.facts.resolution), COLUMNS).save
    torch.manual_seed(seed + 1)  # differs from the latents of a metric with the same seed
    z = torch.randn(count, snapshot.facts.z_dim)
    saves["samples"] = grid(snapshot.generate(z, noise=True), COLUMNS).save
    if snapshot.facts.frames:
        times = [FILM_STEP * i for i in range(FILM_FRAMES)]
        saves["films"] = grid(snapshot.generate(few(z, FILMS), frames=times).flatten(0, 1), FILM_FRAMES).save
    saves |= strips(snapshot, z)
    if snapshot.facts.layers:
        saves["fig4"] = switch_grid(snapshot, few(z, SWITCHED_NIMG)).save
        saves["offsets"] = offset_fields(*snapshot.offsets(few(z, FIELDS_NIMG))).savefig
        for strength in STRENGTHS if count >= MOST_NIMG else FEW_STRENGTHS:
            strip = grid(snapshot.generate(few(z, SWEPT_NIMG), strength=strength), SWEPT_NIMG)
            saves[f"strength-{strength:.1f}"] = strip.save
    return [_write_png(outdir / f"{name}.png", save) for name, save in saves.items()]


def few(z: Tensor, full: int) -> Tensor:
    """The first latents of z [count, z_dim]: `full` of them if count is MOST_NIMG, else proportionally fewer."""
    return z[: max(1, min(full, full * len(z) // MOST_NIMG))]


def strips(snapshot: Snapshot, z: Tensor) -> dict[str, Save]:
    """The strips of the contact sheet: the first images, or frames of the first video, with the offsets on, with the
    offsets off, and with the offset field of the deformable layer of the highest resolution drawn over them."""
    z, frames = z[:STRIP_NIMG], None
    if snapshot.facts.frames:
        z, frames = z[:1], [2.0 * FILM_STEP * i for i in range(STRIP_NIMG)]

    def flat(images: Tensor) -> Tensor:
        return images if frames is None else images.flatten(0, 1)

    saves: dict[str, Save] = {}
    if snapshot.facts.layers:
        images, offsets = snapshot.offsets(z, frames=frames)
        saves["strip-off"] = grid(flat(snapshot.generate(z, frames=frames, strength=0)), STRIP_NIMG).save
        layer = max(offsets, key=lambda layer: layer.resolution)
        saves["strip-field"] = field_strip(flat(images), layer, offsets[layer]).savefig
    else:
        images = snapshot.generate(z, frames=frames)
    return saves | {"strip": grid(flat(images), STRIP_NIMG).save}


def _write_png(path: Path, save: Save) -> Path:
    buffer = io.BytesIO()
    save(buffer, format="png")
    with atomic_output(path) as partial:
        partial.write_bytes(buffer.getvalue())
    return path


def real_images(data: Path, count: int, seed: int, resolution: int) -> Tensor:
    """uint8 [at most count, 3, R, R]: images of a data set, chosen at random by the seed.

    Raises:
        UserError: if the data set cannot be read or its images have another size.
    """
    source = open_source(data)
    chosen = np.random.default_rng([seed, 0]).permutation(len(source.names))[:count]
    images = []
    for name in (source.names[i] for i in chosen):
        try:
            image = decode_rgb(source.read(name), MAX_MPX)
        except (ValueError, OSError, SyntaxError) as error:
            raise UserError(f"{data}: {name} cannot be read as an image ({error}). Remove or replace it.") from error
        if image.size != (resolution, resolution):
            raise UserError(
                f"{data}: images must have the generator's size; expected {resolution} x {resolution} px, got "
                f"{image.width} x {image.height} px in {name}. Give the data set that it was trained on."
            )
        images.append(np.asarray(image))
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def grid(pixels: Tensor, columns: int, labels: tuple[str, ...] = ()) -> Image.Image:
    """Images, uint8 [N, 3, R, R], in rows of `columns`, with a label to the left of each row."""
    cell_px = _cell_px(pixels.shape[-1])
    resample = Image.Resampling.NEAREST if cell_px >= pixels.shape[-1] else Image.Resampling.LANCZOS
    columns, side = min(columns, len(pixels)), cell_px + GAP_PX
    margin = LABEL_PX if labels else 0
    size = margin + columns * side + GAP_PX, math.ceil(len(pixels) / columns) * side + GAP_PX
    sheet = Image.new("RGB", size, GAP_COLOUR)
    for i, array in enumerate(pixels.permute(0, 2, 3, 1).numpy()):
        image = Image.fromarray(array).resize((cell_px, cell_px), resample)
        sheet.paste(image, (margin + GAP_PX + i % columns * side, GAP_PX + i // columns * side))
    draw = ImageDraw.Draw(sheet)
    for row, label in enumerate(labels):
        draw.text((6, int((row + 0.5) * side)), label, fill="black", font=ImageFont.load_default(13), anchor="lm")
    return sheet


def _cell_px(resolution: int) -> int:
    small, large = CELL_PX
    return min(resolution * max(1, small // resolution), large)


def switch_grid(snapshot: Snapshot, z: Tensor) -> Image.Image:
    """The paper's Fig. 4 for this generator: the same latents with the offsets on, with the offsets off, and the
    absolute difference.

    All random inputs are the same in both, so only the offsets make the difference.
    """
    on, off = snapshot.generate(z), snapshot.generate(z, strength=0)
    change = 255 - (on.int() - off.int()).abs().to(torch.uint8)
    return grid(torch.cat([on, off, change]), len(z), labels=("offsets on", "offsets off", "difference"))


def offset_fields(images: Tensor, offsets: dict[Layer, Tensor]) -> Figure:
    """One column per latent and one row per deformable layer: arrows of the mean offset over the taps, on the image.

    Args:
        images: uint8 [N, 3, R, R].
        offsets: per layer [N, taps, 2 (dy, dx), h, w], in px of the layer.

    An arrow goes from the centre of the plain convolution to that of the deformed one. Its length is to scale with the
    image, times the factor in the row's label.
    """
    figure = Figure(figsize=(1.7 * len(images), 2.05 * len(offsets)), dpi=110, layout="constrained")
    axes = figure.subplots(len(offsets), len(images), squeeze=False)
    for row, (layer, offset) in zip(axes, offsets.items(), strict=True):
        r = layer.resolution
        means = _without_margin(offset.mean(dim=1), r).numpy()
        lengths_px = np.sqrt((means**2).sum(axis=1))
        typical_px, stretch = lengths_px.mean(), _readable_stretch(np.quantile(lengths_px, 0.9), r)
        place = f"{r} x {r} layer" + ", three planes" * layer.planes
        row[0].set_ylabel(f"{place}\nmean {typical_px:.2f} px\narrows x {stretch:g}", fontsize=8)
        for axis, image, mean in zip(row, images, means, strict=True):
            _draw_field(axis, torch.full_like(image, 255) if layer.planes else image, mean, stretch)
    title = "Learned offsets, mean over the taps (lengths in px of the layer)"
    figure.suptitle(textwrap.fill(title, 22 * len(images)), fontsize=9)
    return figure


def field_strip(images: Tensor, layer: Layer, offset: Tensor) -> Figure:
    """One layer's mean offsets drawn over images [N, 3, R, R], in one row laid out as by `grid`, without text."""
    cell_px = _cell_px(images.shape[-1])
    side = cell_px + GAP_PX
    size = len(images) * side + GAP_PX, side + GAP_PX
    figure = Figure(figsize=(size[0] / 100, size[1] / 100), dpi=100, facecolor=GAP_COLOUR)
    means = _without_margin(offset.mean(dim=1), layer.resolution).numpy()
    stretch = _readable_stretch(np.quantile(np.sqrt((means**2).sum(axis=1)), 0.9), layer.resolution)
    for i, (image, mean) in enumerate(zip(images, means, strict=True)):
        place = (GAP_PX + i * side) / size[0], GAP_PX / size[1], cell_px / size[0], cell_px / size[1]
        axis = figure.add_axes(place, frame_on=False)
        _draw_field(axis, torch.full_like(image, 255) if layer.planes else image, mean, stretch)
    return figure


def _without_margin(field: Tensor, resolution: int) -> Tensor:
    """[..., r, r]: the part of a layer's field that becomes the image, without StyleGAN3's margins."""
    top, left = ((size - resolution) // 2 for size in field.shape[-2:])
    return field[..., top : top + resolution, left : left + resolution]


def _readable_stretch(long_px: float, resolution: int) -> float:
    """The power of two, at least 1, that makes a long arrow one to two cells long, of the 8 x 8 that are drawn."""
    cell_px = max(1, resolution // 8)
    return 1.0 if long_px == 0 else max(1.0, 2.0 ** math.floor(math.log2(2 * cell_px / long_px)))


def _draw_field(axis: Axes, image: Tensor, mean: np.ndarray, stretch: float) -> None:
    """Draws mean [2, r, r], (dy, dx) in px of the layer, over image [3, R, R]."""
    r, R = mean.shape[-1], image.shape[-1]
    step = max(1, r // 8)
    cells = mean.reshape(2, r // step, step, r // step, step).mean(axis=(2, 4)) * (R / r) * stretch
    centre = (np.arange(r // step) + 0.5) * step * (R / r) - 0.5
    pale = image.permute(1, 2, 0).numpy() // 2 + 127
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
