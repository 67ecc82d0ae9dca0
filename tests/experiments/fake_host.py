"""A host for the runner's tests: a real child process that keeps the trainers' contract, in milliseconds.

Its "training" is a chain of hashes, so that a resumed run can be told from one that started again.
"""

import argparse
import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path

PICTURE = (8, 8)


def write(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def tell(event: str, kimg: int, total_kimg: int) -> None:
    print(json.dumps({"event": event, "kimg": kimg, "total_kimg": total_kimg, "elapsed_s": kimg}), flush=True)


def train(args: argparse.Namespace) -> None:
    stop: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: stop.append(received))
    args.outdir.mkdir(parents=True, exist_ok=True)
    options = {"mtm": args.mtm, "mode": args.mode, "mtm_impl": "reference"}
    write(args.outdir / "training_options.json", json.dumps(options))
    snapshot = args.outdir / "snapshot.pt"
    kimg, chain = json.loads(snapshot.read_text()) if snapshot.exists() else (0, args.mtm)
    tell("start", kimg, args.kimg)
    while kimg < args.kimg and (not stop or args.mode == "deaf"):
        time.sleep(args.tick_s)
        kimg, chain = kimg + 1, hashlib.sha256(chain.encode()).hexdigest()
        with (args.outdir / "stats.jsonl").open("a") as file:
            stats = {"kimg": kimg, "elapsed_s": kimg * 2.0, "G_loss": 1 / kimg, "path_length": 0.1}
            file.write(json.dumps(stats) + "\n")
        tell("tick", kimg, args.kimg)
        write(snapshot, json.dumps([kimg, chain]))
        crashed = args.outdir / "crashed"
        if args.mode == "crash-once" and kimg == 3 and not crashed.exists():
            crashed.touch()
            sys.exit("RuntimeError: the loss must be finite; got nan")
    if stop:
        print(f"stopped by {stop} at {kimg} kimg", flush=True)
        sys.exit(128 + stop[0])
    write(args.outdir / "final.pt", chain)


def evaluate(args: argparse.Namespace) -> None:
    from PIL import Image

    options = json.loads((args.run / "training_options.json").read_text())
    mtm, failed = options["mtm"], args.run / "failed"
    if options["mode"] == "evaluation-fails-once" and not failed.exists():
        failed.touch()
        sys.exit("ValueError: no")
    for name in ["reals", "samples"] + ["fig4", "offsets"] * (mtm != "none"):
        Image.new("RGB", PICTURE, "orange").save(args.run / f"{name}.png")
    fingerprint = {"backbone": "fake", "weights_sha256": "ab" * 32, "samples_nimg": args.samples, "ddof": 0}
    write(args.run / "metrics.json", json.dumps({"frechet": 4.0 if mtm == "none" else 5.0, "fingerprint": fingerprint}))


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
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers(required=True)
    for function in (train, evaluate, data):
        verb = verbs.add_parser(function.__name__)
        verb.set_defaults(function=function)
        for name in ("outdir", "run", "data"):
            verb.add_argument(f"--{name}", type=Path)
        for name in ("kimg", "samples", "count", "resolution", "seed"):
            verb.add_argument(f"--{name}", type=int, default=0)
        verb.add_argument("--tick-s", type=float, default=0.0)
        verb.add_argument("--mtm", default="none")
        verb.add_argument("--mode", default="good")
        if function is data:
            verb.add_argument("out", type=Path)
    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    main()
