"""The official StyleGAN3 repository, which is also the official StyleGAN2 of today: --cfg=stylegan2."""

from experiments.trainers.official import Official


class StyleGAN3(Official):
    name = "stylegan3"
    host = "stylegan3"


TRAINER = StyleGAN3()
