"""Judge a trained run: its Frechet distance to the data, and its pictures.

    python -m experiments.mini.evaluate --run runs/low --data faces.zip

Writes into the run's folder metrics.json (the distance with the fingerprint of how it was taken), reals.png,
samples.png (the same latents for every run with this seed) and, where the run has the MTM, fig4.png and offsets.png.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from experiments.files import UserError, atomic_output
from experiments.metrics.embedding import RandomEmbedding
from experiments.metrics.frechet import frechet_distance
from experiments.mini.data import Pictures, load_pictures, to_uint8
from experiments.mini.networks import Generator
from experiments.mini.trainer import Options, build_generator

BATCH = 100
DDOF = 0


def load_generator(run: Path) -> tuple[Generator, Options]:
    """The averaged generator of a finished run, and the run's options."""
    path = run / "final.pt"
    if not path.is_file():
        raise UserError(
            f"evaluate: --run must be the folder of a finished run; got {str(run)!r}, which has no final.pt. "
            "Finish it first: run its training command again."
        )
    content = torch.load(path, weights_only=True)
    options = Options(**content["options"])
    generator = build_generator(options)
    generator.load_state_dict(content["generator"])
    return generator.eval().requires_grad_(False), options


@torch.no_grad()
def sample(generator: Generator, z: Tensor, noise: bool = True) -> Tensor:
    """uint8 pictures [N, 3, R, R] of latents z [N, z_dim]."""
    return torch.cat([to_uint8(generator(part, noise=noise)) for part in z.split(BATCH)])


def measure(generator: Generator, pictures: Pictures, samples_nimg: int, seed: int) -> dict[str, Any]:
    """The Frechet distance between all pictures and `samples_nimg` samples, with the fingerprint of the measurement."""
    torch.manual_seed(seed)
    fake = sample(generator, torch.randn(samples_nimg, generator.z_dim))
    embedding = RandomEmbedding()
    real_features, fake_features = embedding(pictures.pixels).numpy(), embedding(fake).numpy()
    fingerprint = embedding.fingerprint() | {
        "real_nimg": len(pictures),
        "generated_nimg": samples_nimg,
        "ddof": DDOF,
        "seed": seed,
        "truncation": 1.0,
        "data_sha256": pictures.sha256,
    }
    return {"frechet": frechet_distance(real_features, fake_features, ddof=DDOF), "fingerprint": fingerprint}


def _save_png(path: Path, save: Callable[..., None]) -> None:
    buffer = io.BytesIO()
    save(buffer, format="png")
    with atomic_output(path) as partial:
        partial.write_bytes(buffer.getvalue())


def draw(run: Path, generator: Generator, pictures: Pictures, seed: int) -> list[str]:
    """Write the run's pictures; returns their names."""
    from experiments.mini.pictures import grid, offset_fields, switch_grid

    torch.manual_seed(seed + 1)  # not the latents of the distance, and the same for every run
    z = torch.randn(96, generator.z_dim)
    some = pictures.batch(0, 96, seed)
    saves: dict[str, Callable[..., None]] = {
        "reals.png": grid(to_uint8(some), 16).save,
        "samples.png": grid(sample(generator, z), 16).save,
    }
    if generator.bending_layers():
        saves["fig4.png"] = switch_grid(generator, z[:14]).save
        saves["offsets.png"] = offset_fields(generator, z[:7]).savefig
    for name, save in saves.items():
        _save_png(run / name, save)
    return list(saves)


def evaluate(run: Path, data: Path, samples_nimg: int, seed: int) -> dict[str, Any]:
    """Measure and draw a finished run; returns what is written to metrics.json, which is written last."""
    generator, options = load_generator(run)
    pictures = load_pictures(data)
    if pictures.sha256 != options.data_sha256:
        raise UserError(
            f"evaluate: --data must be the pictures that the run was trained on; expected content "
            f"{options.data_sha256[:12]}, got {pictures.sha256[:12]} in {str(data)!r}. Give the data set of {run}."
        )
    draw(run, generator, pictures, seed)
    result = measure(generator, pictures, samples_nimg, seed)
    result["generator_parameters"] = sum(parameter.numel() for parameter in generator.parameters())
    with atomic_output(run / "metrics.json") as partial:
        partial.write_text(json.dumps(result, indent=2) + "\n")
    return result


@click.command()
@click.option(
    "--run", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder of a finished run."
)
@click.option("--data", type=click.Path(path_type=Path), required=True, help="The zip it was trained on.")
@click.option("--samples", type=click.IntRange(min=2), default=5000, show_default=True, help="Pictures to generate.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="CPU threads.")
def main(run: Path, data: Path, samples: int, seed: int, threads: int) -> None:
    """Measure a trained run and draw its pictures."""
    torch.set_num_threads(threads)
    started = time.perf_counter()
    try:
        result = evaluate(run, data, samples, seed)
    except UserError as error:
        raise click.ClickException(str(error)) from None
    click.echo(json.dumps({"event": "evaluated", "frechet": result["frechet"], "s": time.perf_counter() - started}))


if __name__ == "__main__":
    main()
