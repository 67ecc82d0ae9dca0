"""make bench: ours beside plain convolution (the floor) and torchvision's deform_conv2d (the peer), in one run.

Times are medians over rounds in which all candidates take turns, so that a machine whose speed drifts does not favour
one. Read the ratios; the milliseconds are this machine's, now.
"""

import ctypes
import functools
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch
import torch.nn.functional as F
from torch import Tensor

from mtm_ops import _matrix, _native, modulated_deform_conv2d

# The layers of StyleGAN that MTM replaces: (batch, channels in and out, height and width), 3x3 kernels.
SHAPES = ((4, 512, 8), (4, 512, 16), (4, 512, 32), (8, 128, 32), (8, 64, 32))
OFFSET_STD_PX = 2.0
GEOMETRY = ((1, 1), (1, 1), (1, 1))  # stride, padding, dilation


class Problem:
    """Inputs of one layer, and what each candidate computes from them."""

    def __init__(self, shape: tuple[int, int, int], memory_format: torch.memory_format) -> None:
        B, C, H = shape
        generator = torch.Generator().manual_seed(0)
        new = functools.partial(torch.randn, generator=generator)
        self.x = new(B, C, H, H).contiguous(memory_format=memory_format).requires_grad_()
        self.weight = new(C, C, 3, 3).contiguous(memory_format=memory_format).requires_grad_()
        self.offset = (new(B, 18, H, H) * OFFSET_STD_PX).requires_grad_()
        self.grad_y = new(B, C, H, H).contiguous(memory_format=memory_format)

    def plain(self) -> Tensor:
        return F.conv2d(self.x, self.weight, padding=1)

    def ours(self) -> Tensor:
        return modulated_deform_conv2d(self.x, self.weight, self.offset, padding=1, impl="native")

    def peer(self) -> Tensor:
        from torchvision.ops import deform_conv2d

        return deform_conv2d(self.x, self.offset, self.weight, padding=1)

    def backward(self, y: Tensor) -> None:
        """As training does: gradients accumulate in the leaves, in the leaves' layouts."""
        self.x.grad = self.weight.grad = self.offset.grad = None
        torch.autograd.backward(y, self.grad_y)

    def keep_columns(self) -> None:
        """Forward and backward of a version that keeps the columns for the backward, as the memory table's contrast."""
        x, weight, offset = (t.detach() for t in (self.x, self.weight, self.offset))
        s = _native.Sampling(x, offset, None, weight.shape[2:], *GEOMETRY)
        s.chunk_rows = s.rows
        columns = s.gather(0, s.rows, s.new_columns())
        W = _matrix.weight_matrix(weight)
        y = _matrix.from_rows(_matrix.product(columns, W).view(*_rows_shape(self.grad_y)), x)
        gy = _matrix.to_rows(self.grad_y).view(s.rows, -1)
        grad_w = _matrix.add_weight_gradient(None, gy, columns, s.dtype)
        s.bind_gradients()
        s.backward(0, s.rows, _matrix.grad_columns(gy, W, s.dtype))
        del y, grad_w


def _rows_shape(t: Tensor) -> tuple[int, int, int, int]:
    B, C, H, W = t.shape
    return B, H, W, C


def why_no_peer() -> str | None:
    """None where torchvision's op can be imported, else why not."""
    try:
        from torchvision.ops import deform_conv2d
    except Exception as error:  # beside a CPU torch its import fails in many ways
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return None if callable(deform_conv2d) else "it has no deform_conv2d"


def medians_ms(candidates: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Median time of each candidate in ms, over rounds of all of them, for about `seconds`."""
    for run in candidates.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    end_s = time.perf_counter() + seconds
    while time.perf_counter() < end_s or len(times[next(iter(times))]) < 5:
        for name, run in candidates.items():
            start_s = time.perf_counter()
            run()
            times[name].append((time.perf_counter() - start_s) * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def time_shape(problem: Problem, with_peer: bool, seconds: float) -> dict[str, dict[str, float]]:
    """{"forward" or "forward+backward": {"plain" | "ours" | "peer": ms}}."""
    runs = {"plain": problem.plain, "ours": problem.ours, **({"peer": problem.peer} if with_peer else {})}

    def both(run: Callable[[], Tensor]) -> Callable[[], None]:
        return lambda: problem.backward(run())

    return {
        "forward": medians_ms({name: torch.no_grad()(run) for name, run in runs.items()}, seconds),
        "forward+backward": medians_ms({name: both(run) for name, run in runs.items()}, seconds),
    }


def peak_mib(run: Callable[[], object]) -> float:
    """How far a call's peak resident memory rises above what was resident before it, in MiB (Linux)."""
    run()  # libraries, thread pools and caches that stay
    ctypes.CDLL(None).malloc_trim(0)  # what is freed but still held would hide as much of the next call
    Path("/proc/self/clear_refs").write_text("5")  # peak := current
    before = _status_mib("VmRSS")
    run()
    return _status_mib("VmHWM") - before


def _status_mib(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def _memory_table(shape: tuple[int, int, int], memory_format: torch.memory_format) -> list[str]:
    problem = Problem(shape, memory_format)
    rows = {
        "plain": lambda: problem.backward(problem.plain()),
        "ours": lambda: problem.backward(problem.ours()),
        "keeping the columns": problem.keep_columns,
    }
    lines = [f"\nPeak memory of forward+backward above its inputs, {list(shape)}, MiB:"]
    return lines + [f"  {name:20} {peak_mib(run):8.0f}" for name, run in rows.items()]


@click.command()
@click.option("--threads", type=click.IntRange(min=1), default=None, help="Of torch; all cores when not given.")
@click.option("--seconds", type=click.FloatRange(min=0), default=2.0, show_default=True, help="Per cell of the table.")
@click.option("--channels-last", is_flag=True, help="Inputs in channels_last instead of contiguous layout.")
@click.option("--check", is_flag=True, help="Exit 1 where a ratio is over the project's limit.")
def main(threads: int | None, seconds: float, channels_last: bool, check: bool) -> None:
    """Time forward and forward+backward of one layer, float32, 3x3, offsets of 2 px."""
    if threads is not None:
        torch.set_num_threads(threads)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    no_peer = why_no_peer()
    click.echo(f"torch {torch.__version__}, {torch.get_num_threads()} threads, float32, {layout}")
    click.echo("plain: F.conv2d, the floor. torchvision: " + (f"not run ({no_peer})" if no_peer else "deform_conv2d"))
    click.echo(f"\n{'[B, C, H, W]':18}{'':18}{'plain ms':>9}{'ours ms':>9}{'torchvision ms':>16}   ours/plain  limit")
    over = []
    for shape in SHAPES:
        limit = 1.3 if shape[1] >= 512 else 2.2
        for what, ms in time_shape(Problem(shape, layout), no_peer is None, seconds).items():
            ratio = ms["ours"] / ms["plain"]
            limited = what == "forward+backward"
            if limited and ratio > limit:
                over.append(shape)
            shown_limit = f"{limit}x" if limited else ""
            peer = f"{ms['peer']:16.2f}" if "peer" in ms else f"{'not run':>16}"
            size = str([shape[0], shape[1], shape[2], shape[2]])
            click.echo(f"{size:18}{what:18}{ms['plain']:9.2f}{ms['ours']:9.2f}{peer}   {ratio:9.2f}x  {shown_limit}")
    if Path("/proc/self/clear_refs").exists():
        click.echo("\n".join(_memory_table((4, 512, 32), layout)))
    if check and over:
        raise SystemExit(f"bench: over the limit at {', '.join(map(str, over))}; run again on an idle machine.")


if __name__ == "__main__":
    main()
