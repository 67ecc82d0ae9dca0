"""Analyses what the offsets of a trained network do, in four questions to the snapshots of a finished run.

* The switch (the paper's Fig. 4): with the offsets off, are there people left, and do their poses still differ?
* Exchange: if each latent gets the offsets of another latent, or the mean of all, how many people are left, and whose
  pose do they have? A correlation of joints is over all 26 numbers together, each minus its mean.
* Displacement: how much of the joints' displacement from the mean pose do the offset fields explain? This is the R2 of
  a ridge regression on held-out latents. For comparison, the same is computed from the inputs of the same layers, in
  this network and in the plain one of the same seed. All features are first reduced to COMPONENTS principal
  components, fitted on the training part.
* Size: the root mean square of each layer's offsets, for all generators that were kept during training.

Joints are BlazePose's, normalised (experiments.metrics.joints), of the images in which it detects a person.
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
LEAST_SEEN = 50  # images with a person that a spread or a fit needs
SIZE_NIMG = 64
BATCH = 100  # at most a batch of experiments.generators, so that a hook sees all images in one call


def look(final: Path, plain: Path | None, kept: dict[float, Path], pose: Extractor | None = None) -> dict[str, Any]:
    """The analysis as JSON values, of a run's final generator, that of the plain run with the same seed, and the `kept`
    generators by kimg.

    Raises UserError for a generator without deformable layers.
    """
    pose = pose or build_extractor("blazepose-full")
    with open_snapshot(final) as snapshot:
        network = local(snapshot)
        if not snapshot.facts.layers:
            raise UserError(f"limbs: {final} must have MTM layers; it has none. Give a run with --mtm low.")
        sides = {layer.resolution for layer in snapshot.facts.layers}
        on, offsets, inputs = drawn(network, sides)
        off = drawn(network, sides, strength=0.0)[0]
        mean = redrawn(network, sides, np.broadcast_to(offsets.mean(axis=0), offsets.shape))
        other = redrawn(network, sides, np.roll(offsets, 1, axis=0))
        layers = [layer.name for layer in snapshot.facts.layers]
    seen = pose_of(pose, on)
    fit: dict[str, Any] = {"layers": layers, "components": COMPONENTS, "n": int(seen[0].sum())}
    fit |= {"r2_offsets": explained(offsets, *seen), "r2_inputs": explained(inputs, *seen), "r2_plain": None}
    if plain is not None:
        with open_snapshot(plain) as snapshot:
            images, _, features = drawn(local(snapshot), sides)
        fit["r2_plain"] = explained(features, *pose_of(pose, images))
    sizes = [{"kimg": kimg, "layers": offset_sizes(path)} for kimg, path in sorted(kept.items())]
    moved = torch.nn.functional.pad(on, (1, 0, 0, 0), mode="replicate")[..., :-1]
    exchanged = exchange(seen, pose_of(pose, moved), pose_of(pose, mean), pose_of(pose, other))
    found = {"switch": switch(seen, pose_of(pose, off)), "exchange": exchanged, "displacement": fit}
    return found | {"offset_rms_px": sizes, "nimg": NIMG}


def local(snapshot: Any) -> Any:
    """The network of the compact generator. Raises UserError for a generator of another trainer."""
    if not isinstance(snapshot, LocalSnapshot) or snapshot.facts.trainer != "mini":
        raise UserError(f"limbs: {snapshot.path} must be of the compact host; got {snapshot.facts.trainer}'s.")
    return snapshot.generator


def drawn(generator: Any, sides: set[int], strength: float = 1.0) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Images [N, 3, R, R] of `latents`, and as rows [N, numbers] the offsets and the inputs of the layers at those
    resolutions. Without noise, so that images differ in their latent only."""
    images, offsets, inputs = [], [], []
    for z in latents(generator):
        with recorded(generator.network, sides) as (some_offsets, some_inputs):
            images.append(generator.generate(z, strength=strength))
        offsets.append(np.concatenate(some_offsets, axis=1) if some_offsets else np.zeros((BATCH, 0), np.float32))
        inputs.append(np.concatenate(some_inputs, axis=1))
    return torch.cat(images), np.concatenate(offsets), np.concatenate(inputs)


def redrawn(generator: Any, sides: set[int], offsets: np.ndarray) -> Tensor:
    """Images [N, 3, R, R] of the latents of `drawn`, with these offsets [N, numbers] in place of their own."""
    images = []
    for z, rows in zip(latents(generator), torch.from_numpy(offsets.copy()).split(BATCH), strict=True):
        left = [rows]

        def put(_module: Any, _given: Any, made: Any, left: list[Tensor] = left) -> tuple[Tensor, Tensor | None]:
            part, left[0] = left[0].tensor_split([made[0][0].numel()], dim=1)
            return part.reshape(made[0].shape), made[1]

        modules = [conv.mtm for conv in layers_at(generator.network, sides) if conv.mtm is not None]
        hooks = [module.register_forward_hook(put) for module in modules]
        try:
            images.append(generator.generate(z))
        finally:
            for hook in hooks:
                hook.remove()
    return torch.cat(images)


def latents(generator: Any) -> Iterator[Tensor]:
    """Batches of latents, the same at every call."""
    stream = torch.Generator().manual_seed(SEED)
    for _ in range(NIMG // BATCH):
        yield torch.randn(BATCH, generator.network.z_dim, generator=stream)


def layers_at(network: Any, sides: set[int]) -> list[Any]:
    """The network's plain layers at these resolutions."""
    both = zip(network.synthesis.resolutions, network.synthesis.convs, strict=True)
    return [conv for side, conv in both if side in sides]


@contextmanager
def recorded(network: Any, sides: set[int]) -> Iterator[tuple[list[np.ndarray], list[np.ndarray]]]:
    """Two lists, to which the offsets and the inputs of the network's plain layers at these resolutions are added as it
    runs."""
    offsets: list[np.ndarray] = []
    inputs: list[np.ndarray] = []

    def keep(into: list[np.ndarray], take: Callable[[Any, Any], Tensor]) -> Callable[[Any, Any, Any], None]:
        return lambda _module, given, made: into.append(take(given, made).detach().flatten(1).numpy().copy())

    hooks = []
    for conv in layers_at(network, sides):
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
    """Person rates and spreads of poses with the offsets on and off, and the ratios off / on. The spread is the square
    root of the joints' total variance, in figure sizes. If there are too few people, it is None and its ratio 1."""
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


def exchange(
    own: tuple[np.ndarray, np.ndarray],
    moved: tuple[np.ndarray, np.ndarray],
    mean: tuple[np.ndarray, np.ndarray],
    other: tuple[np.ndarray, np.ndarray],
) -> dict[str, Any]:
    """Person rates with each latent's own offsets, with the mean offsets, and with those of the previous latent; and
    correlations of joints. `moved`, `mean` and `other` are correlated with `own`; `moved`, the same images shifted by a
    pixel, shows how well a pose correlates with itself if it is detected twice. `other` is also correlated with the
    poses of the latents that gave the offsets."""
    donor = np.roll(own[0], 1), np.roll(own[1], 1, axis=0)
    return {
        "person_rate_own": float(own[0].mean()),
        "person_rate_mean": float(mean[0].mean()),
        "person_rate_other": float(other[0].mean()),
        "own_moved": correlation(own, moved),
        "own_mean": correlation(own, mean),
        "own_other": correlation(own, other),
        "donor_other": correlation(donor, other),
    }


def correlation(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> float | None:
    """The correlation of joints over the images that show a person in both; None if there are too few."""
    seen = a[0] & b[0]
    if seen.sum() < LEAST_SEEN:
        return None
    x, y = (joints[seen] - joints[seen].mean(axis=0) for _, joints in (a, b))
    return round(float((x * y).sum() / np.sqrt(np.square(x).sum() * np.square(y).sum())), 4)


def explained(features: np.ndarray, seen: np.ndarray, joints: np.ndarray) -> float | None:
    """R2 of held-out joints, all 26 numbers together, from principal components of `features` [N, numbers]; None if too
    few images show a person."""
    x, y = features[seen].astype(np.float64), joints[seen]
    if len(x) < LEAST_SEEN:
        return None
    held = round(len(x) * (1 - HELD_OUT))
    train, test = slice(0, held), slice(held, None)  # latents are independent, so the first ones are a random sample
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
    """The root mean square of the offsets of each layer of a generator, in px of the layer."""
    with open_snapshot(path) as snapshot:
        z = torch.randn(SIZE_NIMG, snapshot.facts.z_dim, generator=torch.Generator().manual_seed(SEED))
        _, fields = snapshot.offsets(z)
    return {layer.name: round(float(field.square().mean().sqrt()), 5) for layer, field in fields.items()}
