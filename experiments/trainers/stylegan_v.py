"""The official StyleGAN-V. Its kimg count thousands of frames, three for each clip of a batch."""

from experiments.checked import Value
from experiments.trainers.contract import Run
from experiments.trainers.hydra import Hydra


class StyleGANV(Hydra):
    name = "stylegan-v"
    host = "stylegan-v"
    dataset = "sky_timelapse"

    def spell(self, key: str, value: Value) -> str:
        """Keys with a dot get Hydra's ++ prefix, because some, such as fmaps, have only a default in the host's code
        and are not in its configuration."""
        return ("++" if "." in key else "") + super().spell(key, value)

    def train_argv(self, run: Run, options: dict[str, Value], kind: str = "") -> list[str]:
        argv = super().train_argv(run, options, kind)
        if options.get("aug", "ada") != "ada":
            argv += ["training.target=null"]  # the host accepts a target only with ada
        if options.get("aug") == "noaug":
            argv += ["training.augpipe=null"]
        return [*argv, "+ignore_uncommited_changes=true"]  # else launch.py asks about the patched files


TRAINER = StyleGANV()
