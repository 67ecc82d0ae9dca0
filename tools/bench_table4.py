"""make bench-table4: the cost of MTM in a whole training iteration of StyleGAN2, compared with the paper's Table 4.

Runs the official networks and loss of the patched stylegan3 on synthetic images, with its lazy regularisation:
a cycle is 16 iterations, with R1 once and path-length regularisation four times. Settings take turns, cycle by cycle.
"""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import click
import torch
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

from experiments.files import atomic_output
from mtm_hosts.layers import LAYER_GROUPS
from mtm_ops.module import HEADS
from tools.gpu import require
from tools.hosts import imported
from tools.timing import turns_ms

# Table 4 of arXiv 2308.15472: training time relative to the baseline. Its inference ratio is 1.0 throughout.
PAPER_TRAINING = {"none": 1.0, "low": 1.2, "low,mid": 2.1, "low,mid,high": 3.2}
PAPER_INFERENCE = 1.0
TARGETS = {"low": 1.03, "low,mid": 1.06, "low,mid,high": 1.15}
G_INTERVAL, D_INTERVAL = 4, 16  # StyleGAN2's G_reg_interval and D_reg_interval, as in the host
CYCLE = 16  # iterations after which both regularisations repeat
Z_DIM = 512


class Host(NamedTuple):
    """The modules of the patched stylegan3 that a training iteration needs."""

    networks: ModuleType
    loss: ModuleType


def enabled(module: Callable[[str], ModuleType]) -> Host:
    """The host's modules, with its own convolutions' gradients enabled, as in its training loop."""
    for name in ("conv2d_gradfix", "grid_sample_gradfix"):
        gradfix: Any = module(f"torch_utils.ops.{name}")
        gradfix.enabled = True
    return Host(module("training.networks_stylegan2"), module("training.loss"))


class Trainer:
    """The host's training iteration (training_loop.py, "Execute training phases") for one setting of MTM."""

    def __init__(
        self, host: Host, mtm: str, head: str, resolution: int, batch: int, width: int, depth: int, device: str
    ):
        torch.manual_seed(0)
        self.host, self.batch, self.device, self.count = host, batch, torch.device(device), 0
        size: dict[str, Any] = {"img_resolution": resolution, "img_channels": 3, "c_dim": 0}
        size |= {"channel_base": 64 * width, "channel_max": width}
        extra = {} if mtm == "none" else {"mtm": mtm, "mtm_head": head}
        self.G = host.networks.Generator(
            z_dim=Z_DIM, w_dim=Z_DIM, mapping_kwargs={"num_layers": depth}, fused_modconv_default="inference_only",
            **size, **extra,
        )  # fmt: skip
        self.D = host.networks.Discriminator(**size)
        self.G, self.D = (n.train().requires_grad_(False).to(self.device) for n in (self.G, self.D))
        _bend(self.G)
        self.G_ema = copy.deepcopy(self.G).eval()
        self.loss = host.loss.StyleGAN2Loss(
            self.device, self.G, self.D, r1_gamma=0.1, style_mixing_prob=0.9, pl_weight=2, pl_no_weight_grad=True
        )
        self.phases = [
            *self._phases("G", self.G, G_INTERVAL),
            *self._phases("D", self.D, D_INTERVAL),
        ]
        self.real = torch.rand(batch, 3, resolution, resolution, device=self.device) * 2 - 1
        self.c = torch.zeros(batch, 0, device=self.device)

    def _phases(self, name: str, module: nn.Module, interval: int) -> list[tuple[str, nn.Module, Any, int]]:
        ratio = interval / (interval + 1)
        optimizer = torch.optim.Adam(module.parameters(), lr=0.002 * ratio, betas=(0.0, 0.99**ratio), eps=1e-8)
        return [(f"{name}main", module, optimizer, 1), (f"{name}reg", module, optimizer, interval)]

    def iteration(self) -> None:
        for name, module, optimizer, interval in self.phases:
            if self.count % interval:
                continue
            optimizer.zero_grad()
            module.requires_grad_(True)
            z = torch.randn(self.batch, Z_DIM, device=self.device)
            self.loss.accumulate_gradients(
                phase=name, real_img=self.real, real_c=self.c, gen_z=z, gen_c=self.c, gain=interval, cur_nimg=0
            )
            module.requires_grad_(False)
            self._step(module, optimizer)
        self._average()
        self.count += 1

    @torch.no_grad()
    def _average(self) -> None:
        torch._foreach_lerp_(list(self.G_ema.parameters()), list(self.G.parameters()), 0.001)
        torch._foreach_copy_(list(self.G_ema.buffers()), list(self.G.buffers()))

    def _step(self, module: nn.Module, optimizer: Any) -> None:
        """An optimiser step with infinite and NaN gradients replaced first, as the host does."""
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        together = _flatten_dense_tensors(gradients).nan_to_num_(0.0, 1e5, -1e5)
        torch._foreach_copy_(gradients, list(_unflatten_dense_tensors(together, gradients)))
        optimizer.step()

    def cycle(self) -> None:
        for _ in range(CYCLE):
            self.iteration()

    @torch.no_grad()
    def infer(self) -> Tensor:
        z = torch.randn(self.batch, Z_DIM, device=self.device)
        return self.G_ema(z, self.c, noise_mode="const")

    def parameters(self) -> int:
        return sum(p.numel() for p in self.G.parameters())


def _bend(G: nn.Module) -> None:
    """Gives the modules offsets of about a pixel, as trained ones have; initially they are zero."""
    for name, p in G.named_parameters():
        if name.endswith(".mtm.weight"):
            nn.init.normal_(p)


def measure(trainers: dict[str, Trainer], what: str, rounds: int) -> dict[str, float]:
    """Median seconds of a method of each trainer; all take turns in each round, after one round to warm up."""
    runs = {name: getattr(trainer, what) for name, trainer in trainers.items()}
    return {name: ms / 1e3 for name, ms in turns_ms(runs, rounds=rounds).items()}


def peak_mib(trainer: Trainer, device: str) -> str:
    if device == "cpu":
        return "-"
    torch.cuda.reset_peak_memory_stats()
    trainer.cycle()
    return f"{torch.cuda.max_memory_allocated() / 2**20:.0f}"


def settings_of(resolution: int) -> list[str]:
    """The table's settings for which a network of this resolution has layers."""
    most = {
        name: max((max(LAYER_GROUPS[g]) for g in name.split(",") if g != "none"), default=4) for name in PAPER_TRAINING
    }
    return [name for name in PAPER_TRAINING if most[name] <= resolution]


def rows(trainers: dict[str, Trainer], training: dict[str, float], inference: dict[str, float]) -> list[str]:
    """The table's lines: this run's numbers and the paper's."""
    base = trainers["none"].parameters()
    lines = [
        f"{'MTM':14}{'ms/iteration':>14}{'training':>10}{'paper':>7}{'target':>8}"
        f"{'ms/batch':>10}{'inference':>11}{'paper':>7}{'parameters':>12}{'added':>10}"
    ]
    for name, trainer in trainers.items():
        count = trainer.parameters()
        lines.append(
            f"{name:14}{training[name] / CYCLE * 1e3:14.2f}{training[name] / training['none']:9.2f}x"
            f"{PAPER_TRAINING[name]:7.1f}{TARGETS.get(name, 1.0):8.2f}"
            f"{inference[name] * 1e3:10.2f}{inference[name] / inference['none']:10.2f}x{PAPER_INFERENCE:7.1f}"
            f"{count:12,}{count - base:10,}"
        )
    return lines


def as_json(
    trainers: dict[str, Trainer], training: dict[str, float], inference: dict[str, float]
) -> dict[str, dict[str, float]]:
    """The table's numbers by setting: ratios to plain, seconds per iteration and per batch, parameters."""
    return {
        name: {
            "training_ratio": training[name] / training["none"],
            "inference_ratio": inference[name] / inference["none"],
            "iteration_s": training[name] / CYCLE,
            "batch_s": inference[name],
            "parameters": trainer.parameters(),
        }
        for name, trainer in trainers.items()
    }


@click.command()
@click.option("--device", default="cuda", show_default=True, help="cpu only tests the code.")
@click.option("--resolution", type=int, default=128, show_default=True, help="In pixels, a power of two.")
@click.option("--batch", type=click.IntRange(min=4), default=32, show_default=True, help="Images per iteration.")
@click.option(
    "--width", type=click.IntRange(min=1), default=512, show_default=True, help="The host's cmax; cbase is 64*cmax."
)
@click.option("--map-depth", type=click.IntRange(min=1), default=2, show_default=True, help="Mapping network's layers.")
@click.option("--head", type=click.Choice(list(HEADS)), default="offset", show_default=True)
@click.option(
    "--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="Cycles of 16 iterations each."
)
@click.option("--json", "dest", type=click.Path(path_type=Path), help="Also write the numbers to this file.")
@click.option("--check", is_flag=True, help="Exit 1 if a target is missed.")
def main(
    device: str,
    resolution: int,
    batch: int,
    width: int,
    map_depth: int,
    head: str,
    rounds: int,
    dest: Path | None,
    check: bool,
) -> None:
    """Time whole training iterations and inference of StyleGAN2 without and with MTM."""
    machine = f"cpu, torch {torch.__version__}" if device == "cpu" else require("bench-table4")
    torch.backends.cudnn.benchmark = True  # this and the next two are set as in the host's training loop
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    click.echo(f"{machine}\nStyleGAN2, {resolution} px, batch {batch}, width {width}, head {head}")
    names = settings_of(resolution)
    with imported("stylegan3") as module:
        host = enabled(module)
        trainers = {n: Trainer(host, n, head, resolution, batch, width, map_depth, device) for n in names}
        training = measure(trainers, "cycle", rounds)
        inference = measure(trainers, "infer", 4 * rounds)
        click.echo("\n".join(rows(trainers, training, inference)))
        click.echo(
            "peak MiB (all settings' networks included): "
            + ", ".join(f"{n} {peak_mib(t, device)}" for n, t in trainers.items())
        )
    if dest is not None:
        size = {"resolution_px": resolution, "batch": batch, "width": width, "map_depth": map_depth, "rounds": rounds}
        facts = {"device": device, "machine": machine, "head": head, **size}
        with atomic_output(dest) as temporary:
            numbers = facts | {"settings": as_json(trainers, training, inference)}
            temporary.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    missed = [n for n, limit in TARGETS.items() if n in names and training[n] / training["none"] > limit]
    if missed:
        click.echo(f"over the target: {'; '.join(missed)}")
    if check and missed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
