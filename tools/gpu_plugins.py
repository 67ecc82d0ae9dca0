"""Step plugins of a GPU session: builds the official StyleGAN3's CUDA plugins, and checks each against its reference.

They are cached where the trainer looks for them, so that a later training starts at once.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import torch
from torch import Tensor

from tools.gpu import require
from tools.hosts import imported

MOST_ERROR = 1e-3  # for float32, on values of about 1


def _bias_act(ops: Callable[[str], ModuleType], x: Tensor, impl: str) -> Tensor:
    bias = torch.linspace(-1, 1, x.shape[1], device=x.device)
    return ops("bias_act").bias_act(x, bias, act="lrelu", impl=impl)


def _upfirdn2d(ops: Callable[[str], ModuleType], x: Tensor, impl: str) -> Tensor:
    upfirdn2d = ops("upfirdn2d")
    taps = upfirdn2d.setup_filter([1, 3, 3, 1], device=x.device)
    return upfirdn2d.upsample2d(x, taps, impl=impl)


def _filtered_lrelu(ops: Callable[[str], ModuleType], x: Tensor, impl: str) -> Tensor:
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], device=x.device) / 8
    bias = torch.linspace(-1, 1, x.shape[1], device=x.device)
    words: dict[str, Any] = {"fu": taps, "fd": taps, "b": bias, "up": 2, "down": 2, "padding": 3}
    return ops("filtered_lrelu").filtered_lrelu(x, **words, impl=impl)


PLUGINS = {"bias_act": _bias_act, "upfirdn2d": _upfirdn2d, "filtered_lrelu": _filtered_lrelu}


def check(name: str, device: str) -> dict[str, float]:
    """Seconds of the build and first call, and the largest difference from the host's own reference."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    x = torch.randn(4, 16, 32, 32, device=device, generator=torch.Generator(device).manual_seed(0))
    with imported("stylegan3") as module:
        start_s = time.monotonic()
        found = PLUGINS[name](lambda op: module(f"torch_utils.ops.{op}"), x, "cuda")
        seconds = time.monotonic() - start_s
        want = PLUGINS[name](lambda op: module(f"torch_utils.ops.{op}"), x, "ref")
    return {"seconds": seconds, "error": float((found - want).abs().max())}


def check_all(device: str) -> dict[str, dict[str, float]]:
    """Checks all at once, each in a separate process: they take a minute or more to compile."""
    words = [sys.executable, "-m", "tools.gpu_plugins", "--device", device, "--one"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "text": True}
    children = {name: subprocess.Popen([*words, name], **pipes) for name in PLUGINS}
    found = {}
    for name, child in children.items():
        output, _ = child.communicate()
        if child.returncode == 0:
            found[name] = json.loads(output.splitlines()[-1])
    return found


@click.command()
@click.option("--device", default="cuda", show_default=True, help="cpu only tests the code.")
@click.option("--one", type=click.Choice(list(PLUGINS)), help="Check only this one, in this process.")
@click.option("--json", "dest", type=click.Path(path_type=Path), help="Also write the numbers to this file.")
def main(device: str, one: str | None, dest: Path | None) -> None:
    """Build the plugins and compare them with their references."""
    if device != "cpu":
        require("gpu-plugins")
    if one is not None:
        click.echo(json.dumps(check(one, device)))
        return
    found = check_all(device)
    click.echo(json.dumps(found, indent=1))
    if dest is not None:
        dest.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    wrong = [name for name in PLUGINS if name not in found or not found[name]["error"] <= MOST_ERROR]
    if wrong:
        raise SystemExit(f"gpu-plugins: every plugin must build and give what its reference gives; got {wrong}.")


if __name__ == "__main__":
    main()
