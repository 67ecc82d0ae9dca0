"""The official StyleGAN3 repository, which also has the current official StyleGAN2 (--cfg=stylegan2)."""

from experiments.trainers.official import Official


class StyleGAN3(Official):
    name = "stylegan3"
    host = "stylegan3"


TRAINER = StyleGAN3()
