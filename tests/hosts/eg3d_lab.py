"""The official EG3D's command line and data, at the size of the tests."""

import json
import math
from pathlib import Path

PIXELS = 128  # the least that its superresolution takes


def camera(yaw):
    """A label: 16 numbers of camera-to-world, 9 of the intrinsics. It looks at the origin from 2.7 away."""
    c, s = math.cos(yaw), math.sin(yaw)
    to_world = [c, 0, -s, 2.7 * s, 0, -1, 0, 0, -s, 0, -c, 2.7 * c, 0, 0, 0, 1]
    return [*to_world, 4.2647, 0, 0.5, 0, 4.2647, 0.5, 0, 0, 1]


def make_posed_images(folder: Path, count: int = 12) -> Path:
    from lab import make_images  # needs pytest's path; probes import this module for the cameras alone

    make_images(folder, PIXELS, count)
    labels = [[f"{i:02d}.png", camera(0.1 * i - 0.5)] for i in range(count)]
    (folder / "dataset.json").write_text(json.dumps({"labels": labels}))
    return folder


def arguments(images, outdir, *more):
    """train.py's, for a network that is far too small to learn anything."""
    words = (
        "--cfg ffhq --gpus 1 --batch 2 --mbstd-group 2 --gamma 1 --gen_pose_cond 1 --cbase 256 --cmax 8 --metrics none"
    )
    words += " --kimg 1 --tick 1 --snap 1 --workers 1 --seed 5 --neural_rendering_resolution_initial 8"
    return ["--outdir", str(outdir), "--data", str(images), *words.split(), *more]
