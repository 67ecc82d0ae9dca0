"""The official stylegan3's command line, at the size of the tests."""


def arguments(cfg, images, outdir, *more):
    """train.py's, for a network that is far too small to learn anything."""
    words = f"--cfg {cfg} --gpus 1 --batch 4 --gamma 1 --cbase 256 --cmax 8 --map-depth 2 --aug noaug --metrics none"
    words += " --kimg 1 --tick 1 --snap 1 --workers 1 --seed 5"
    return ["--outdir", str(outdir), "--data", str(images), *words.split(), *more]
