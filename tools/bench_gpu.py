"""make bench-gpu: ours on an NVIDIA GPU beside plain cuDNN convolution, torchvision's deform_conv2d and the floor.

The floor is the larger of two times: each tensor's bytes moved once at the bandwidth that a copy reaches here, and the
products' operations at the rate that a large matrix product reaches here. Times are medians by CUDA events, over
inputs that rotate so that none of them is still in the cache, all candidates taking turns.
"""

import functools
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import click
import torch
import torch.nn.functional as F
from torch import Tensor

from mtm_ops import modulated_deform_conv2d
from tools.bench import OFFSET_STD_PX, why_no_peer
from tools.gpu import require

BATCH, CHANNELS, SIZES = 32, 512, (8, 16, 32, 64)
DTYPES = {"fp16": torch.float16, "fp32": torch.float32}
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
ROTATING_BYTES = 256 << 20  # inputs in rotation, together: several times any L2 cache
# The GPU waits so long (some 2 ms) before each timed call, so that launches are queued by then, as in training.
HEAD_START_CYCLES = 4_000_000
TARGET_SIZE = 32  # of the targets below, [32, 512, 32, 32]
MOST_TIMES_PLAIN, LEAST_TIMES_FASTER, MOST_MEMORY = 1.5, 4.0, 1.15


class Problem:
    """Inputs of one layer, and what each candidate computes from them."""

    def __init__(
        self, shape: tuple[int, int, int], dtype: torch.dtype, layout: torch.memory_format, device: str, seed: int
    ):
        B, C, H = shape
        generator = torch.Generator(device).manual_seed(seed)
        new = functools.partial(torch.randn, generator=generator, device=device)
        scale = C**-0.5 / 3  # keeps half types finite
        self.x = new(B, C, H, H).to(dtype, memory_format=layout).requires_grad_()
        self.weight = (new(C, C, 3, 3) * scale).to(dtype, memory_format=layout).requires_grad_()
        self.offset = (new(B, 18, H, H) * OFFSET_STD_PX).requires_grad_()
        self.peer_offset = self.offset.detach().to(dtype).requires_grad_()  # torchvision wants x's dtype
        self.grad_y = new(B, C, H, H).to(dtype, memory_format=layout)

    def plain(self) -> Tensor:
        return F.conv2d(self.x, self.weight, padding=1)

    def ours(self) -> Tensor:
        return modulated_deform_conv2d(self.x, self.weight, self.offset, padding=1, impl="native")

    def torchvision(self) -> Tensor:
        from torchvision.ops import deform_conv2d

        return deform_conv2d(self.x, self.peer_offset, self.weight, padding=1)

    def forward(self, name: str) -> None:
        with torch.no_grad():
            getattr(self, name)()

    def forward_backward(self, name: str) -> None:
        torch.autograd.grad(getattr(self, name)(), self._leaves(name), self.grad_y)

    def double_backward(self, name: str) -> None:
        """Forward, gradient and the gradient's gradient, as path-length regularisation takes them."""
        leaves = self._leaves(name)
        steered = [t for t in leaves if t is not self.weight]
        grads = torch.autograd.grad(getattr(self, name)(), steered, self.grad_y, create_graph=True)
        torch.autograd.grad(torch.stack([g.float().square().mean() for g in grads]).sum(), leaves, allow_unused=True)

    def _leaves(self, name: str) -> tuple[Tensor, ...]:
        offsets = {"plain": (), "ours": (self.offset,), "torchvision": (self.peer_offset,)}
        return (self.x, self.weight, *offsets[name])


PASSES: dict[str, Callable[[Problem, str], None]] = {
    "forward": Problem.forward,
    "forward+backward": Problem.forward_backward,
    "double backward": Problem.double_backward,
}


@dataclass(frozen=True)
class Rates:
    """What this GPU reaches."""

    bytes_per_s: float
    flops_per_s: dict[torch.dtype, float]


def floor_ms(shape: tuple[int, int, int], dtype: torch.dtype, what: str, rates: Rates) -> float:
    """No implementation of the pass can be faster than this: bytes and products counted once."""
    B, C, H = shape
    x, weight, offset = B * C * H * H * dtype.itemsize, 9 * C * C * dtype.itemsize, B * 18 * H * H * 4
    once = 2 * x + weight + offset  # x in, y out
    moved = {"forward": once, "forward+backward": 3 * once, "double backward": 5 * once}[what]
    products = 1 if what == "forward" else 3  # y; gradients of the columns and the weight
    flops = products * 2 * 9 * B * C * C * H * H
    return 1e3 * max(moved / rates.bytes_per_s, flops / rates.flops_per_s[dtype])


def event_ms(run: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(HEAD_START_CYCLES)
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def best_ms(run: Callable[[], object]) -> float:
    return min(event_ms(run) for _ in range(10))


def measure_rates() -> Rates:
    """A copy of 1 GiB, and products of 8192 x 8192 matrices, best of ten."""
    a = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    b = torch.empty_like(a)
    copy_s = best_ms(functools.partial(b.copy_, a)) / 1e3
    flops = {}
    for dtype in DTYPES.values():
        m = torch.randn(8192, 8192, device="cuda").to(dtype)
        flops[dtype] = 2 * 8192**3 / (best_ms(functools.partial(torch.mm, m, m)) / 1e3)
    return Rates(2 * (1 << 30) / copy_s, flops)


def medians_ms(candidates: dict[str, Iterator[Callable[[], object]]], rounds: int) -> dict[str, float]:
    """Median time of each, over rounds in which all take turns."""
    for _ in range(3):
        for runs in candidates.values():
            next(runs)()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, runs in candidates.items():
            times[name].append(event_ms(next(runs)))
    return {name: statistics.median(values) for name, values in times.items()}


def rotate(problems: list[Problem], run: Callable[[Problem, str], None], name: str) -> Iterator[Callable[[], object]]:
    """Calls of `run` on one problem after the other, for ever."""
    while True:
        for problem in problems:
            yield functools.partial(run, problem, name)


def peak_bytes(problem: Problem, name: str) -> int:
    """Peak of forward+backward, the inputs among it: what a training step of this layer needs."""
    for _ in range(2):
        problem.forward_backward(name)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    outside = torch.cuda.memory_allocated() - _input_bytes(problem)
    problem.forward_backward(name)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - outside


def _input_bytes(problem: Problem) -> int:
    return sum(t.numel() * t.element_size() for t in vars(problem).values())


def verdicts(name: str, ms: dict[str, float], peaks: dict[str, int]) -> list[tuple[bool, str]]:
    """The targets at [32, 512, 32, 32], from forward+backward times and peaks: (met, line)."""
    times = ms["ours"] / ms["plain"]
    memory = peaks["ours"] / peaks["plain"]
    lines = [
        (times <= MOST_TIMES_PLAIN, f"{name}: {times:.2f}x plain convolution's time, at most {MOST_TIMES_PLAIN}"),
        (memory <= MOST_MEMORY, f"{name}: {memory:.2f}x plain convolution's peak memory, at most {MOST_MEMORY}"),
    ]
    if "torchvision" in ms:
        faster = ms["torchvision"] / ms["ours"]
        lines.append((faster >= LEAST_TIMES_FASTER, f"{name}: {faster:.1f}x faster than torchvision, at least 4"))
    return lines


def problems_of(shape: tuple[int, int, int], dtype: torch.dtype, layout: torch.memory_format) -> list[Problem]:
    first = Problem(shape, dtype, layout, "cuda", 0)
    count = max(2, min(8, -(-ROTATING_BYTES // _input_bytes(first))))
    return [first, *(Problem(shape, dtype, layout, "cuda", seed) for seed in range(1, count))]


def bench_layer(
    size: int, kind: str, layout: str, names: list[str], rates: Rates, rounds: int
) -> list[tuple[bool, str]]:
    """Prints one layer's rows; returns the verdicts where the targets are for this layer."""
    shape, dtype = (BATCH, CHANNELS, size), DTYPES[kind]
    problems = problems_of(shape, dtype, LAYOUTS[layout])
    found: dict[str, dict[str, float]] = {}
    for what, run in PASSES.items():
        able = [n for n in names if not (n == "torchvision" and what == "double backward")]  # it refuses
        found[what] = medians_ms({n: rotate(problems, run, n) for n in able}, rounds)
        click.echo(row(f"{list(shape)} {kind} {layout}", what, found[what], floor_ms(shape, dtype, what, rates)))
    del problems[1:]
    peaks = {n: peak_bytes(problems[0], n) for n in names}
    click.echo(f"{'':26}{'peak MiB':18}{_cells({n: v / 2**20 for n, v in peaks.items()}, '.0f')}{'':>10}")
    target = size == TARGET_SIZE
    return verdicts(f"{list(shape)} {kind} {layout}", found["forward+backward"], peaks) if target else []


def row(layer: str, what: str, ms: dict[str, float], floor: float) -> str:
    ratios = f"{ms['ours'] / ms['plain']:9.2f}x{ms['ours'] / floor:9.2f}x"
    faster = f"{ms['torchvision'] / ms['ours']:9.1f}x" if "torchvision" in ms else f"{'-':>10}"
    return f"{layer:26}{what:18}{_cells(ms, '.3f')}{floor:10.3f}{ratios}{faster}"


def _cells(values: dict[str, float], form: str) -> str:
    return "".join(
        f"{values[n]:>12{form}}" if n in values else f"{'not run':>12}" for n in ("plain", "ours", "torchvision")
    )


@click.command()
@click.option("--rounds", type=click.IntRange(min=3), default=30, show_default=True, help="Timed calls per cell.")
@click.option("--size", "sizes", type=int, multiple=True, default=SIZES, show_default=True, help="Height and width.")
@click.option("--dtype", "dtypes", type=click.Choice(list(DTYPES)), multiple=True, default=list(DTYPES), help="Of x.")
@click.option(
    "--layout", "layouts", type=click.Choice(list(LAYOUTS)), multiple=True, default=list(LAYOUTS), help="Of x."
)
@click.option("--check", is_flag=True, help="Exit 1 where a target is missed.")
def main(rounds: int, sizes: tuple[int, ...], dtypes: list[str], layouts: list[str], check: bool) -> None:
    """Time one layer, 3x3, 512 to 512 channels, batch 32, offsets of 2 px."""
    click.echo(require("bench-gpu"))
    torch.backends.cudnn.benchmark = True  # as the hosts do
    torch.backends.cudnn.allow_tf32 = False  # as the hosts do: fp32 is fp32
    torch.backends.cuda.matmul.allow_tf32 = False
    no_peer = why_no_peer()
    click.echo(f"torchvision: {f'not run ({no_peer})' if no_peer else 'deform_conv2d'}")
    rates = measure_rates()
    shown = ", ".join(f"{kind} {rates.flops_per_s[dtype] / 1e12:.0f} TFLOP/s" for kind, dtype in DTYPES.items())
    click.echo(f"measured: {rates.bytes_per_s / 1e9:.0f} GB/s, {shown}\n")
    columns = ("plain ms", "ours ms", "torchvision", "floor ms", "ours/plain", "ours/floor", "vs torchv.")
    click.echo(f"{'[B, C, H]':44}" + "{:>12}{:>12}{:>12}{:>10}{:>10}{:>10}{:>10}".format(*columns))
    names = ["plain", "ours", *([] if no_peer else ["torchvision"])]
    results: list[tuple[bool, str]] = []
    for kind in dtypes:
        for layout in layouts:
            for size in sizes:
                results += bench_layer(size, kind, layout, names, rates, rounds)
                torch.cuda.empty_cache()
    click.echo("\nTargets:")
    for met, line in results:
        click.echo(f"  {'met   ' if met else 'MISSED'} {line}")
    if check and not all(met for met, _ in results):
        raise SystemExit("bench-gpu: a target is missed.")


if __name__ == "__main__":
    main()
