"""Commands of the tests' trainer (fake_trainer.py): train, measure and draw. They import little, so they start fast.

The "training" is a chain of hashes, which tells a resumed run from one that started again.
"""

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

IMAGE_SIZE = (8, 8)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def train(args: argparse.Namespace) -> None:
    stop: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: stop.append(received))
    options = {"mtm": args.mtm, "mode": args.mode, "gpus": os.environ.get("CUDA_VISIBLE_DEVICES")}
    options |= {"not_finite": float("nan")} if args.mode == "nan" else {}
    write(args.outdir / "training_options.json", json.dumps(options))
    snapshot = args.outdir / "snapshot.pt"
    kimg, chain = json.loads(snapshot.read_text()) if snapshot.exists() else (0, args.mtm)
    print("pid", os.getpid(), flush=True)
    if args.mode == "worker":
        print("worker", subprocess.Popen(["sleep", "1000"]).pid, flush=True)
    while kimg < args.kimg and (not stop or args.mode == "deaf"):
        time.sleep(args.tick_s)
        while (args.outdir / "hold").exists():  # the test removes it
            time.sleep(0.05)
        kimg, chain = kimg + 1, hashlib.sha256(chain.encode()).hexdigest()
        if args.mode == "saves-nothing":
            continue
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
    wrong = {"nan": float("nan"), "text": "abc", "list": [1]}
    values |= {"frechet": wrong[args.mode]} if args.mode in wrong else {}
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


def main() -> None:
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers(required=True)
    for function in (train, measure, draw):
        verb = verbs.add_parser(function.__name__)
        verb.set_defaults(function=function)
        for name in ("outdir", "data"):
            verb.add_argument(f"--{name}", type=Path)
        for name in ("kimg", "samples", "seed", "gpus"):
            verb.add_argument(f"--{name}", type=int, default=0)
        verb.add_argument("--tick-s", type=float, default=0.0)
        for name in ("mtm", "mode", "metrics"):
            verb.add_argument(f"--{name}", default="none")
    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    main()
