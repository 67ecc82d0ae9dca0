"""The quickstart's trainer: a compact StyleGAN2-style generator and its training, on a CPU."""

KEPT = "kept-{kimg:09.3f}.pt"  # an averaged generator, kept on the way of a run
VERSION = 2  # of the training's arithmetic: raise it when old snapshots could not be continued bit for bit
