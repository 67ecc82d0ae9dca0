"""The official StyleGAN-V. Its kimg are thousands of frames: three for each clip of a batch."""

from experiments.checked import Value
from experiments.trainers.contract import Run
from experiments.trainers.hydra import Hydra


class StyleGANV(Hydra):
    name = "stylegan-v"
    host = "stylegan-v"
    dataset = "sky_timelapse"

    def spell(self, key: str, value: Value) -> str:
        """Keys of the model are added where the host's configuration has only a default in the code, as fmaps."""
        return ("++" if "." in key else "") + super().spell(key, value)

    def train_argv(self, run: Run, options: dict[str, Value], kind: str = "") -> list[str]:
        argv = super().train_argv(run, options, kind)
        if options.get("aug", "ada") != "ada":
            argv += ["training.target=null"]  # which the host refuses beside other augmentations
        if options.get("aug") == "noaug":
            argv += ["training.augpipe=null"]
        return [*argv, "+ignore_uncommited_changes=true"]  # a patched tree is one; launch.py would ask


TRAINER = StyleGANV()
