"""The quickstart's host: a compact StyleGAN2-style generator, its training and its evaluation, on a CPU."""
