"""make bench-metrics: FID's statistics of a folder of images, ours, torch-fidelity's and clean-fid's, on the CPU.

Every tool reads the same PNGs and runs the same network with the same (stand-in) weights, each with its default
reading, resizing, batch size, workers and statistics. Each run is a separate process, and the tools take turns; all
ratios come from one run of this command. Time: from opening the first file to mean and covariance, after one image to
warm up, without imports and without building the network. Memory: the peak of the process and its workers together,
including imports and weights, with each shared page counted once (PSS).

If torchvision cannot be imported, the few functions that the two tools need to read images are replaced. clean-fid
normally downloads its own network; here it runs torch-fidelity's, traced like its own. No value here is an FID.
"""

from __future__ import annotations

import importlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import psutil
from PIL import Image

TOOLS = ("ours", "torch-fidelity", "clean-fid")
SAMPLE_S = 0.2
BACKBONE = "inception-2015-12-05"


def run_ours(images: Path, weights: Path, workers: int) -> Callable[[], Any]:
    from experiments.metrics.base import Features
    from experiments.metrics.measure import Measurement
    from experiments.metrics.sources import ImageFiles

    measurement = Measurement(folder=weights, cached=False, progress=False)
    wanted = [Features(BACKBONE, "pool3")]
    _warm_up(measurement.extractor(BACKBONE), ("pool3",))
    return lambda: measurement.take(ImageFiles(images, "real", workers=workers), wanted)["pool3"][0].statistics()


def run_torch_fidelity(images: Path, weights: Path, workers: int) -> Callable[[], Any]:
    substitute_torchvision()
    utils = importlib.import_module("torch_fidelity.utils")
    metric = importlib.import_module("torch_fidelity.metric_fid")
    extractor = utils.create_feature_extractor(
        "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(_weights_file(weights)), cuda=False,
        verbose=False,
    )  # fmt: skip
    _warm_up(extractor)
    dataset = utils.ImagesPathDataset(sorted(map(str, images.iterdir())))

    def take() -> Any:
        found = utils.get_featuresdict_from_dataset(dataset, extractor, 64, False, False, False)
        return metric.fid_features_to_statistics(found["2048"])

    return take


def run_clean_fid(images: Path, weights: Path, workers: int) -> Callable[[], Any]:
    import torch

    substitute_torchvision()
    clean = importlib.import_module("cleanfid.fid")
    body = torch.jit.trace(_Body(_weights_file(weights)), torch.zeros(1, 3, 299, 299))
    _warm_up(lambda image: body(torch.zeros(1, 3, 299, 299)))

    def take() -> Any:
        features = clean.get_folder_features(
            str(images),
            body,
            num_workers=workers,
            batch_size=32,
            device=torch.device("cpu"),
            mode="clean",
            verbose=False,
        )
        return np.mean(features, axis=0), np.cov(features, rowvar=False)

    return take


RUNS = dict(zip(TOOLS, (run_ours, run_torch_fidelity, run_clean_fid), strict=True))


def _Body(path: Path) -> Any:  # noqa: N802 - a module
    """torch-fidelity's Inception, after the step that resizes."""
    from torch import nn

    from experiments.metrics.fidelity import networks
    from experiments.metrics.inception import AFTER, BEFORE

    kind = networks("feature_extractor_inceptionv3").FeatureExtractorInceptionV3
    network = kind("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path))

    class Body(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(*[getattr(network, name) for name in (*BEFORE, *AFTER)])

        def forward(self, x: Any) -> Any:
            return self.layers((x - 128) / 128).flatten(1)

    return Body().eval()


def _warm_up(network: Any, *arguments: Any) -> None:
    import torch

    network(torch.zeros(1, 3, 64, 64, dtype=torch.uint8), *arguments)


def _weights_file(weights: Path) -> Path:
    from experiments.weights import WEIGHTS

    return weights / WEIGHTS[BACKBONE].file


def substitute_torchvision() -> bool:
    """If torchvision cannot be imported, replaces what the tools need to read images. Returns whether it did."""
    import torch

    from experiments.metrics.fidelity import normalize

    try:
        importlib.import_module("torchvision")
        return False
    except (ImportError, RuntimeError, OSError):
        pass

    def to_tensor(image: Any) -> Any:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()

    members: dict[str, dict[str, Any]] = {
        "torchvision": {},
        "torchvision.transforms": {"ToTensor": lambda: to_tensor},
        "torchvision.transforms.functional": {"pil_to_tensor": to_tensor, "normalize": normalize},
        "torchvision.datasets": {"CIFAR10": object, "CIFAR100": object, "STL10": object},
        "torchvision.models": {},
        # Base classes of an unused network's blocks.
        "torchvision.models.inception": {f"Inception{letter}": object for letter in "ACE"},
    }
    for name, content in members.items():
        module = types.ModuleType(name)
        vars(module).update(content)
        sys.modules[name] = module
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], last, module)
    return True


def make_images(folder: Path, nimg: int, size_px: int) -> Path:
    """PNGs of coarse noise, which decode about as fast as photographs."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for index in range(nimg):
        pixels = random.integers(0, 256, (size_px // 8, size_px // 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((size_px, size_px), Image.Resampling.BICUBIC).save(folder / f"{index:05d}.png")
    return folder


def timed_child(tool: str, images: Path, weights: Path, workers: int) -> tuple[float, float]:
    """(seconds, bytes) of one run in a separate process."""
    command = [sys.executable, "-m", "tools.bench_metrics", "--child", tool, "--images", str(images)]
    command += ["--weights", str(weights), "--workers", str(workers)]
    with tempfile.TemporaryFile() as output:
        child = subprocess.Popen(command, stdout=output, stderr=subprocess.DEVNULL)
        process, most = psutil.Process(child.pid), 0
        while child.poll() is None:
            most = max(most, _pss(process))
            time.sleep(SAMPLE_S)
        output.seek(0)
        text = output.read().decode()
    if child.returncode:
        raise click.ClickException(f"{tool} failed (exit {child.returncode}). Run it: {' '.join(command)}")
    return float(json.loads(text.splitlines()[-1])["seconds"]), most


def _pss(process: psutil.Process) -> int:
    total = 0
    try:
        for one in [process, *process.children(recursive=True)]:
            total += one.memory_full_info().pss
    except psutil.Error:  # a process that has just ended
        pass
    return total


def show(found: dict[str, list[tuple[float, float]]], nimg: int) -> None:
    ours_s = statistics.median(s for s, _ in found["ours"])
    ours_bytes = max(b for _, b in found["ours"])
    click.echo(f"{'':16}{'images/s':>10}{'ours is':>12}{'peak memory':>14}{'ours takes':>12}")
    for tool, runs in found.items():
        seconds, most = statistics.median(s for s, _ in runs), max(b for _, b in runs)
        speed, memory = f"{seconds / ours_s:.2f} x", f"{ours_bytes / most:.2f} x"
        click.echo(f"{tool:16}{nimg / seconds:>10.2f}{speed:>12}{most / 1e6:>11.0f} MB{memory:>12}")


@click.command()
@click.option("--nimg", type=click.IntRange(min=2), default=96, show_default=True)
@click.option("--size-px", type=click.IntRange(min=8), default=256, show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True, help="For ours and clean-fid.")
@click.option("--child", type=click.Choice(TOOLS), hidden=True)
@click.option("--images", type=click.Path(path_type=Path), hidden=True)
@click.option("--weights", type=click.Path(path_type=Path), hidden=True)
def main(
    nimg: int, size_px: int, rounds: int, workers: int, child: str | None, images: Path | None, weights: Path | None
) -> None:
    """Time FID's statistics of a folder: ours, torch-fidelity, clean-fid."""
    if child:
        assert images
        assert weights
        take = RUNS[child](images, weights, workers)
        begun = time.perf_counter()
        take()
        click.echo(json.dumps({"seconds": time.perf_counter() - begun}))
        return
    from experiments.stand_ins import make_stand_ins

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_images(folder / "images", nimg, size_px)
        make_stand_ins(folder / "weights", [BACKBONE])
        found: dict[str, list[tuple[float, float]]] = {tool: [] for tool in TOOLS}
        for _ in range(rounds):
            for tool in TOOLS:
                found[tool].append(timed_child(tool, folder / "images", folder / "weights", workers))
    click.echo(
        f"{nimg} images of {size_px} px, {psutil.cpu_count()} cores, median of {rounds} rounds; stand-in weights."
    )
    if substitute_torchvision():
        click.echo("torchvision is not there: the functions of it that read images were substituted for the other two.")
    show(found, nimg)


if __name__ == "__main__":
    main()
