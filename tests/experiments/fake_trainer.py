"""A trainer for the runner's tests. Its child processes (fake_commands.py) are real, keep the contract and are fast.

`python fake_trainer.py run|row|data ...` is experiments.run, experiments.row or tools.data with this trainer, its
metrics and its data set registered.
"""

import errno
import importlib
import io
import os
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import click  # noqa: E402
from PIL import Image  # noqa: E402

from experiments import data, jobs, slurm  # noqa: E402
from experiments.datasets import RECIPES  # noqa: E402
from experiments.datasets.recipe import Recipe  # noqa: E402
from experiments.datasets.zips import DatasetInfo, describe  # noqa: E402
from experiments.metrics import METRICS  # noqa: E402
from experiments.metrics.base import Metric  # noqa: E402
from experiments.trainers import TRAINERS  # noqa: E402
from experiments.trainers.contract import IMAGES, Run, Step  # noqa: E402
from experiments.trainers.contract import METRICS as METRICS_FOLDER  # noqa: E402
from experiments.trainers.mini import SNAPSHOT, Mini  # noqa: E402

FILE = str(Path(__file__).resolve())
COMMANDS = str(Path(FILE).with_name("fake_commands.py"))


class Fake(Mini):
    name = "fake"
    command = (os.environ.get("FAKE_COMMAND", "python"), COMMANDS, "train")

    def snapshot(self, run: Run) -> Path | None:
        path = run.train / SNAPSHOT
        return path if path.exists() and path.stat().st_size else None

    def metric_steps(self, run: Run, snapshot: str, missing: list[str]) -> Iterator[Step]:
        if missing:
            words = [f"--mtm={run.mtm}", f"--mode={run.options.get('mode', 'good')}", f"--samples={run.samples_nimg}"]
            folder = f"--outdir={run.folder / METRICS_FOLDER}"
            argv = ["python", COMMANDS, "measure", folder, f"--metrics={','.join(missing)}", *words]
            yield Step(name="metrics", argv=argv)

    def image_steps(self, run: Run, snapshot: str) -> Iterator[Step]:
        argv = ["python", COMMANDS, "draw", f"--mtm={run.mtm}", f"--outdir={run.folder / IMAGES}"]
        yield Step(name="images", argv=argv)

    def gpus(self, run: Run) -> int:
        return int(run.options.get("gpus", 0))


def make_shapes(source: None, file: Path, resolution: int, count: int, slow: bool) -> DatasetInfo:
    time.sleep(30 if slow else 0)
    with zipfile.ZipFile(file, "w") as archive:
        for i in range(count):
            buffer = io.BytesIO()
            Image.new("RGB", (resolution,) * 2, (i, 0, 0)).save(buffer, "png")
            archive.writestr(f"00000/img{i:08d}.png", buffer.getvalue())
        archive.writestr("dataset.json", '{"labels": null}')
    return describe(file)


SHAPES = Recipe(
    name="shapes",
    title="Shapes.",
    make=make_shapes,
    obtain="Nothing to obtain.",
    licence="CC BY-SA 4.0",
    credit="Images: Nobody, CC BY-SA 4.0.",
    takes_source=False,
    options=(
        click.Option(["--resolution"], type=int, default=8),
        click.Option(["--count"], type=int, default=4),
        click.Option(["--slow"], is_flag=True),
    ),
)


def register() -> None:
    TRAINERS["fake"] = Fake()
    RECIPES["shapes"] = SHAPES
    data.TOOL = (FILE, "data")
    METRICS["recall"] = Metric("recall", "Recall", None, lower_is_better=False)
    jobs.ROW = (FILE, "row")
    slurm.POLL_S = 0.5


def fill_disk() -> None:
    """Make every later append to the ledger fail."""
    from experiments import ledger

    def full(_path: Path, _entry: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    append = ledger.append_entry

    def append_on_full_disk(path: Path, entry: dict) -> None:
        real, ledger.os.write = os.write, full
        try:
            append(path, entry)
        finally:
            ledger.os.write = real

    ledger.append_entry = append_on_full_disk


def main() -> None:
    register()
    name = sys.argv.pop(1)
    if name == "row" and f"/runs/{os.environ.get('FAKE_FULL_DISK')}/" in sys.argv[1]:
        fill_disk()
    importlib.import_module("tools.data" if name == "data" else f"experiments.{name}").main()


if __name__ == "__main__":
    main()
