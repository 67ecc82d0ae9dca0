"""CLIP-FD, sFID and FD-DINOv2 in the official metric code: --metrics=clip_fd50k_full,sfid50k_full,fd_dinov2_50k_full.

Each is computed like the host's own fid50k_full: with its loops over the data set and the generator, on its ranks, with
its cache of statistics. The differences are the detector, from experiments.metrics with weights that
experiments.weights has verified, and the distance, from experiments.metrics.frechet. Nothing from experiments is
imported until a metric is computed.
"""

import functools
import math
import sys
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from mtm_hosts.hosts import fail

# Name on the host's command line -> its extractor and output, as in experiments.metrics. A test compares the two.
FEATURES = {
    "clip_fd50k_full": ("clip-vit-b-32", "image embedding"),
    "sfid50k_full": ("inception-2015-12-05", "mixed_6/conv"),
    "fd_dinov2_50k_full": ("dinov2-vit-l-14", "class token"),
}
GENERATED_NIMG = 50_000
_SCHEME = "mtm://"
_fingerprints: dict[str, dict[str, Any]] = {}  # per metric name: the fingerprint of the last computation


def register(register_metric: Callable[..., Any]) -> None:
    """Add the metrics through the host's own decorator, and their fingerprints to their lines in metric-*.jsonl."""
    host = sys.modules[register_metric.__module__]
    for name in FEATURES:
        register_metric(_metric(name, host))
    vars(host)["report_metric"] = _with_fingerprint(host.report_metric)


def address(name: str) -> str:
    """A metric's detector as an address, where the host expects the address of a download."""
    return f"{_SCHEME}{FEATURES[name][0]}/{name}"


def is_ours(url: str) -> bool:
    return url.startswith(_SCHEME)


def detector(url: str, device: torch.device) -> torch.nn.Module:
    """The detector of `address`, uint8 images [N, 3, H, W] to float32 [N, D].

    Raises:
        SystemExit: listing the missing weights, or naming the missing package.
    """
    return _of_experiments(url, _detector, device)


def cache_facts(url: str) -> dict[str, str]:
    """What statistics computed with the detector of `address` depend on, besides that address: the weights' bytes, and
    how images are resized. Raises SystemExit like `detector`."""
    return _of_experiments(url, _facts)


def _metric(name: str, host: ModuleType) -> Callable[[Any], dict[str, float]]:
    def metric(opts: Any) -> dict[str, float]:
        opts.dataset_kwargs.update(max_size=None, xflip=False)
        return {name: _compute(name, host, opts)}

    metric.__name__ = name
    return metric


def _compute(name: str, host: ModuleType, opts: Any) -> float:
    """The distance, on rank 0; NaN if features are not finite, and on the other ranks, to which the host sends it."""
    utils = host.metric_utils
    how: dict[str, Any] = {"detector_url": address(name), "detector_kwargs": {}, "capture_mean_cov": True}
    of_data, of_generator = _options(host, opts)
    real = utils.compute_feature_stats_for_dataset(opts=opts, rel_lo=0, rel_hi=0, **how, **of_data)
    if getattr(opts, "generator_as_dataset", False):
        generate, its_opts = utils.compute_feature_stats_for_dataset, utils.rewrite_opts_for_gen_dataset(opts)
        of_generator |= of_data
    else:
        generate, its_opts = utils.compute_feature_stats_for_generator, opts
    generated = generate(opts=its_opts, rel_lo=0, rel_hi=1, max_items=GENERATED_NIMG, **how, **of_generator)
    counts = {"real_nimg": real.num_items, "generated_nimg": generated.num_items}
    if min(counts.values()) < 2:  # the same on all ranks
        fail(f"{name}: there must be at least 2 images of each kind; got {counts}. Give more.")
    if opts.rank != 0:
        return math.nan
    used = utils.get_feature_detector(address(name), device=opts.device)
    _fingerprints[name] = _fingerprint(name, used, counts, video=bool(of_data))
    return _distance(name, real, generated)


def _options(host: ModuleType, opts: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of the loops over the data and over the generator, as the host's FID passes them. In a video host, images
    are the frames of videos, and a GPU holds only few videos at once."""
    few = getattr(host.frechet_inception_distance, "NUM_FRAMES_IN_BATCH", None)
    if few is None:
        return {}, {}
    return {"use_image_dataset": True}, {"batch_size": few.get(opts.dataset_kwargs.resolution, 32)}


def _distance(name: str, real: Any, generated: Any) -> float:
    from experiments.metrics.base import How
    from experiments.metrics.distances import frechet
    from experiments.metrics.moments import Moments

    sides = []
    for stats, called in ((real, "real"), (generated, "generated")):
        mean, covariance = stats.get_mean_cov()
        if not math.isfinite(mean.sum() + covariance.sum()):
            _say(f"{name}: NaN, because features of {called} images are NaN or infinite.")
            return math.nan
        sides.append(Moments(mean, covariance, stats.num_items, ddof=0))
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always", UserWarning)
        value, _ = frechet(sides[0], sides[1], How())
    for note in notes:
        _say(f"{name}: {note.message}")
    return value


def _fingerprint(name: str, detector: Any, counts: dict[str, int], video: bool) -> dict[str, Any]:
    """What determines the value; also printed to stderr."""
    own = detector.fingerprint()
    digest = own["weights_sha256"][:12]
    _say(
        f"{name}: {own['backbone']}, {own['feature']}, {own['weights']} weights (sha256 {digest}...), "
        f"{counts['real_nimg']} real and {counts['generated_nimg']} generated images."
    )
    frames = {"images": "frames of videos, as the host's fid50k_full takes them"} if video else {}
    return {**own, **counts, **frames, "xflip": False, "ddof": 0, "seed": "none: the host's random stream"}


def _with_fingerprint(report_metric: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(report_metric)
    def report(result_dict: Any, *arguments: Any, **options: Any) -> None:
        name = result_dict["metric"]
        if name in FEATURES and name in _fingerprints:
            result_dict = dict(result_dict, fingerprint=_fingerprints[name])
        report_metric(result_dict, *arguments, **options)

    return report


def _detector(name: str, device: torch.device) -> torch.nn.Module:
    from experiments.metrics.extractors import detector_of

    backbone, tap = FEATURES[name]
    return detector_of(backbone, tap, device=device)


def _facts(name: str) -> dict[str, str]:
    from experiments.metrics.extractors import extractor_class
    from experiments.weights import locate

    backbone, tap = FEATURES[name]
    kind, located = extractor_class(backbone), locate([backbone])[backbone]
    return {"tap": tap, "weights_sha256": located.sha256, "resized": f"{kind.size_px} px, {kind.resize_filter}"}


def _of_experiments(url: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """function(name of the metric, *arguments); exits with one line if experiments lacks something."""
    name = url.rsplit("/", 1)[-1]
    try:
        from experiments.files import UserError
    except ImportError as error:
        fail(_missing(name, error))
    try:
        return function(name, *arguments)
    except UserError as error:
        fail(f"{name}: {error}")
    except ImportError as error:
        fail(_missing(name, error))


def _missing(name: str, error: ImportError) -> str:
    package = (error.name or "").partition(".")[0]
    return (
        f"{name}: the packages of experiments.metrics must be installed; got: {error}. Run: pip install {package}, or "
        "use the codebase's own metrics, such as fid50k_full."
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
