"""A trainer for the runner's tests: real child processes (fake_commands.py) that keep the contract, in milliseconds.

`python fake_trainer.py run|row ...` is experiments.run or experiments.row with this trainer registered.
"""

import errno
import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from experiments import jobs  # noqa: E402
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


def register() -> None:
    TRAINERS["fake"] = Fake()
    METRICS["recall"] = Metric("recall", "Recall", None, lower_is_better=False)
    jobs.ROW = (FILE, "row")


def fill_disk() -> None:
    """From now on nothing can be appended to the ledger."""
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
    importlib.import_module(f"experiments.{name}").main()


if __name__ == "__main__":
    main()
