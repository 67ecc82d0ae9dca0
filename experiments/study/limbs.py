"""What the offsets of a trained network do: three questions to a finished run's snapshots.

* The switch (the paper's Fig. 4): with the offsets off, are there people left, and do their poses still differ?
* Displacement: how much of the joints' displacement from the mean pose do the offset fields explain, by a ridge
  regression of held-out latents; and how much as many numbers of the same layers' inputs do, in this network and in the
  plain one of the same seed. All are reduced to COMPONENTS principal components first, fitted on the training part.
* Size: the root mean square of each layer's offsets, over the generators that were kept on the way.

Joints are BlazePose's, normalised (experiments.metrics.joints), of the images in which it sees a person.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.files import UserError
from experiments.metrics.blazepose import JOINTS, POSE
from experiments.metrics.extractors import Extractor, build_extractor
from experiments.metrics.joints import normalised
from experiments.metrics.person_rate import PRESENCE
from experiments.snapshots import LocalSnapshot, open_snapshot

NIMG, SEED = 1000, 1_000_003  # latents that no metric uses
COMPONENTS, HELD_OUT = 64, 0.3
PENALTIES = tuple(10.0**power for power in range(-2, 6))
LEAST_SEEN = 50  # images with a person; with fewer there is no spread and no fit
SIZE_NIMG = 64
BATCH = 100


def look(final: Path, plain: Path | None, kept: dict[float, Path], pose: Extractor | None = None) -> dict[str, Any]:
    """What a run's last generator `final`, the same of a plain run, and `kept` generators by kimg say, as JSON values.

    Raises UserError for a generator that has no deformable layers.
    """
    pose = pose or build_extractor("blazepose-full")
    with open_snapshot(final) as snapshot:
        network = local(snapshot)
        if not snapshot.facts.layers:
            raise UserError(f"limbs: {final} must have MTM layers; it has none. Give a run with --mtm low.")
        sides = {layer.resolution for layer in snapshot.facts.layers}
        on, offsets, inputs = drawn(network, sides)
        off = drawn(network, sides, strength=0.0)[0]
        layers = [layer.name for layer in snapshot.facts.layers]
    seen = pose_of(pose, on)
    fit: dict[str, Any] = {"layers": layers, "components": COMPONENTS, "n": int(seen[0].sum())}
    fit |= {"r2_offsets": explained(offsets, *seen), "r2_inputs": explained(inputs, *seen), "r2_plain": None}
    if plain is not None:
        with open_snapshot(plain) as snapshot:
            images, _, features = drawn(local(snapshot), sides)
        fit["r2_plain"] = explained(features, *pose_of(pose, images))
    sizes = [{"kimg": kimg, "layers": offset_sizes(path)} for kimg, path in sorted(kept.items())]
    return {"switch": switch(seen, pose_of(pose, off)), "displacement": fit, "offset_rms_px": sizes, "nimg": NIMG}


def local(snapshot: Any) -> Any:
    """The compact host's network. Raises UserError for another one's."""
    if not isinstance(snapshot, LocalSnapshot) or snapshot.facts.trainer != "mini":
        raise UserError(f"limbs: {snapshot.path} must be of the compact host; got {snapshot.facts.trainer}'s.")
    return snapshot.generator


def drawn(generator: Any, sides: set[int], strength: float = 1.0) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Images [N, 3, R, R] of the same latents each time; the offsets, and the inputs of the layers at those
    resolutions, as rows [N, numbers]. Without noise: nothing but the latent differs."""
    stream = torch.Generator().manual_seed(SEED)
    images, offsets, inputs = [], [], []
    for _ in range(NIMG // BATCH):
        z = torch.randn(BATCH, generator.network.z_dim, generator=stream)
        with recorded(generator.network, sides) as (some_offsets, some_inputs):
            images.append(generator.generate(z, strength=strength))
        offsets.append(np.concatenate(some_offsets, axis=1) if some_offsets else np.zeros((BATCH, 0), np.float32))
        inputs.append(np.concatenate(some_inputs, axis=1))
    return torch.cat(images), np.concatenate(offsets), np.concatenate(inputs)


@contextmanager
def recorded(network: Any, sides: set[int]) -> Iterator[tuple[list[np.ndarray], list[np.ndarray]]]:
    """Lists that get the offsets and the inputs of the network's plain layers at these resolutions as it runs."""
    offsets: list[np.ndarray] = []
    inputs: list[np.ndarray] = []

    def keep(into: list[np.ndarray], take: Callable[[Any, Any], Tensor]) -> Callable[[Any, Any, Any], None]:
        return lambda _module, given, made: into.append(take(given, made).detach().flatten(1).numpy().copy())

    hooks = []
    for side, conv in zip(network.synthesis.resolutions, network.synthesis.convs, strict=True):
        if side in sides:
            hooks.append(conv.register_forward_hook(keep(inputs, lambda given, _made: given[0])))
            if conv.mtm is not None:
                hooks.append(conv.mtm.register_forward_hook(keep(offsets, lambda _given, made: made[0])))
    try:
        yield offsets, inputs
    finally:
        for hook in hooks:
            hook.remove()


def pose_of(pose: Extractor, images: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Whether each image shows a person [N], and its normalised joints [N, 26]."""
    features = torch.cat([pose(some, (POSE,))[POSE] for some in images.split(BATCH)]).numpy().astype(np.float64)
    places = features[:, 1:].reshape(len(features), -1, 2)[:, list(JOINTS.values())]
    return features[:, 0] >= PRESENCE, normalised(places)


def switch(on: tuple[np.ndarray, np.ndarray], off: tuple[np.ndarray, np.ndarray]) -> dict[str, Any]:
    """Person rates and the spread of poses with the offsets on and off, and the ratios off / on. The spread is the root
    of the joints' total variance, in figure sizes; with too few people there is none, and its ratio counts as 1."""
    rates = [float(seen.mean()) for seen, _ in (on, off)]
    spreads = [float(np.sqrt(j[seen].var(axis=0).sum())) if seen.sum() >= LEAST_SEEN else None for seen, j in (on, off)]
    before, after = spreads
    return {
        "person_rate_on": rates[0],
        "person_rate_off": rates[1],
        "person_rate_ratio": rates[1] / rates[0] if rates[0] else 1.0,
        "pose_spread_on": before,
        "pose_spread_off": after,
        "pose_spread_ratio": after / before if before and after is not None else 1.0,
    }


def explained(features: np.ndarray, seen: np.ndarray, joints: np.ndarray) -> float | None:
    """R2 of held-out joints, all 26 numbers together, from principal components of `features` [N, numbers]; None where
    too few images show a person."""
    x, y = features[seen].astype(np.float64), joints[seen]
    if len(x) < LEAST_SEEN:
        return None
    held = round(len(x) * (1 - HELD_OUT))
    train, test = slice(0, held), slice(held, None)  # latents are independent: the first ones are a random part
    mean = x[train].mean(axis=0)
    _, sizes, directions = np.linalg.svd(x[train] - mean, full_matrices=False)
    count = min(COMPONENTS, held // 4, int((sizes > 1e-9 * max(sizes[0], 1e-30)).sum()))
    parts = (x - mean) @ directions[:count].T
    parts /= parts[train].std(axis=0) + 1e-12
    inner = round(held * 0.8)
    fits = {p: _r2(parts[:inner], y[:inner], parts[inner:held], y[inner:held], p) for p in PENALTIES}
    return round(_r2(parts[train], y[train], parts[test], y[test], max(fits, key=lambda p: fits[p])), 4)


def _r2(x: np.ndarray, y: np.ndarray, new_x: np.ndarray, new_y: np.ndarray, penalty: float) -> float:
    mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
    centred = x - mean_x
    weights = np.linalg.solve(centred.T @ centred + penalty * np.eye(x.shape[1]), centred.T @ (y - mean_y))
    errors = np.square(new_y - mean_y - (new_x - mean_x) @ weights).sum()
    return float(1 - errors / np.square(new_y - mean_y).sum())


def offset_sizes(path: Path) -> dict[str, float]:
    """The root mean square of the offsets of each layer of a generator, px of the layer."""
    with open_snapshot(path) as snapshot:
        z = torch.randn(SIZE_NIMG, snapshot.facts.z_dim, generator=torch.Generator().manual_seed(SEED))
        _, fields = snapshot.offsets(z)
    return {layer.name: round(float(field.square().mean().sqrt()), 5) for layer, field in fields.items()}
