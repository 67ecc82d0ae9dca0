"""The state of one training run (networks, optimisers, averages, random stream), one iteration of it, and saving and
restoring it."""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from experiments.mini import loss
from experiments.mini.data import ImageSet
from experiments.mini.networks import Discriminator, Generator


@dataclass(frozen=True)
class Options:
    """Everything that decides a run's result, and how often the run is saved. The defaults are the quickstart's."""

    data_sha256: str
    resolution: int
    mtm: str = "none"
    mtm_head: str = "offset"
    mtm_sees: str = "xw"
    mtm_start_kimg: float = 0.0  # until then the network is plain
    mtm_lr: float = 1.0  # learning rate of the module's parameters, relative to the rest
    mtm_bound_px: float = 0.0  # the largest offset along each axis; 0 for no bound
    kimg: float = 38.0
    batch: int = 8
    channels: int = 16
    g_channels: int = 0  # the generator's channels, if they differ from the discriminator's
    latent: int = 64  # z_dim and w_dim
    noise: bool = True  # noise per pixel, of learned strength, below full resolution
    lr: float = 0.004
    r1_gamma: float = 10.0
    r1_interval: int = 16
    pl_weight: float = 2.0
    pl_interval: int = 8
    mixing: float = 0.9
    ema_kimg: float = 2.0
    seed: int = 0
    threads: int = 1
    tick_kimg: float = 0.5
    snap_kimg: float = 1.0
    keep_kimg: str = ""  # kimg at which an averaged generator is kept: "10,20"

    def kept_nimg(self) -> list[int]:
        """`keep_kimg` in images. Raises ValueError if it is not a list of numbers."""
        try:
            return [round(float(word) * 1000) for word in self.keep_kimg.split(",") if word]
        except ValueError:
            raise ValueError(f"train: keep_kimg must be kimg such as 10,20; got {self.keep_kimg!r}.") from None

    def differences(self, stored: dict[str, Any]) -> list[str]:
        """`name: stored -> wanted` for every option that differs from that of a stored run."""
        wanted = asdict(self)
        return [
            f"{f.name}: {stored.get(f.name)!r} -> {wanted[f.name]!r}"
            for f in fields(self)
            if stored.get(f.name, f.default) != wanted[f.name]  # an older run may lack newer options
        ]


Network = TypeVar("Network", bound=nn.Module)


class NonFiniteLossError(RuntimeError):
    """A loss is NaN or infinite; the networks were not updated with it."""


def _lazy_adam(network: nn.Module, lr: float, interval: int, mtm_lr: float = 1.0) -> torch.optim.Adam:
    """Adam whose rate and decay allow for the extra steps of lazy regularisation (Karras et al. 2020, appendix B)."""
    share = interval / (interval + 1)
    base = lr * share
    by_lr: dict[float, list[nn.Parameter]] = {base: []}
    for name, parameter in network.named_parameters():
        # The mapping network has a tenth of the learning rate, because its steps change every layer's style at once.
        own = base / 10 if name.startswith("mapping.") else base * mtm_lr if ".mtm." in name else base
        by_lr.setdefault(own, []).append(parameter)
    groups = [{"params": parameters, "lr": own} for own, parameters in by_lr.items()]
    return torch.optim.Adam(groups, betas=(0.0, 0.99**share), eps=1e-8, fused=True)


def build_generator(options: Options) -> Generator:
    o = options
    width = o.g_channels or o.channels
    network = Generator(o.latent, o.latent, o.resolution, width, o.mtm, o.mtm_head, o.mtm_sees, o.noise, o.mtm_bound_px)
    return _channels_last(network)


def _channels_last(network: Network) -> Network:
    """Sets the layout in which convolutions are fast on a CPU: up to eight times faster at 32 channels."""
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class Trainer:
    """Holds a run and advances it by one batch at a time.

    `iterate` draws from torch's global random stream only, which is saved with the rest. So a restored run continues
    bit for bit, with the same machine, library versions and thread count.
    """

    def __init__(self, options: Options, images: ImageSet) -> None:
        torch.manual_seed(options.seed)
        self.options, self.images = options, images
        self.G = build_generator(options)
        self.D = _channels_last(Discriminator(options.resolution, options.channels))
        self.G_ema = copy.deepcopy(self.G).eval().requires_grad_(False)
        self.G_optimizer = _lazy_adam(self.G, options.lr, options.pl_interval, options.mtm_lr)
        self.D_optimizer = _lazy_adam(self.D, options.lr, options.r1_interval)
        self.pl_mean = torch.zeros([])
        self.iteration = 0
        self.elapsed_s = self.cpu_s = 0.0
        self.sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])  # sums of losses since the last tick

    @property
    def nimg(self) -> int:
        """Real images shown so far."""
        return self.iteration * self.options.batch

    def iterate(self) -> None:
        o = self.options
        for network in (self.G, self.G_ema):
            network.set_deforming(self.nimg >= o.mtm_start_kimg * 1000)
        real = self.images.batch(self.nimg, o.batch, o.seed)
        fake = self.G.synthesis(loss.mix_styles(self.G, torch.randn(o.batch, o.latent), o.mixing))
        self.D.requires_grad_(True)
        self._step(self.D_optimizer, "D_loss", loss.discriminator_loss(*self.D(real, fake.detach())))
        if self.iteration % o.r1_interval == 0 and o.r1_gamma > 0:
            r1 = loss.r1_penalty(self.D, real)
            self._step(self.D_optimizer, "r1", r1, weight=o.r1_gamma / 2 * o.r1_interval)
        # The generator learns from the same images, because others would need another forward pass.
        self.D.requires_grad_(False)
        self._step(self.G_optimizer, "G_loss", loss.generator_loss(*self.D(fake)))
        if self.iteration % o.pl_interval == 0 and o.pl_weight > 0:
            self._regularise_paths()
        self.iteration += 1
        self._average()

    def _regularise_paths(self) -> None:
        o = self.options
        z = torch.randn(max(1, o.batch // 2), o.latent)
        lengths = loss.path_lengths(self.G, loss.mix_styles(self.G, z, o.mixing))
        self._record("path_length", lengths.mean().item())
        penalty = loss.path_penalty(lengths, self.pl_mean, self.iteration // o.pl_interval)
        self._step(self.G_optimizer, "path_penalty", penalty, weight=o.pl_weight * o.pl_interval)

    def _step(self, optimizer: torch.optim.Optimizer, name: str, value: Tensor, weight: float = 1.0) -> None:
        self._record(name, value.item())
        optimizer.zero_grad()
        (value * weight).backward()
        optimizer.step()

    def _record(self, name: str, value: float) -> None:
        if not math.isfinite(value):
            raise NonFiniteLossError(
                f"train: {name} must stay finite; got {value} at {self.nimg / 1000:.3f} kimg. "
                "Train again with a lower --lr or a higher --r1-gamma, into another --outdir."
            )
        total = self.sums[name]
        total[0] += value
        total[1] += 1

    @torch.no_grad()
    def _average(self) -> None:
        """Moves G_ema towards G. Its half-life is at most a twentieth of the run so far, to forget the beginning."""
        half_life_nimg = min(self.options.ema_kimg * 1000, self.nimg / 20)
        keep = math.exp2(-self.options.batch / half_life_nimg)
        torch._foreach_lerp_(list(self.G_ema.parameters()), list(self.G.parameters()), 1 - keep)
        self.G_ema.mapping.w_avg.copy_(self.G.mapping.w_avg)

    def take_means(self) -> dict[str, float]:
        """The mean of each loss since the last call."""
        means = {name: total / count for name, (total, count) in sorted(self.sums.items())}
        self.sums.clear()
        return means

    def state(self) -> dict[str, Any]:
        parts = {name: getattr(self, name).state_dict() for name in _PARTS}
        return parts | {
            "options": asdict(self.options),
            "pl_mean": self.pl_mean,
            "iteration": self.iteration,
            "elapsed_s": self.elapsed_s,
            "cpu_s": self.cpu_s,
            "sums": dict(self.sums),
            "rng": torch.get_rng_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        for name in _PARTS:
            getattr(self, name).load_state_dict(state[name])
        self.pl_mean.copy_(state["pl_mean"])
        self.iteration, self.elapsed_s = state["iteration"], state["elapsed_s"]
        self.cpu_s = state.get("cpu_s", 0.0)  # older snapshots have none
        self.sums.update(state["sums"])
        torch.set_rng_state(state["rng"])


_PARTS = ("G", "D", "G_ema", "G_optimizer", "D_optimizer")
