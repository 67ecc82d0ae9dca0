"""The images of a trained generator, the same for every trainer.

    python -m tools.images runs/low/final.pt --outdir runs/low/images --data faces.zip
    python -m tools.images runs/stylegan2/00000-.../network-snapshot-000200.pkl --outdir images

Writes samples.png; with --data reals.png; for videos films.png; and, if the generator has deformable layers, fig4.png
(the offsets on and off), offsets.png (the learned offsets) and strength-0.0.png to strength-1.5.png. strip.png,
strip-off.png and strip-field.png are for the contact sheet of a report. Opening a pickle runs the code in it: only open
files that you trust.
"""

from pathlib import Path

import click
import torch

from experiments.files import UserError
from experiments.images import MOST_NIMG, make_images
from experiments.snapshots import HOSTS, TRUST, open_snapshot


@click.command(epilog=TRUST)
@click.argument("snapshot", type=click.Path(path_type=Path))
@click.option("--outdir", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder to write to.")
@click.option("--data", type=click.Path(path_type=Path), help="Data set; its real images are drawn too.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the latents.")
@click.option(
    "--count", type=click.IntRange(min=1), default=MOST_NIMG, show_default=True, help="Number of images in the grids."
)
@click.option("--device", help="cpu or cuda.  [default: a GPU if there is one]")
@click.option("--host", type=click.Choice(list(HOSTS)), help="The pickle's codebase, if the file does not show it.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: torch's]")
def main(
    snapshot: Path,
    outdir: Path,
    data: Path | None,
    seed: int,
    count: int,
    device: str | None,
    host: str | None,
    threads: int | None,
) -> None:
    """Draw images of a trained generator: samples, the same latents with the offsets on and off, a sweep of the
    offsets' strength, and the learned offsets. SNAPSHOT is a final.pt or snapshot.pt of experiments.mini (the
    quickstart), or a pickle of an official codebase."""
    if threads:
        torch.set_num_threads(threads)
    if snapshot.suffix == ".pkl":
        click.echo(TRUST, err=True)
    try:
        with open_snapshot(snapshot, device, host) as opened:
            paths = make_images(opened, outdir, data, seed, count)
    except UserError as error:
        raise click.ClickException(str(error)) from None
    facts = opened.facts
    layers = ", ".join(layer.name for layer in facts.layers) or "none"
    click.echo(f"{snapshot}: {facts.trainer}, {facts.resolution} px, deformable layers: {layers}")
    click.echo(f"{len(paths)} images in {outdir}: {', '.join(path.stem for path in paths)}")


if __name__ == "__main__":
    main()
