"""Command-line options for training the official stylegan3 at test size."""


def arguments(cfg, images, outdir, *more):
    """Options of train.py, for a network far too small to learn anything."""
    words = f"--cfg {cfg} --gpus 1 --batch 4 --gamma 1 --cbase 256 --cmax 8 --map-depth 2 --aug noaug --metrics none"
    words += " --kimg 1 --tick 1 --snap 1 --workers 1 --seed 5"
    return ["--outdir", str(outdir), "--data", str(images), *words.split(), *more]
