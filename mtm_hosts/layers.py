"""Which layers of a generator get the module: the only table of the paper's layer groups, and how it is attached."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

import mtm_ops
from mtm_hosts.rebuild import KeepsItsCode
from mtm_ops.module import ModulatedTransformation

# Table 4's parameter increments force two, one and one replaced layers; the exact resolutions are our reading.
LAYER_GROUPS = {"low": (8, 16), "mid": (32,), "high": (64,)}
# StyleGAN3's tensors carry margins, so its layers are chosen by output sampling rate; the lowest is 16.
RATE_GROUPS = {"low": (16, 32), "mid": (64,), "high": (128,)}


class Place(NamedTuple):
    """A layer that can get the module, and the padding of its convolution (px)."""

    layer: Any
    padding: int


def _by_resolution(synthesis: Any) -> dict[int, Place]:
    """The non-upsampling convolution of each resolution."""
    convolutions = {r: getattr(synthesis, f"b{r}").conv1 for r in synthesis.block_resolutions}
    return {r: Place(conv, conv.padding) for r, conv in convolutions.items()}


def _by_rate(synthesis: Any) -> dict[int, Place]:
    """The last non-upsampling layer of each output sampling rate: later ones replace earlier ones."""
    layers = [getattr(synthesis, name) for name in synthesis.layer_names]
    plain = [x for x in layers if not x.is_torgb and x.in_sampling_rate == x.out_sampling_rate]
    return {int(x.out_sampling_rate): Place(x, x.conv_kernel - 1) for x in plain}


class Layout(NamedTuple):
    """How to find the places in a family of synthesis networks."""

    mark: str  # the attribute that identifies the family
    unit: str
    groups: Mapping[str, tuple[int, ...]]
    places: Callable[[Any], dict[int, Place]]


LAYOUTS = (
    Layout("block_resolutions", "resolutions", LAYER_GROUPS, _by_resolution),  # StyleGAN2, EG3D, StyleGAN-V
    Layout("layer_names", "sampling rates", RATE_GROUPS, _by_rate),  # StyleGAN3, StyleSV
)


def parse_layers(spec: str | None, groups: Mapping[str, tuple[int, ...]] = LAYER_GROUPS) -> tuple[int, ...]:
    """Resolutions (px), or sampling rates, that get the module, ascending.

    Args:
        spec: the value of `--mtm`: "none" (or None or ""), groups ("low", "low,mid,high"), resolutions ("4,8,16"),
            or a mix of both.
        groups: the layers of each group: LAYER_GROUPS, or RATE_GROUPS for StyleGAN3.

    Raises:
        ValueError: for an unknown group, or a resolution that is not a power of two from 4 up.

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


def attach(synthesis: nn.Module, spec: str | None, head: str = "offset", extra: int = 0) -> None:
    """Attaches a ModulatedTransformation, as `layer.mtm`, to the layers of a synthesis network that `spec` names.

    The layer is the non-upsampling convolution of a resolution (StyleGAN2), or the last non-upsampling one of an
    output sampling rate (StyleGAN3). Call it at the end of the network's constructor. The host's random stream and
    parameters do not change; the modules' initial values depend on torch's seed, and differ between layers.

    Args:
        synthesis: has StyleGAN2's block_resolutions and b<resolution>.conv1, or StyleGAN3's layer_names. If its class
            is persistent, the modules are too, so that a snapshot contains their source.
        spec: see `parse_layers`; None or "none" attaches nothing.
        head: "offset" or "offset+mask".
        extra: how many numbers drive the offsets besides the layer's w, such as StyleGAN-V's motion code.

    Raises:
        TypeError: for a network of another kind.
        ValueError: for a spec that does not parse, or that names a place the network does not have.
    """
    layout = _layout(synthesis)
    if layout is None:
        raise TypeError(
            "attach: synthesis must have StyleGAN2's block_resolutions or StyleGAN3's layer_names; got "
            f"{type(synthesis).__name__}. Build ModulatedTransformation into its layers yourself."
        )
    places, chosen = layout.places(synthesis), parse_layers(spec, layout.groups)
    missing = [value for value in chosen if value not in places]
    if missing:
        raise ValueError(
            f"attach: --mtm must name {layout.unit} of this network, {', '.join(map(str, places))}; got "
            f"{', '.join(map(str, missing))} in {spec!r}. Leave these out, or list {layout.unit} yourself: "
            f"--mtm {','.join(str(v) for v in chosen if v in places) or next(iter(places))}"
        )
    if any(getattr(places[value].layer, "use_low_rank", False) for value in chosen):
        raise ValueError(
            "attach: --mtm must be none where model.generator.low_rank adds to the weights of its layers; got "
            f"{spec!r}. Leave low_rank at -1."
        )
    persistent = getattr(sys.modules[type(synthesis).__module__], "persistent_class", None)
    module = persistent(ModulatedTransformation) if persistent else ModulatedTransformation
    seed = torch.initial_seed()
    with torch.random.fork_rng(devices=[]):
        for value in chosen:
            layer, padding = places[value]
            # Only the CPU's stream, which the fork restores; every layer gets a separate stream.
            torch.default_generator.manual_seed((seed + value * 0x9E3779B9) % 2**63)
            # Read from the weights: StyleGAN-V's layers do not store these numbers.
            in_channels, w_dim = (weights.shape[1] for weights in (layer.weight, layer.affine.weight))
            layer.mtm = module(in_channels, w_dim + extra, layer.weight.shape[3], head, padding=padding)
    if type(synthesis).__name__ == "SynthesisNetwork3v":  # StyleSV's class
        synthesis.keeps_its_code = persistent(KeepsItsCode)() if persistent else KeepsItsCode()
    _pass_flag_on()


def described(network: nn.Module) -> str:
    """Where `network` has the module, in words: "resolutions 8, 16"."""
    found = []
    for synthesis in network.modules():
        layout = _layout(synthesis)
        if layout is not None:
            values = [str(v) for v, place in layout.places(synthesis).items() if hasattr(place.layer, "mtm")]
            found += [f"{layout.unit} {', '.join(values)}"] if values else []
    return "; ".join(found)


def _layout(network: nn.Module) -> Layout | None:
    return next((layout for layout in LAYOUTS if hasattr(network, layout.mark)), None)


def _pass_flag_on() -> None:
    """Makes the hosts' conv2d_gradfix.no_weight_gradients() apply to our op: path-length regularisation uses it.

    Within it the weights' gradients are not needed, so they are not computed.
    """
    ours = mtm_ops.no_weight_gradients
    modules: list[Any] = [module for name, module in sys.modules.items() if name.endswith("ops.conv2d_gradfix")]
    for gradfix in modules:
        theirs = gradfix.no_weight_gradients
        if hasattr(theirs, "reaches_mtm"):
            continue

        @contextlib.contextmanager
        def both(*disable: bool, theirs: Any = theirs) -> Iterator[None]:
            with theirs(*disable), ours(*disable):  # the video hosts' version takes no argument
                yield

        both.reaches_mtm = True  # type: ignore[attr-defined]
        gradfix.no_weight_gradients = both
