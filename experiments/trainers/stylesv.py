"""The official StyleSV, in its two stages: images first, then videos from there.

A row's `kimg`, in thousands of frames as the host counts, is the length of both stages together, and `stage1-kimg`
that of the first. If `stage1-kimg` is 0, only the second stage is trained; if it is absent, there is one stage with
the row's options. STAGES holds the options of the official scripts for each stage. A row may override them for both
stages, or for one with "stage1.<key>" or "stage2.<key>".
"""

from pathlib import Path

from experiments.checked import Value
from experiments.files import UserError
from experiments.trainers.contract import Run, Step
from experiments.trainers.hydra import Hydra
from experiments.trainers.official import LEAST_KIMG, left_kimg, set_length
from experiments.trainers.starts import start_of

STAGES: dict[int, dict[str, Value]] = {
    1: {
        "frames": 1,
        "gamma": 0.5,
        "aug": "ada",
        "augpipe": "bgc",
        "model.generator.learnable_motion_mask": False,
        "model.discriminator.tsm": False,
        "model.discriminator.tmean": True,
    },
    2: {
        "frames": 3,
        "gamma": 8,
        "aug": "noaug",
        "model.generator.learnable_motion_mask": True,
        "model.discriminator.tsm": True,
        "model.discriminator.tmean": True,
    },
}


class StyleSV(Hydra):
    name = "stylesv"
    host = "stylesv"
    dataset = "sky_timelapse"

    def check(self, run: Run) -> None:
        first, both = (run.options.get(name) for name in ("stage1-kimg", "kimg"))
        if first not in (None, 0) and not 0 < _number(first) < _number(both):
            raise UserError(
                f"run: row {run.row} must have more kimg in both stages than in the first; got stage1-kimg = {first}, "
                f"kimg = {both}. Correct them, or leave stage1-kimg out for one stage."
            )
        super().check(run)

    def stage(self, path: Path) -> str:
        return start_of(path)[6:]

    def train_step(self, run: Run) -> Step:
        if "stage1-kimg" not in run.options:
            return super().train_step(run)
        first_kimg = float(run.options["stage1-kimg"])
        if not first_kimg:
            return super().train_step(run.model_copy(update={"options": _of_stage(2, run.options)}))
        last = self.to_resume(run)
        stage = 1 if last is None or last.kimg < first_kimg - LEAST_KIMG / 2 else 2
        options = {"gpus": 1, "metrics": "none", **_of_stage(stage, run.options), "seed": run.seed}
        kimg, environment = (
            float(run.options["kimg"]) if stage == 2 else first_kimg,
            self.train_environment(run, options),
        )
        if last is not None:
            options["resume"] = str(last.path.resolve())
            if start_of(last.path).endswith(f"stage{stage}") and last.exact:
                kimg = left_kimg(kimg, last.offset_kimg)  # the host counts the kimg of each stage from 0
            else:
                kimg = left_kimg(kimg, last.kimg)
                environment["MTM_RESUME"] = "weights"  # the state of the first stage has other options
        set_length(kimg, options, environment)
        frames = self.spell("frames", options.pop("frames"))
        argv = self.train_argv(run, options, f"stage{stage}")
        argv[2:2] = [frames]  # in front, because the runner tells the stages apart by the command's beginning
        return self.launched(argv, environment, int(options["gpus"]))


def _number(value: Value | None) -> float:
    """The value as a number; 0 if it is not one."""
    return float(value) if isinstance(value, int | float) else 0.0


def _of_stage(stage: int, options: dict[str, Value]) -> dict[str, Value]:
    """The options of a stage: the official ones, overridden by the row's options for both stages, then by those for
    this stage."""
    prefixes = {"stage1.": 1, "stage2.": 2}
    both = {k: v for k, v in options.items() if k[:7] not in prefixes and k not in ("stage1-kimg", "threads")}
    own = {k[7:]: v for k, v in options.items() if prefixes.get(k[:7]) == stage}
    return {**STAGES[stage], **both, **own}


TRAINER = StyleSV()
