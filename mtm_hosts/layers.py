"""Which layers of a generator carry the module: the one table of the paper's layer groups, and how they get it."""

import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from mtm_ops.module import ModulatedTransformation

# Table 4's parameter increments force two, one and one replaced layers; the exact resolutions are our reading.
LAYER_GROUPS = {"low": (8, 16), "mid": (32,), "high": (64,)}
# StyleGAN3's tensors carry margins, so its layers go by their output sampling rate; the least is 16.
RATE_GROUPS = {"low": (16, 32), "mid": (64,), "high": (128,)}


class Place(NamedTuple):
    """A layer that can carry the module, and its convolution's padding (px)."""

    layer: Any
    padding: int


def parse_layers(spec: str | None, groups: Mapping[str, tuple[int, ...]] = LAYER_GROUPS) -> tuple[int, ...]:
    """Resolutions (px), or sampling rates, that carry the module, ascending.

    Args:
        spec: what `--mtm` takes: "none" (or None or ""), groups ("low", "low,mid,high"), resolutions ("4,8,16"),
            or a mixture of both.
        groups: what each group's name stands for: LAYER_GROUPS, or RATE_GROUPS for StyleGAN3.

    Raises:
        ValueError: for an unknown group, or a resolution that is no power of two from 4 up.

    >>> parse_layers("low,mid"), parse_layers("16,4"), parse_layers("none"), parse_layers("low", RATE_GROUPS)
    ((8, 16, 32), (4, 16), (), (16, 32))
    """
    words = [word.strip().lower() for word in (spec or "none").split(",")]
    if words == ["none"]:
        return ()
    layers: set[int] = set()
    for word in words:
        if word in groups:
            layers.update(groups[word])
        elif word.isdecimal() and int(word) >= 4 and int(word).bit_count() == 1:
            layers.add(int(word))
        else:
            raise ValueError(
                f"parse_layers: --mtm must list groups ({', '.join(groups)}) or resolutions that are powers of "
                f"two from 4 up, or be 'none'; got {word!r} in {spec!r}. For the paper's setting pass --mtm low."
            )
    return tuple(sorted(layers))


def attach(synthesis: nn.Module, spec: str | None, head: str = "offset") -> None:
    """Give the layers of a host's synthesis network that `spec` names a ModulatedTransformation, as `layer.mtm`.

    The layer is the non-upsampling convolution of a resolution (StyleGAN2), or the last non-upsampling one of an
    output sampling rate (StyleGAN3). Call it at the end of the network's constructor. The host's random stream and
    parameters stay as they are; the modules' own initial values follow from torch's seed, and differ among layers.

    Args:
        synthesis: has StyleGAN2's block_resolutions and b<resolution>.conv1, or StyleGAN3's layer_names. Where its
            class is persistent, the modules are too, so that a snapshot holds their source.
        spec: see `parse_layers`; None or "none" attaches nothing.
        head: "offset" or "offset+mask".

    Raises:
        TypeError: for a network of another kind.
        ValueError: for a spec that does not parse, or that names a place the network does not have.
    """
    unit, groups, places = _places(synthesis)
    chosen = parse_layers(spec, groups)
    missing = [value for value in chosen if value not in places]
    if missing:
        raise ValueError(
            f"attach: --mtm must name {unit} of this network, {', '.join(map(str, places))}; got "
            f"{', '.join(map(str, missing))} in {spec!r}. Leave these out, or list {unit} yourself: "
            f"--mtm {','.join(str(v) for v in chosen if v in places) or next(iter(places))}"
        )
    persistent = getattr(sys.modules[type(synthesis).__module__], "persistent_class", None)
    module = persistent(ModulatedTransformation) if persistent else ModulatedTransformation
    seed = torch.initial_seed()
    with torch.random.fork_rng(devices=[]):
        for value in chosen:
            layer, padding = places[value]
            # The CPU's stream only, which the fork restores; a stream of its own for every layer.
            torch.default_generator.manual_seed((seed + value * 0x9E3779B9) % 2**63)
            layer.mtm = module(layer.in_channels, layer.w_dim, layer.weight.shape[3], head, padding=padding)


def _places(synthesis: Any) -> tuple[str, Mapping[str, tuple[int, ...]], dict[int, Place]]:
    """What places are called, the groups of them, and the network's own: resolution or rate -> layer."""
    if hasattr(synthesis, "block_resolutions"):
        blocks = {r: getattr(synthesis, f"b{r}").conv1 for r in synthesis.block_resolutions}
        return "resolutions", LAYER_GROUPS, {r: Place(conv, conv.padding) for r, conv in blocks.items()}
    if hasattr(synthesis, "layer_names"):
        layers = [getattr(synthesis, name) for name in synthesis.layer_names]
        plain = [x for x in layers if not x.is_torgb and x.in_sampling_rate == x.out_sampling_rate]
        # Later layers of a rate replace earlier ones.
        return "sampling rates", RATE_GROUPS, {int(x.out_sampling_rate): Place(x, x.conv_kernel - 1) for x in plain}
    raise TypeError(
        "attach: synthesis must have StyleGAN2's block_resolutions or StyleGAN3's layer_names; got "
        f"{type(synthesis).__name__}. Build ModulatedTransformation into its layers yourself."
    )
