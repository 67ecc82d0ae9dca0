"""Stand-ins for the pretrained networks of the metrics: the same files with seeded random weights.

    python -m experiments.stand_ins DIR [--small]

With them every metric runs without the real weights, which tests the path from images to report. The numbers say
nothing about the images. The command also writes DIR/stand-ins.toml, by which experiments.weights recognises the files,
so that each number computed with them is labelled stand-in. Weights are scaled so that features neither vanish nor grow
from layer to layer.
"""

from __future__ import annotations

import math
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.files import UserError, atomic_output
from experiments.weights import WEIGHTS, record_stand_in

SEED = 20308
SMALL_WIDTH, SMALL_DEPTH = 64, 1  # of transformers with --small


class Moving(nn.Module):
    """Stand-in for the I3D of FVD, with its call: uint8 clips [N, 3, T, H, W] to 400 numbers. Random filters over space
    and time."""

    def __init__(self) -> None:
        super().__init__()
        self.space = nn.Conv3d(3, 32, (1, 5, 5), stride=(1, 4, 4))
        self.time = nn.Conv3d(32, 64, (3, 3, 3), stride=(2, 2, 2))
        self.out = nn.Linear(64 * 4, 400)

    def forward(self, x: Tensor, rescale: bool = True, resize: bool = True, return_features: bool = True) -> Tensor:
        x = x.float()
        if rescale:
            x = x / 127.5 - 1
        if resize:
            frames = F.interpolate(x.transpose(1, 2).flatten(0, 1), size=(64, 64), mode="bilinear")
            x = frames.reshape(x.shape[0], x.shape[2], 3, 64, 64).transpose(1, 2)
        x = F.relu(self.time(F.relu(self.space(x))))
        x = self.out(F.adaptive_avg_pool3d(x, (1, 2, 2)).flatten(1))
        return x if return_features else x.softmax(dim=1)


class Still(nn.Module):
    """Stand-in for the pickled Inception of the official codebases, with its call: uint8 images [N, 3, H, W] to 2048
    numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 128, 8, stride=8)
        self.out = nn.Linear(128 * 16, 2048)

    def forward(self, x: Tensor, return_features: bool = True) -> Tensor:
        x = F.interpolate(x.float() / 127.5 - 1, size=(128, 128), mode="bilinear")
        return self.out(F.adaptive_avg_pool2d(F.relu(self.conv(x)), (4, 4)).flatten(1))


class Posing(nn.Module):
    """Stand-in for BlazePose: an image [1, 256, 256, 3] in [0, 1] to 39 x 5 numbers of landmarks in px, and the
    probability of a person. Random filters; the positions of the landmarks depend on the image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 64, 16, stride=16)
        self.out = nn.Linear(64 * 16, 39 * 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.adaptive_avg_pool2d(F.relu(self.conv(x.permute(0, 3, 1, 2) - 0.5)), (4, 4)).flatten(1)
        return 256 * torch.sigmoid(self.out(x)), torch.sigmoid(x.mean(dim=1, keepdim=True) - 0.5)


def make_stand_ins(folder: Path, names: list[str] | None = None, small: bool = False) -> None:
    """Writes the stand-ins of these names (all if None) and stand-ins.toml to `folder`. With `small`, transformers have
    one narrow layer, so that they load and run fast. A name always gives the same weights; torch's random stream is not
    changed. Raises UserError for an unknown name, and if it would replace a file that is not a stand-in."""
    for name in names or WEIGHTS:
        if name not in WRITERS:
            raise UserError(f"stand_ins: name must be one of {', '.join(WRITERS)}; got {name!r}.")
        path = folder / WEIGHTS[name].file
        _refuse_to_replace(name, folder, path)
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings(), atomic_output(path) as partial:
            warnings.simplefilter("ignore", DeprecationWarning)  # from torch.jit, the format of some files
            torch.manual_seed(SEED)
            WRITERS[name](partial, small)
        record_stand_in(name, folder)


def _refuse_to_replace(name: str, folder: Path, path: Path) -> None:
    from experiments.weights import STAND_INS, recorded

    if path.exists() and name not in recorded(folder / STAND_INS):
        raise UserError(f"{path}: exists and is not a stand-in, so it was not replaced. Give another folder.")


def scale_weights(module: nn.Module) -> None:
    """Draws weights: He initialisation for convolutions, variance-preserving for linear layers. Norms are drawn a
    little off the identity, so that a network that omits one gives different features."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(layer.weight)
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=1 / math.sqrt(layer.in_features))
        elif isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(std=0.1)  # type: ignore[union-attr]
            layer.running_var.uniform_(0.8, 1.2)  # type: ignore[union-attr]
        if isinstance(layer, nn.LayerNorm | nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.8, 1.2)
        if getattr(layer, "bias", None) is not None:
            nn.init.normal_(layer.bias, std=0.05)  # type: ignore[arg-type]


def _inception(path: Path, small: bool) -> None:
    from experiments.metrics.fidelity import networks

    kind = networks("feature_extractor_inceptionv3").FeatureExtractorInceptionV3

    class Blank(kind):  # type: ignore[misc,valid-type]
        def load_state_dict(self, *_: Any) -> None:
            """Loads nothing, because the weights are drawn later."""

    torch.save({}, path)  # the constructor reads a file
    network = Blank("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path))
    with torch.no_grad():
        scale_weights(network)
    torch.save(network.state_dict(), path)


def _clip(path: Path, small: bool) -> None:
    from experiments.metrics.fidelity import networks

    clip = networks("feature_extractor_clip")
    width, layers = (SMALL_WIDTH, SMALL_DEPTH) if small else (768, 12)
    network = clip.CLIPVisual(512, 224, layers, width, 32)
    with torch.no_grad():
        scale_weights(network)
        for block in network.visual.transformer.resblocks:
            nn.init.normal_(block.attn.in_proj_weight, std=1 / math.sqrt(width))
    clip.convert_weights(network)  # to half precision, as in OpenAI's file
    state = network.state_dict() | {"text_projection": torch.zeros(1, 512)}  # the loader reads the width from it
    _container(state).save(str(path))


def _container(state: dict[str, Tensor]) -> Any:
    """A TorchScript module with this state_dict that computes nothing."""
    root = nn.Module()
    for name, value in state.items():
        *parents, last = name.split(".")
        module = root
        for parent in parents:
            if not hasattr(module, parent):
                module.add_module(parent, nn.Module())
            module = getattr(module, parent)
        module.register_buffer(last, value.detach().clone())
    return torch.jit.script(root)


def _dinov2(path: Path, small: bool) -> None:
    from experiments.metrics.dinov2 import VisionTransformer

    # The width is the dimension of the features, so it does not change.
    network = VisionTransformer(1024, *((SMALL_DEPTH, 4) if small else (24, 37)))
    with torch.no_grad():
        scale_weights(network)
        for parameter in (network.cls_token, network.pos_embed):
            nn.init.normal_(parameter, std=0.5)
    torch.save(network.state_dict(), path)


def _i3d(path: Path, small: bool) -> None:
    network = Moving()
    with torch.no_grad():
        scale_weights(network)
    torch.jit.script(network.eval()).save(str(path))


def _inception_nvidia(path: Path, small: bool) -> None:
    network = Still()
    with torch.no_grad():
        scale_weights(network)
    with path.open("wb") as file:
        pickle.dump(network.eval(), file)


def _inception_nvidia_pt(path: Path, small: bool) -> None:
    network = Still()
    with torch.no_grad():
        scale_weights(network)
    torch.jit.script(network.eval()).save(str(path))


def _blazepose(path: Path, small: bool) -> None:
    network = Posing()
    with torch.no_grad():
        scale_weights(network)
    torch.jit.script(network.eval()).save(str(path))


def _mobilenet(path: Path, small: bool) -> None:
    from experiments.metrics.mobilenet import MobileNetV2

    network = MobileNetV2()
    with torch.no_grad():
        scale_weights(network)
    torch.save(network.state_dict(), path)


WRITERS: dict[str, Callable[[Path, bool], None]] = {
    "inception-2015-12-05": _inception,
    "clip-vit-b-32": _clip,
    "dinov2-vit-l-14": _dinov2,
    "i3d-kinetics-400": _i3d,
    "inception-nvidia": _inception_nvidia,
    "inception-nvidia-pt": _inception_nvidia_pt,
    "blazepose-full": _blazepose,
    "mobilenet-v2": _mobilenet,
}


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@click.option("--only", multiple=True, metavar="NAME", help="Write only this one; may be repeated.")
@click.option("--small", is_flag=True, help="Write transformers with one narrow layer, for tests.")
def main(folder: Path, only: tuple[str, ...], small: bool) -> None:
    """Write stand-ins for the metrics' pretrained networks to DIR (1.5 GB; 0.2 GB with --small)."""
    try:
        make_stand_ins(folder, list(only) or None, small)
    except UserError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"Stand-ins with random weights in {folder}: numbers computed with them say nothing about the images.")


if __name__ == "__main__":
    from experiments.stand_ins import main as of_the_module  # so that pickles refer to this module, not to __main__

    of_the_module()
