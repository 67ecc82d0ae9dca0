"""Command-line options and data for training the official EG3D at test size."""

import json
import math
from pathlib import Path

PIXELS = 128  # the smallest size that its superresolution accepts


def camera(yaw):
    """A label: 16 numbers of camera-to-world, 9 of the intrinsics. It looks at the origin from a distance of 2.7."""
    c, s = math.cos(yaw), math.sin(yaw)
    to_world = [c, 0, -s, 2.7 * s, 0, -1, 0, 0, -s, 0, -c, 2.7 * c, 0, 0, 0, 1]
    return [*to_world, 4.2647, 0, 0.5, 0, 4.2647, 0.5, 0, 0, 1]


def make_posed_images(folder: Path, count: int = 12) -> Path:
    # Needs pytest's path. Probes import this module only for the cameras, so it is not imported at the top.
    from lab import make_images

    make_images(folder, PIXELS, count)
    labels = [[f"{i:02d}.png", camera(0.1 * i - 0.5)] for i in range(count)]
    (folder / "dataset.json").write_text(json.dumps({"labels": labels}))
    return folder


def arguments(images, outdir, *more):
    """Options of train.py, for a network far too small to learn anything."""
    words = (
        "--cfg ffhq --gpus 1 --batch 2 --mbstd-group 2 --gamma 1 --gen_pose_cond 1 --cbase 256 --cmax 8 --metrics none"
    )
    words += " --kimg 1 --tick 1 --snap 1 --workers 1 --seed 5 --neural_rendering_resolution_initial 8"
    return ["--outdir", str(outdir), "--data", str(images), *words.split(), *more]
