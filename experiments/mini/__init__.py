"""The quickstart's trainer: a compact StyleGAN2-style generator and its training on a CPU."""

KEPT = "kept-{kimg:09.3f}.pt"  # an averaged generator, kept during training
VERSION = 2  # of the training's arithmetic; raise it if old snapshots can no longer be continued bit for bit
