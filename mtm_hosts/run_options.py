"""The options of a training, as a state stores them: those that must not change when the run resumes."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mtm_hosts.hosts import fail

# The loops' arguments that determine what the next iteration computes.
_OPTIONS = (
    *("G_kwargs", "D_kwargs", "G_opt_kwargs", "D_opt_kwargs", "loss_kwargs", "augment_kwargs", "training_set_kwargs"),
    *("random_seed", "num_gpus", "batch_size", "batch_gpu", "ema_kimg", "ema_rampup", "G_reg_interval"),
    *("D_reg_interval", "augment_p", "ada_target", "ada_interval", "ada_kimg", "ada_linear"),
)
# What the hosts change for any --resume, because there it starts a new run: (argument, key in it).
_CHANGED = (
    ("ada_kimg", None),
    ("ema_rampup", None),
    ("loss_kwargs", "blur_init_sigma"),
    ("loss_kwargs", "gpc_reg_fade_kimg"),
)
# These have no effect on the result: where the data lies, and the video hosts' whole configuration, with its paths.
_LEFT_OUT = {"training_set_kwargs": ("path",), "loss_kwargs": ("cfg",)}
_PLACES = ("path", "path_for_slurm_job", "confpath", "dataset_jsonpath")


def shorten(c: Any) -> None:
    """If MTM_KIMG is set, it sets the training's length; then there is a snapshot at least once by the middle.

    Raises:
        SystemExit: if it is not a number above 0.
    """
    text = os.environ.get("MTM_KIMG")
    if not text:
        return
    try:
        kimg = float(text)
    except ValueError:
        kimg = 0.0
    if not 0 < kimg < float("inf"):
        fail(f"MTM_KIMG must be a number above 0, thousands of images to train for; got {text!r}. Correct it.")
    c.total_kimg, c.kimg_per_tick = kimg, min(c.get("kimg_per_tick", kimg), kimg / 2)
    print(f"Training duration: {kimg:g} kimg, as MTM_KIMG says")


def keep(c: Any, options: Mapping[str, Any]) -> None:
    """Undoes what the host changed for --resume: the run continues with its own values."""
    for name, key in _CHANGED:
        if key is None:
            c[name] = options[name]
        elif key in options[name]:
            c[name][key] = options[name][key]
        else:
            c[name].pop(key, None)


def refuse_others(pkl: str, options: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    here = plain({name: now[name] for name in options if name in now})
    different = list(_differences({name: options[name] for name in here}, here))
    if different:
        fail(
            f"--resume: {pkl} continues exactly, so its options must stay; got {'; '.join(different)}. Pass the "
            "options that it was trained with, or set MTM_RESUME=weights to start anew from the weights alone."
        )


def _differences(before: Any, now: Any, name: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*before, *now]):
            yield from _differences(before.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif before != now:
        yield f"{name} {now}, which was {before}"


def of(loop: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a state stores, from the loop's locals()."""
    # The workers of the video hosts' data loaders draw at random, each for the clips assigned to it.
    names = (*_OPTIONS, "data_loader_kwargs") if "cfg" in loop else _OPTIONS
    return plain({name: loop[name] for name in names if name in loop})


def plain(value: Any, name: str = "", inside: str = "") -> Any:
    """Options as plain data, without those in `_LEFT_OUT` and the paths in a data set's configuration."""
    if isinstance(value, Mapping):
        left_out = _LEFT_OUT.get(name, _PLACES if (inside, name) == ("training_set_kwargs", "cfg") else ())
        return {str(key): plain(v, str(key), name) for key, v in value.items() if key not in left_out}
    if isinstance(value, Sequence) and not isinstance(value, str):  # Hydra's ListConfig is not a list
        return [plain(v) for v in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def write(loop: Mapping[str, Any]) -> None:
    """training_options.json in the run's folder, for the video hosts, whose configuration lies elsewhere."""
    if "cfg" not in loop or loop["rank"] > 0:
        return
    asked = ("run_dir", "resume_pkl", "total_kimg", "kimg_per_tick", "network_snapshot_ticks", "data_loader_kwargs")
    chosen = of(loop) | plain({name: loop[name] for name in (*asked, "metrics")})
    chosen["training_set_kwargs"]["path"] = loop["training_set_kwargs"]["path"]
    Path(loop["run_dir"], "training_options.json").write_text(json.dumps(chosen, indent=2))
