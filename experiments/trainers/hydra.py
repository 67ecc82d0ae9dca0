"""The video hosts, whose options are read by Hydra: src/infra/launch.py makes a folder for each start and trains in it.

A row's options are Hydra's keys, such as "model.generator.fmaps". Keys without a dot belong to the group `training`
(kimg, snap, aug, fp32, ...), except those in NAMES, which are spelt as in the other tables.
"""

import re
import shlex
import sys
from pathlib import Path

from experiments.checked import Value
from experiments.trainers.contract import Run, Step
from experiments.trainers.nodes import on_nodes
from experiments.trainers.official import Official
from experiments.trainers.starts import starts

NAMES = {
    "gpus": "num_gpus",
    "batch": "training.batch_size",
    "workers": "training.num_workers",
    "resolution": "dataset.resolution",
    "frames": "sampling.num_frames_per_video",
    "gamma": "model.loss_kwargs.r1_gamma",
    "mtm": "mtm",
    "mtm-head": "mtm_head",
    "dataset": "dataset",
    "project_release_dir": "project_release_dir",
}
# Keeps Hydra from making folders and log files.
QUIET = "hydra.run.dir=. hydra.output_subdir=null hydra/job_logging=disabled hydra/hydra_logging=disabled".split()


class Hydra(Official):
    """Base class of both video hosts."""

    script = "src/infra/launch.py"
    dataset: str  # one of the host's data set configurations; its path and resolution are overridden

    def output(self, start: Path) -> Path:
        return start / "output"

    def spell(self, key: str, value: Value) -> str:
        name = key if "." in key else NAMES.get(key) or f"training.{key.replace('-', '_')}"
        return f"{name}={spell(value)}"

    def train_argv(self, run: Run, options: dict[str, Value], kind: str = "") -> list[str]:
        """The command for a start in a new folder, because launch.py overwrites an existing one. `kind` becomes part of
        the folder's name."""
        last = max((int(folder.name[:5]) for folder in starts(run)), default=-1)
        folder = run.train.resolve() / f"{last + 1:05d}-{kind or self.name}"
        names = str(options["metrics"])
        metrics = "[]" if names == "none" else names if names.startswith("[") else f"[{names}]"
        words = {"dataset": self.dataset, **options, "metrics": metrics, "dataset.path": str(run.data.resolve())}
        words["project_release_dir"] = str(folder)
        return ["python", self.script, "env=local", *[self.spell(k, v) for k, v in words.items()], *QUIET]

    def launched(self, argv: list[str], environment: dict[str, str], gpus: int) -> Step:
        """The training's step. On several machines launch.py starts the training with the command in MTM_LAUNCHER."""
        launcher = on_nodes([sys.executable], gpus)
        several = {"MTM_LAUNCHER": shlex.join(launcher)} if len(launcher) > 1 else {}
        return Step(name="train", argv=argv, cwd=self.cwd, env=environment | several)

    def metrics_argv(self, run: Run, snapshot: str, missing: list[str]) -> list[str]:
        words: dict[str, Value] = {
            "network_pkl": snapshot,
            "metrics": ",".join(missing),
            "data": str(run.data.resolve()),
        }
        words["gpus"] = self.gpus(run)
        return ["python", "src/scripts/calc_metrics.py", *[f"--{key}={value}" for key, value in words.items()]]


def spell(value: Value) -> str:
    """A value as Hydra reads it.

    >>> [spell(v) for v in (True, 0.5, "low", "low,mid", "[]", "/a folder/d.zip", "offset+mask")]
    ['true', '0.5', 'low', '[low,mid]', '[]', "'/a folder/d.zip'", 'offset+mask']
    """
    if isinstance(value, bool) or not isinstance(value, str):
        return str(value).lower()
    if re.fullmatch(r"[\w./+-]*|\[[\w.,]*\]", value):
        return value
    if re.fullmatch(r"[\w.,]+", value):
        return f"[{value}]"
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
