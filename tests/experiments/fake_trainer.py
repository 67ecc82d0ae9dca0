"""A trainer for the runner's tests: real child processes that keep the contract, in milliseconds.

`python fake_trainer.py run|row ...` is experiments.run or experiments.row with this trainer registered; train, measure,
draw and data are the commands of its steps. Its "training" is a chain of hashes, so that a resumed run can be told
from one that started again.
"""

import argparse
import hashlib
import json
import os
import signal
import sys
import time
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
IMAGE_SIZE = (8, 8)


class Fake(Mini):
    name = "fake"
    command = (os.environ.get("FAKE_COMMAND", "python"), FILE, "train")

    def snapshot(self, run: Run) -> Path | None:
        path = run.train / SNAPSHOT
        return path if path.exists() and path.stat().st_size else None

    def metric_steps(self, run: Run, snapshot: str, missing: list[str]) -> Iterator[Step]:
        if missing:
            words = [f"--mtm={run.mtm}", f"--mode={run.options.get('mode', 'good')}", f"--samples={run.samples_nimg}"]
            folder = f"--outdir={run.folder / METRICS_FOLDER}"
            argv = ["python", FILE, "measure", folder, f"--metrics={','.join(missing)}", *words]
            yield Step(name="metrics", argv=argv)

    def image_steps(self, run: Run, snapshot: str) -> Iterator[Step]:
        argv = ["python", FILE, "draw", f"--mtm={run.mtm}", f"--outdir={run.folder / IMAGES}"]
        yield Step(name="images", argv=argv)

    def gpus(self, run: Run) -> int:
        return int(run.options.get("gpus", 0))


def register() -> None:
    TRAINERS["fake"] = Fake()
    METRICS["recall"] = Metric("recall", "Recall", None, lower_is_better=False)
    jobs.ROW = (FILE, "row")


def fill_disk() -> None:
    """From now on nothing can be appended to the ledger."""
    import errno

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


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def train(args: argparse.Namespace) -> None:
    stop: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: stop.append(received))
    options = {
        "mtm": args.mtm,
        "mode": args.mode,
        "mtm_impl": "reference",
        "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
    }
    write(
        args.outdir / "training_options.json",
        json.dumps(options | ({"nan": float("nan")} if args.mode == "nan" else {})),
    )
    snapshot = args.outdir / "snapshot.pt"
    kimg, chain = json.loads(snapshot.read_text()) if snapshot.exists() else (0, args.mtm)
    print("pid", os.getpid(), flush=True)
    while kimg < args.kimg and (not stop or args.mode == "deaf"):
        time.sleep(args.tick_s)
        kimg, chain = kimg + 1, hashlib.sha256(chain.encode()).hexdigest()
        with (args.outdir / "stats.jsonl").open("a") as file:
            stats = {"kimg": kimg, "elapsed_s": kimg * 2.0, "G_loss": 1 / kimg, "path_length": 0.1}
            file.write(json.dumps(stats) + "\n")
        write(snapshot, json.dumps([kimg, chain]))
        crashed = args.outdir / "crashed"
        if args.mode == "crash-once" and kimg == 3 and not crashed.exists():
            crashed.touch()
            sys.exit("RuntimeError: the loss must be finite; got nan")
    if stop:
        print(f"stopped by {stop} at {kimg} kimg", flush=True)
        sys.exit(128 + stop[0])
    if args.mode == "null-kimg":
        with (args.outdir / "stats.jsonl").open("a") as file:
            file.write('{"kimg": null}\n')
    if args.mode != "no-result":
        write(args.outdir / "final.pt", chain)


def measure(args: argparse.Namespace) -> None:
    failed = args.outdir / "failed"
    if args.mode == "measuring-fails-once" and not failed.exists():
        write(failed, "")
        sys.exit("ValueError: no")
    values: dict[str, object] = {"frechet": 4.0 if args.mtm == "none" else 5.0, "recall": 0.5}
    values |= {"nan": {"frechet": float("nan")}, "text": {"frechet": "abc"}, "list": {"frechet": [1]}}.get(
        args.mode, {}
    )
    ddof = 1 if args.mode == "other-way" else 0
    fingerprint = {"backbone": "fake", "weights_sha256": "ab" * 32, "generated_nimg": args.samples, "ddof": ddof}
    for name in args.metrics.split(","):
        if not (args.mode == "no-recall" and name == "recall"):
            write(args.outdir / f"{name}.json", json.dumps({"value": values[name], "fingerprint": fingerprint}))


def draw(args: argparse.Namespace) -> None:
    from PIL import Image

    args.outdir.mkdir(parents=True, exist_ok=True)
    for name in ["reals", "samples"] + ["fig4", "offsets"] * (args.mtm != "none"):
        Image.new("RGB", IMAGE_SIZE, "orange").save(args.outdir / f"{name}.png")


def data(args: argparse.Namespace) -> None:
    import io
    import zipfile

    from PIL import Image

    time.sleep(30 if args.mode == "slow" else 0)
    with zipfile.ZipFile(args.out, "w") as archive:
        for i in range(args.count):
            buffer = io.BytesIO()
            Image.new("RGB", (args.resolution,) * 2, (i, 0, 0)).save(buffer, "png")
            archive.writestr(f"00000/img{i:08d}.png", buffer.getvalue())
        archive.writestr("dataset.json", '{"labels": null}')


def main() -> None:
    if sys.argv[1] in ("run", "row"):
        import importlib

        register()
        name = sys.argv.pop(1)
        if name == "row" and f"/runs/{os.environ.get('FAKE_FULL_DISK')}/" in sys.argv[1]:
            fill_disk()
        importlib.import_module(f"experiments.{name}").main()
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers(required=True)
    for function in (train, measure, draw, data):
        verb = verbs.add_parser(function.__name__)
        verb.set_defaults(function=function)
        for name in ("outdir", "data", "out"):
            verb.add_argument(f"--{name}", type=Path)
        for name in ("kimg", "samples", "count", "resolution", "seed", "gpus"):
            verb.add_argument(f"--{name}", type=int, default=0)
        verb.add_argument("--tick-s", type=float, default=0.0)
        for name in ("mtm", "mode", "metrics"):
            verb.add_argument(f"--{name}", default="none")
    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    main()
