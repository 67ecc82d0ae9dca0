"""The quickstart's trainer: a compact StyleGAN2-style generator and its training, on a CPU."""

VERSION = 2  # of the training's arithmetic: raise it when old snapshots could not be continued bit for bit
