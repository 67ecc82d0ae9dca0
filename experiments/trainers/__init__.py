"""What can train a run. To add a trainer: one module with a subclass of Trainer, and one line in TRAINERS here."""

from experiments.trainers.contract import Trainer
from experiments.trainers.mini import Mini
from experiments.trainers.stylegan3 import StyleGAN3

TRAINERS: dict[str, Trainer] = {
    trainer.name: trainer
    for trainer in [
        Mini(),
        StyleGAN3(),
    ]
}
