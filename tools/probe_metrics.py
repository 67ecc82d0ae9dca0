"""What the metrics for people detect: compares real images with degraded ones.

    python -m tools.probe_metrics people.zip

Takes two sets of --nimg images of the data set, degrades the second in several ways, and measures each version against
the first. Prints a Markdown table, which docs/metrics.md contains. The data set must show people, with their joints as
labels.
"""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from experiments.datasets.people_labels import read_labels
from experiments.files import UserError
from experiments.metrics import METRICS
from experiments.mini.data import load_images

NAMES = ("person_rate", "joint_distance", "frechet", "frechet_mobilenet")


def blurred(images: Tensor, sigma_px: float) -> Tensor:
    """Gaussian blur, with edges repeated."""
    reach = int(3 * sigma_px) + 1
    kernel = torch.exp(-(torch.arange(-reach, reach + 1).float() ** 2) / (2 * sigma_px**2))
    kernel /= kernel.sum()
    x = F.pad(images.float(), (reach,) * 4, mode="replicate").flatten(0, 1)[:, None]
    x = F.conv2d(F.conv2d(x, kernel[None, None, None, :]), kernel[None, None, :, None])
    return x.view_as(images).round().clamp(0, 255).to(torch.uint8)


def quarters_shuffled(images: Tensor, rng: np.random.Generator) -> Tensor:
    """The four quarters of each image in another order."""
    half = images.shape[-1] // 2
    tiles = torch.stack([images[:, :, a : a + half, b : b + half] for a in (0, half) for b in (0, half)], dim=1)
    orders = torch.from_numpy(np.stack([rng.permutation(4) for _ in images]))
    tiles = tiles[torch.arange(len(images))[:, None], orders]
    rows = [torch.cat([tiles[:, 2 * i], tiles[:, 2 * i + 1]], dim=3) for i in (0, 1)]
    return torch.cat(rows, dim=2)


def nearest_pose(joints: np.ndarray, poses: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of `count` images, in equal shares the nearest to each of `poses` random images by their true joints."""
    from experiments.metrics.joints import normalised

    points = normalised(joints.astype(np.float64))
    centres = points[rng.choice(len(points), poses, replace=False)]
    chosen = [np.argsort(np.square(points - centre).sum(axis=1))[: count // poses] for centre in centres]
    return np.concatenate(chosen)


def spoilt(images: Tensor, others: Tensor, joints: np.ndarray, rng: np.random.Generator) -> dict[str, Tensor]:
    """The sets to measure, by name: `images` [N] and degraded versions, and images of few poses from `others`."""
    side = images.shape[-1]
    erased = images.clone()
    erased[:, :, side // 4 : side // 2, side // 4 : 3 * side // 4] = 128
    return {
        "other real images": images,
        f"blurred, sigma {side / 64:g} px": blurred(images, side / 64),
        f"blurred, sigma {side / 32:g} px": blurred(images, side / 32),
        "quarters shuffled": quarters_shuffled(images, rng),
        "an eighth erased": erased,
        "upside down": images.flip(2),
        "one pose only": others[nearest_pose(joints, 1, len(images), rng)],
        "four poses only": others[nearest_pose(joints, 4, len(images), rng)],
        "half of them grey": torch.where(torch.arange(len(images))[:, None, None, None] % 2 == 0, images, 128),
    }


def save(images: Tensor, path: Path) -> Path:
    """Writes the images as a zip of PNGs."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for i, image in enumerate(images):
            buffer = io.BytesIO()
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "png", compress_level=1)
            archive.writestr(f"{i:06d}.png", buffer.getvalue())
    return path


def measured(real: Path, fake: Path, names: tuple[str, ...]) -> dict[str, float | None]:
    """The value of each metric for the two files."""
    from contextlib import ExitStack

    from experiments.metrics.job import Job, measure_all
    from experiments.metrics.measure import Measurement

    with ExitStack() as opened:
        job = Job(real, fake, None, None, 2, 1, False, None, Measurement(progress=False), opened)
        return {name: one.value for name, one in measure_all(job, [METRICS[name] for name in names]).items()}


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--nimg", type=click.IntRange(min=50), default=1000, show_default=True)
@click.option("--metric", "names", multiple=True, type=click.Choice(NAMES), default=NAMES, show_default=True)
def main(data: Path, nimg: int, names: tuple[str, ...], say: Callable[[str], None] = click.echo) -> None:
    """Print the value of each metric for degraded images of DATA, a zip made by the recipe people."""
    rng = np.random.default_rng(0)
    try:
        images, joints = load_images(data).pixels, read_labels(data)["joints_px"]
        if len(images) < 4 * nimg:
            raise UserError(f"probe_metrics: DATA must hold 4 x {nimg} images; got {len(images)}. Lower --nimg.")
        order = rng.permutation(len(images))
        first, second, rest = np.split(order, [nimg, 2 * nimg])
        with tempfile.TemporaryDirectory() as name:
            real = save(images[first], Path(name) / "real.zip")
            say("| images | " + " | ".join(METRICS[one].title for one in names) + " |")
            say("|---" * (len(names) + 1) + "|")
            for title, some in spoilt(images[second], images[rest], joints[rest], rng).items():
                values = measured(real, save(some, Path(name) / "fake.zip"), names)
                say(f"| {title} | " + " | ".join(f"{value:.3g}" for value in values.values()) + " |")
    except UserError as error:
        raise click.ClickException(str(error)) from None


if __name__ == "__main__":
    main(prog_name="python -m tools.probe_metrics")
