"""The registry of trainers. To add one: one module here with a TRAINER, and one line in MODULES."""

from importlib import import_module

from experiments.trainers.contract import Trainer

MODULES = (
    "mini",
    "stylegan3",
    "eg3d",
    "stylegan_v",
    "stylesv",
)
TRAINERS: dict[str, Trainer] = {
    trainer.name: trainer for trainer in (import_module(f"{__name__}.{module}").TRAINER for module in MODULES)
}
