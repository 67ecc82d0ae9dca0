"""The options --mtm and --mtm-head of the patched trainers, and the guard on checkpoints."""

from collections.abc import Callable
from typing import Any

import click
from torch import nn

HEADS = ("offset", "offset+mask")


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: the two options, for a click command."""
    head = click.option(
        "--mtm-head",
        type=click.Choice(HEADS),
        default=HEADS[0],
        show_default=True,
        help="What the module predicts: offsets (the paper's text), or offsets and masks (its parameter counts)",
    )
    layers = click.option(
        "--mtm",
        metavar="none|[low,mid,high|N,..]",
        default="low",
        show_default=True,
        help="Layers with the Modulated Transformation Module: groups, or resolutions (sampling rates for stylegan3-*)",
    )
    return layers(head(command))


def configure(c: Any, opts: Any) -> None:
    """Store the choice in the generator's options, which training_options.json and every snapshot keep; print it.

    For none the generator's options stay exactly upstream's.

    Raises:
        click.ClickException: for a spec that cannot be, before a run folder is made.
    """
    if opts.mtm.strip().lower() in ("", "none"):
        print("MTM: none, as upstream")
        return
    from mtm_hosts.layers import LAYER_GROUPS, RATE_GROUPS, parse_layers

    by_rate = opts.get("cfg", "").startswith("stylegan3")
    try:
        layers = parse_layers(opts.mtm, RATE_GROUPS if by_rate else LAYER_GROUPS)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    resolution = c.training_set_kwargs.resolution
    if layers[-1] > resolution:
        raise click.ClickException(
            f"--mtm must name resolutions of the network, at most {resolution} for this data; got {layers[-1]} in "
            f"{opts.mtm!r}. Leave it out, e.g. --mtm {','.join(str(v) for v in layers if v <= resolution) or 'none'}"
        )
    c.G_kwargs.update(mtm=opts.mtm, mtm_head=opts.mtm_head)
    kind = "sampling rates" if by_rate else "resolutions"
    print(f"MTM: {opts.mtm} ({kind} {', '.join(map(str, layers))}), head {opts.mtm_head}")


def refuse_loss(source: nn.Module, target: nn.Module) -> None:
    """Refuse to copy a checkpoint's parameters where some of its MTM would be dropped, or would not fit.

    The host copies by name and ignores what the target lacks; images would change without a word. A checkpoint
    without MTM, or with less of it, is fine: the rest of the target's modules start at zero offsets.

    Raises:
        ValueError: naming the options that the checkpoint was trained with.
    """
    have = {name: p.shape for name, p in target.named_parameters()}
    lost = [name for name, p in source.named_parameters() if ".mtm." in name and have.get(name) != p.shape]
    if not lost:
        return
    trained: Any = getattr(source, "init_kwargs", {})
    layers, head = trained.get("mtm"), trained.get("mtm_head", HEADS[0])
    raise ValueError(
        f"--mtm and --mtm-head must be the checkpoint's, --mtm {layers} --mtm-head {head}, or add layers to it; this "
        f"network cannot take {len(lost)} of its MTM parameters, such as {lost[0]}. Pass these options."
    )
