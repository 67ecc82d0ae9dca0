"""make bench, make bench-gpu: compares ours with plain convolution, torchvision, onnxruntime and the roofline.

All are measured in one run. The roofline is the larger of two times: moving each tensor's bytes once at the bandwidth
that a copy reaches here, and the matmuls' operations at the rate that a large matmul reaches here. On a GPU, times are
the GPU's own, over inputs that rotate so that none of them is still in the cache. tools/timing.py describes how the
candidates take turns.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch

from experiments.files import atomic_output
from tools import gpu, timing
from tools.layer import PASSES, Problem, can, why_not

CANDIDATES = ("plain", "ours", "torchvision", "onnxruntime")
# tf32: float32 tensors; convolutions and matmuls may use TF32, which torch's convolutions do by default on a GPU.
KINDS = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
Shape = tuple[int, int, int]  # batch, channels in and out, height and width


@dataclass(frozen=True)
class Suite:
    """What is timed on one kind of device, and how."""

    shapes: tuple[Shape, ...]
    kinds: tuple[str, ...]
    layouts: tuple[str, ...]
    passes: tuple[str, ...]
    clock: timing.Clock
    warm_up: int
    rotating_bytes: int  # total of all inputs in rotation
    # Sizes for measuring the roofline's rates. 0 on a CPU: there torch's matmul is slower than its convolution.
    copy_bytes: int = 0
    matmul_size: int = 0
    # Targets for forward+backward: time relative to plain, per shape; at these shapes also time relative to torchvision
    # and peak memory relative to plain.
    most_times_plain: dict[Shape, float] = field(default_factory=dict)
    least_times_torchvision: float | None = None
    most_memory: float | None = None
    faster_than_onnxruntime: bool = False  # in the forward


# CPU: StyleGAN layers that MTM replaces. GPU: the inputs in rotation are several times as large as any L2 cache.
SUITES = {
    "cpu": Suite(
        ((4, 512, 8), (4, 512, 16), (4, 512, 32), (8, 128, 32), (8, 64, 32)),
        ("fp32",), ("nchw",), ("forward", "forward+backward"),
        timing.wall_ms, warm_up=1, rotating_bytes=0,
        most_times_plain={
            (4, 512, 8): 1.3, (4, 512, 16): 1.3, (4, 512, 32): 1.3, (8, 128, 32): 2.2, (8, 64, 32): 2.2
        },
        faster_than_onnxruntime=True,
    ),
    "cuda": Suite(
        ((32, 512, 8), (32, 512, 16), (32, 512, 32), (32, 512, 64), (64, 256, 64)),
        ("fp16", "fp32", "tf32"), ("nchw", "nhwc"), ("forward", "forward+backward", "double backward"),
        timing.event_ms, warm_up=3, rotating_bytes=256 << 20, copy_bytes=1 << 30, matmul_size=8192,
        most_times_plain={(32, 512, 32): 1.5}, least_times_torchvision=4.0, most_memory=1.15,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Rates:
    """The rates that this machine reaches."""

    bytes_per_s: float
    flops_per_s: dict[str, float]  # by kind


def allow_tf32(allow: bool) -> None:
    """Sets whether float32 convolutions and matmuls on a GPU may use TF32."""
    torch.backends.cudnn.allow_tf32 = allow
    torch.backends.cuda.matmul.allow_tf32 = allow


def measure_rates(device: str, suite: Suite) -> Rates:
    """The rates of a copy and of square matmuls, the best of ten each."""

    def best_s(run: timing.Run) -> float:
        return timing.turns_ms({"run": run}, suite.clock, rounds=10, statistic="min")["run"] / 1e3

    a = torch.empty(suite.copy_bytes, dtype=torch.uint8, device=device)
    copy_s = best_s(partial(torch.empty_like(a).copy_, a))
    flops = {}
    for kind in suite.kinds:
        allow_tf32(kind == "tf32")
        m = torch.randn(suite.matmul_size, suite.matmul_size, device=device).to(KINDS[kind])
        flops[kind] = 2 * suite.matmul_size**3 / best_s(partial(torch.mm, m, m))
    return Rates(2 * suite.copy_bytes / copy_s, flops)


def roofline_ms(shape: Shape, kind: str, what: str, rates: Rates) -> float:
    """The least time that a pass can take: bytes and matmuls counted once."""
    B, C, H = shape
    dtype = KINDS[kind]
    x, weight, offset = B * C * H * H * dtype.itemsize, 9 * C * C * dtype.itemsize, B * 18 * H * H * 4
    once = 2 * x + weight + offset  # x is read, y written
    moved = {"forward": once, "forward+backward": 3 * once, "double backward": 5 * once}[what]
    matmuls = 1 if what == "forward" else 3  # forward: y; backward: also the gradients of the columns and the weight
    flops = matmuls * 2 * 9 * B * C * C * H * H
    return 1e3 * max(moved / rates.bytes_per_s, flops / rates.flops_per_s[kind])


def rotate(problems: list[Problem], what: str, name: str) -> Iterator[timing.Run]:
    """Calls of a pass on one problem after another, endlessly."""
    while True:
        for problem in problems:
            yield partial(PASSES[what], problem, name)


def verdicts(suite: Suite, shape: Shape, ms: dict[str, dict[str, float]], mib: dict[str, float]) -> list[str]:
    """The suite's targets that are missed, from times by pass and candidate and peak memory of forward+backward."""
    missed = []
    forward, both = ms["forward"], ms["forward+backward"]
    limit = suite.most_times_plain.get(shape)
    if limit and both["ours"] > limit * both["plain"]:
        missed.append(f"forward+backward is {both['ours'] / both['plain']:.2f}x plain; at most {limit}x")
    least = suite.least_times_torchvision
    if limit and least and "torchvision" in both and both["torchvision"] < least * both["ours"]:
        missed.append(f"{both['torchvision'] / both['ours']:.2f}x faster than torchvision; at least {least}x")
    if limit and suite.most_memory and mib["ours"] > suite.most_memory * mib["plain"]:
        missed.append(f"peak memory is {mib['ours'] / mib['plain']:.2f}x plain's; at most {suite.most_memory}x")
    if suite.faster_than_onnxruntime and forward.get("onnxruntime", float("inf")) < forward["ours"]:
        missed.append(f"forward is {forward['ours'] / forward['onnxruntime']:.2f}x onnxruntime's; must be faster")
    return missed


class Bench:
    """The benchmark on one device, and its table."""

    def __init__(self, device: str, suite: Suite, seconds: float, statistic: str) -> None:
        self.device, self.suite, self.seconds, self.statistic = device, suite, seconds, statistic
        self.rates = measure_rates(device, suite) if suite.copy_bytes else None
        self.layers: list[dict[str, Any]] = []  # the results so far

    def rows(self, shape: Shape, kind: str, layout: str) -> Iterator[str]:
        """Lines of one layer, each as soon as it is measured; at the end, the targets that it misses."""
        allow_tf32(kind == "tf32")
        dtype, made = KINDS[kind], partial(Problem, shape, KINDS[kind], LAYOUTS[layout], self.device)
        names = [n for n in CANDIDATES if why_not(n, self.device, dtype) is None]
        problems = [made()]
        size = sum(t.nbytes for t in vars(problems[0]).values() if isinstance(t, torch.Tensor))
        problems += [made(seed) for seed in range(1, max(1, min(32, self.suite.rotating_bytes // size)))]
        ms: dict[str, dict[str, float]] = {}
        rooflines: dict[str, float | None] = {}
        for what in self.suite.passes:
            turns = {n: rotate(problems, what, n) for n in names if can(n, what)}
            ms[what] = timing.turns_ms(
                turns, self.suite.clock, seconds=self.seconds, warm_up=self.suite.warm_up, statistic=self.statistic
            )
            rooflines[what] = roofline_ms(shape, kind, what, self.rates) if self.rates else None
            yield row(shape, kind, layout, what, ms[what], rooflines[what])
        able = [n for n in names if can(n, "forward+backward")]
        peaks = {n: timing.peak_mib(partial(problems[0].forward_backward, n), self.device) for n in able}
        mib = {n: peak for n, peak in peaks.items() if peak is not None}
        yield f"{'':28}{'peak MiB above inputs':22}{_cells(mib, '.0f')}"
        missed = verdicts(self.suite, shape, ms, mib)
        layer = {"batch": shape[0], "channels": shape[1], "side": shape[2], "kind": kind, "layout": layout}
        self.layers.append(layer | {"ms": ms, "roofline_ms": rooflines, "peak_mib": mib, "missed": missed})
        yield from (f"  MISSED: {line}" for line in missed)

    def save(self, dest: Path, machine: str) -> None:
        """Writes the results so far as JSON."""
        rates = asdict(self.rates) if self.rates else None
        facts = {"device": self.device, "machine": machine, "statistic": self.statistic, "rates": rates}
        with atomic_output(dest) as temporary:
            temporary.write_text(json.dumps(facts | {"layers": self.layers}, indent=1) + "\n", encoding="utf-8")


def heading() -> str:
    columns = "".join(f"{name:>13}" for name in (*CANDIDATES, "roofline"))
    return f"{'[B, C, H, W]':28}{'ms':22}{columns}{'ours/plain':>12}"


def row(shape: Shape, kind: str, layout: str, what: str, ms: dict[str, float], roofline: float | None) -> str:
    layer = f"{[*shape, shape[2]]} {kind} {layout}"
    shown = "-" if roofline is None else f"{roofline:.2f}"
    return f"{layer:28}{what:22}{_cells(ms, '.2f')}{shown:>13}{ms['ours'] / ms['plain']:11.2f}x"


def _cells(values: dict[str, float], form: str) -> str:
    return "".join(f"{values[n]:>13{form}}" if n in values else f"{'-':>13}" for n in CANDIDATES)


def describe(device: str, suite: Suite) -> Iterator[str]:
    """Describes the machine, and what is compared."""
    yield (
        gpu.require("bench-gpu")
        if device == "cuda"
        else (f"CPU, torch {torch.__version__}, {torch.get_num_threads()} threads")
    )
    yield "plain: F.conv2d of the same shape"
    for name in ("torchvision", "onnxruntime"):
        reason = why_not(name, device, KINDS[suite.kinds[0]])
        yield f"{name}: " + (f"not run ({reason})" if reason else "its deformable convolution")


@click.command()
@click.option("--device", type=click.Choice(list(SUITES)), default="cpu", show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=None, help="CPU threads; default: all cores.")
@click.option("--seconds", type=click.FloatRange(min=0), default=2.0, show_default=True, help="Minimum time per row.")
@click.option("--shape", "shapes", type=(int, int, int), multiple=True, help="B C H; default: the suite's shapes.")
@click.option("--dtype", "kinds", type=click.Choice(list(KINDS)), multiple=True, help="Default: the suite's dtypes.")
@click.option(
    "--layout", "layouts", type=click.Choice(list(LAYOUTS)), multiple=True, help="Layout of x; default: the suite's."
)
@click.option("--statistic", type=click.Choice(list(timing.STATISTICS)), default="median", show_default=True)
@click.option("--cpu-time", is_flag=True, help="Measure one thread's processor time: for a busy CPU.")
@click.option("--json", "dest", type=click.Path(path_type=Path), help="Also write the numbers to this file.")
@click.option("--check", is_flag=True, help="Exit 1 if a target is missed.")
def main(
    device: str,
    threads: int | None,
    seconds: float,
    shapes,
    kinds,
    layouts,
    statistic: str,
    cpu_time: bool,
    dest: Path | None,
    check: bool,
):
    """Time one layer, 3x3, offsets of 2 px: forward, forward+backward and, on a GPU, double backward."""
    suite, missed = SUITES[device], 0
    if cpu_time and device == "cpu":
        suite, threads = replace(suite, clock=timing.cpu_ms), 1
    if threads is not None:
        torch.set_num_threads(threads)
    about = list(describe(device, suite))
    click.echo("\n".join(about))
    torch.backends.cudnn.benchmark = True  # like the hosts
    if kinds:
        suite = replace(suite, kinds=tuple(kinds))
    bench = Bench(device, suite, seconds, statistic)
    if bench.rates:
        flops = ", ".join(f"{k} {bench.rates.flops_per_s[k] / 1e12:.2f} TFLOP/s" for k in suite.kinds)
        click.echo(f"measured: {bench.rates.bytes_per_s / 1e9:.0f} GB/s, {flops}")
    click.echo(f"{statistic} of {'processor' if cpu_time else 'wall-clock'} times\n\n{heading()}")
    for kind in suite.kinds:
        for layout in layouts or suite.layouts:
            for shape in shapes or suite.shapes:
                for line in bench.rows(tuple(shape), kind, layout):
                    missed += "MISSED" in line
                    click.echo(line)
                if dest is not None:
                    bench.save(dest, about[0])
                if device == "cuda":
                    torch.cuda.empty_cache()
    if check and missed:
        raise SystemExit(f"bench: {missed} targets missed; run again on an idle machine.")


if __name__ == "__main__":
    main()
