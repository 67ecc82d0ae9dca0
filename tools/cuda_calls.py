"""What a call of the op on CUDA costs the CPU: torch operators, and kernel launches. Needs no GPU.

The op's own Python code runs on tensors without memory (device "meta"); its kernels are recorded instead of launched.
Counted are torch's operators, those among them that launch a kernel of torch's (the rest allocate or make views), our
kernels, and the calls into our library that launch them.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from unittest import mock

import click
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mtm_ops import _launch, _native

GEOMETRY = ((1, 1), (1, 1), (1, 1))
SHAPES = ((32, 512, 8), (32, 512, 16), (32, 512, 32))  # batch, channels in and out, height and width
DTYPES = {"fp16": torch.float16, "fp32": torch.float32}
# Views and allocations; every other operator launches one kernel, at these shapes.
WITHOUT_KERNEL = set(
    "view permute transpose t slice detach as_strided unsqueeze select expand _unsafe_view alias split "
    "split_with_sizes narrow unflatten _reshape_alias squeeze unbind set_ empty new_empty empty_like "
    "empty_strided".split()
)
# Entry points that launch other than one kernel of ours: one for x's gradient, and one for the rest, if wanted.
GRADIENTS = ("backward", "double_backward")


@dataclass
class Calls:
    """What one call did."""

    operators: Counter = field(default_factory=Counter)  # torch's, by name
    entries: Counter = field(default_factory=Counter)  # calls into our library, by name
    ours: int = 0  # our kernels

    @property
    def torchs(self) -> int:
        """torch's kernels."""
        return sum(n for name, n in self.operators.items() if name not in WITHOUT_KERNEL)


class _Count(TorchDispatchMode):
    def __init__(self, calls: Calls) -> None:
        super().__init__()
        self.calls = calls

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls.operators[func._schema.name.split("::")[1]] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def counting() -> Iterator[Calls]:
    """Within the context, calls of `_native` on meta tensors take the CUDA path, and are counted."""
    calls = Calls()

    def launch(name, storage, device, params) -> None:
        calls.entries[name] += 1
        if name not in GRADIENTS:
            calls.ours += 1
            return
        taps = params.keep_columns or params.grad_offset is not None or params.grad_mask is not None
        calls.ours += bool(taps) + (params.grad_x is not None)

    with (
        mock.patch.object(_launch, "launch", launch),
        mock.patch.object(_launch, "kernels_of", return_value="cuda"),
        mock.patch.object(torch.Tensor, "data_ptr", return_value=16),
        _Count(calls),
    ):
        yield calls


def measure(shape: tuple[int, int, int], dtype: torch.dtype) -> dict[str, Calls]:
    """By pass: forward, backward, and double backward without and with a gradient through the weight's gradient."""
    B, C, H = shape
    new = lambda *sizes, kind=dtype: torch.empty(sizes, dtype=kind, device="meta")  # noqa: E731
    x, grad_y, offset = new(B, C, H, H), new(B, C, H, H), new(B, 18, H, H, kind=torch.float32)
    weight = new(C, C, 3, 3).contiguous(memory_format=torch.channels_last)
    given = (x, weight, offset, None, *GEOMETRY)
    second, needs = _native.double_backward, [True] * 4 + [False]
    passes = {
        "forward": lambda: _native.forward(*given),
        "backward": lambda: _native.backward(grad_y, *given, [True, True, True, False]),
        "path length": lambda: second(x, None, offset, None, grad_y, *given, needs),
        "double backward": lambda: _native.double_backward(
            x, weight, offset, None, grad_y, *given, [True] * 4 + [False]
        ),
    }
    found = {}
    for name, run in passes.items():
        with counting() as calls:
            run()
        found[name] = calls
    return found


@click.command()
def main() -> None:
    """Count what a layer's passes cost the CPU."""
    click.echo(f"{'[B, C, H, W]':24}{'pass':18}{'operators':>10}{'kernels of torch':>18}{'of ours':>9}{'entries':>9}")
    for shape in SHAPES:
        for kind, dtype in DTYPES.items():
            for what, calls in measure(shape, dtype).items():
                layer = f"{[*shape, shape[2]]} {kind}"
                total = sum(calls.operators.values())
                click.echo(f"{layer:24}{what:18}{total:>10}{calls.torchs:>18}{calls.ours:>9}{calls.entries.total():>9}")


if __name__ == "__main__":
    main()
