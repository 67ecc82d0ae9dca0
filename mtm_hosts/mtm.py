"""The options --mtm and --mtm-head of the patched trainers, and the guard on checkpoints."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from mtm_hosts.hosts import fail, module
from mtm_hosts.snapshots import read

HEADS = ("offset", "offset+mask")


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: the two options, for a click command. A Hydra configuration has the keys mtm and mtm_head instead."""
    import click

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
        help="Layers with the Modulated Transformation Module: groups, or resolutions (sampling rates for StyleGAN3)",
    )
    return layers(head(command))


def configure(c: Any, opts: Any) -> None:
    """Store the choice in the generator's options, which every snapshot keeps, and print it; check the checkpoint.

    The generator is built once here, so that anything that does not fit is reported before a run folder is made. With
    none the generator's options stay exactly upstream's.

    Args:
        c: the options of the host's training loop, complete except for the run's folder.
        opts: has mtm and mtm_head: click's options or Hydra's configuration.

    Raises:
        SystemExit: with one line, for layers that the network does not have and for a checkpoint that cannot be used.
    """
    if opts.mtm_head not in HEADS:  # click rejects this itself; Hydra does not
        fail(f"--mtm-head must be {' or '.join(HEADS)}; got {opts.mtm_head!r}. Pass --mtm-head {HEADS[0]}.")
    mtm = _spec(opts.mtm)
    if mtm == "none":
        print("MTM: none, as upstream")
        G = nn.Module()
    else:
        c.G_kwargs.get("synthesis_kwargs", c.G_kwargs).update(mtm=mtm, mtm_head=opts.mtm_head)
        G = _built(c)
        from mtm_hosts.layers import described

        print(f"MTM: {mtm} ({described(G)}), head {opts.mtm_head}")
    if c.get("resume_pkl"):
        try:
            refuse_loss(read(c.resume_pkl)["G"], G)
        except ValueError as error:
            fail(f"{error} The checkpoint is {c.resume_pkl}.")


def _spec(value: Any) -> str:
    """Layers as one string: Hydra reads `mtm=[low,mid]` as a list, and `mtm=8` as a number."""
    words = [value] if value is None or isinstance(value, str | int) else value
    text = ",".join(str(word).strip() for word in words)
    return "none" if text.lower() in ("", "none") else text


def _built(c: Any) -> nn.Module:
    """The generator that the training loop will build, except for labels and colours, on which no MTM layer depends."""
    shape = {"c_dim": 0, "img_resolution": c.training_set_kwargs.resolution, "img_channels": 3}
    try:
        with torch.random.fork_rng(devices=[]):
            return module("dnnlib.util").construct_class_by_name(**c.G_kwargs, **shape)
    except ValueError as error:
        fail(str(error))


def as_trained(snapshot: nn.Module, rebuilt: nn.Module) -> nn.Module:
    """The network that StyleSV's calc_metrics.py measures: the snapshot's own if the rebuilt copy cannot hold it.

    The copy is built for 256 px, without MTM, and in half precision, whatever the snapshot was trained with.
    """
    shapes = [{name: t.shape for name, t in network.state_dict().items()} for network in (snapshot, rebuilt)]
    return rebuilt if shapes[0] == shapes[1] else snapshot


def refuse_loss(source: nn.Module | Mapping[str, Any], target: nn.Module) -> None:
    """Refuses to copy a checkpoint's parameters if some of its MTM parameters would be dropped, or would not fit.

    The host copies by name and ignores what the target lacks, so images would change silently. A checkpoint
    without MTM, or with less of it, is fine: the rest of the target's modules start at zero offsets.

    Raises:
        ValueError: naming the options that the checkpoint was trained with.
    """
    have = {name: p.shape for name, p in target.named_parameters()}
    tensors = source.named_parameters() if isinstance(source, nn.Module) else source.items()
    lost = [name for name, p in tensors if ".mtm." in name and have.get(name) != p.shape]
    if not lost:
        return
    trained: Any = getattr(source, "init_kwargs", {})
    trained = trained.get("synthesis_kwargs", trained)
    layers, head = trained.get("mtm"), trained.get("mtm_head", HEADS[0])
    options = f", --mtm {layers} --mtm-head {head}," if layers else ""
    raise ValueError(
        f"--mtm and --mtm-head must be the checkpoint's{options} or add layers to it; this network "
        f"cannot take {len(lost)} of its MTM parameters, such as {lost[0]}. Pass these options."
    )
