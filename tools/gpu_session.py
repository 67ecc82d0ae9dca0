"""make gpu-session: everything that needs a GPU, in steps, on a machine with little installed and no network.

    python3 -m tools.gpu_session --steps 'probe test'

Unpacks the output of make gpu-bundle, if there is one, and runs the steps of tools/gpu_steps.py one after another, each
for its maximum time. If a step fails, the others still run. The results are written after each step:

    OUT/session.json     machine, source, and the state, seconds and numbers of each step
    OUT/summary.txt      a line per step
    OUT/files.tar.gz     logs, and the trainings' reports, images and ledger

Name steps to continue later: a training resumes where it was. Starting needs only Python's standard library.
"""

import argparse
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.gpu_steps import NOT_HERE, STEPS, Step, ledger_lines, numbers_of, read_steps

ROOT = Path(__file__).resolve().parents[1]
BUNDLE, WHEELS, HOST, DATA, NOTE = ".gpu", "wheels", "stylegan3.tar.gz", "data.tar.gz", "bundle.json"
SOURCE = ("mtm_ops", "mtm_hosts", "overlay", "patches", "experiments", "tools", "tests/gpu", "tests/ops")
MOST_BYTES = 14 << 20  # limit for files.tar.gz
LOOK_S = 60.0  # time for torch to detect a GPU: a broken driver may hang
GRACE_S, KILL_S = 15.0, 5.0  # time for a step to save what it has; then time to exit at once
Result = dict[str, Any]
LOOK = """
import json, torch
from tools.gpu import why_no_gpu
why = why_no_gpu()
name = None if why else torch.cuda.get_device_name()
print(json.dumps({"why": why, "gpu": name, "torch": torch.__version__, "cuda": torch.version.cuda}))
"""


def source_sha256(root: Path) -> str:
    """Hash of all files that a step can run, by path and content."""
    digest = hashlib.sha256()
    for folder in SOURCE:
        for file in sorted((root / folder).rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                content = hashlib.sha256(file.read_bytes()).hexdigest()
                digest.update(f"{file.relative_to(root).as_posix()} {content}\n".encode())
    return digest.hexdigest()


class Session:
    """One run of this command: its settings, and the results of its steps so far."""

    def __init__(self, out: Path, work: Path, bundle: Path, preset: str) -> None:
        self.out, self.work, self.bundle, self.preset = out.resolve(), work.resolve(), bundle.resolve(), preset
        self.train, self.logs, self.site = self.work / "train", self.work / "logs", self.work / "site"
        for folder in (self.out, self.logs):
            folder.mkdir(parents=True, exist_ok=True)
        self.note: Result = {}
        self.results: dict[str, Result] = read_steps(self.out) if (self.out / "session.json").exists() else {}
        self.unwritten = False
        self.env = self._environment()
        self.no_gpu: str | None = None
        self.where: Result = {}  # the GPU and torch

    def _environment(self) -> dict[str, str]:
        """The steps' environment: our packages first, every cache in `work`, and no registry."""
        cache = self.work / "cache"
        paths = [str(self.site / "bin"), os.environ.get("PATH", ""), "/usr/local/cuda/bin"]
        env = {**os.environ, "PATH": os.pathsep.join(paths), "PYTHONPATH": f"{self.site}{os.pathsep}{ROOT}"}
        env |= {"PYTHONUNBUFFERED": "1", "PIP_NO_INDEX": "1", "XDG_CACHE_HOME": str(cache)}
        folders = ("MTM_CACHE_DIR", "TORCH_EXTENSIONS_DIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
        for name in (*folders, "CUDA_CACHE_PATH", "MPLCONFIGDIR"):
            env.setdefault(name, str(cache / name.lower()))
        return env

    def unpack(self) -> None:
        """Puts the bundle's parts where the steps look for them. Raises RuntimeError if that fails."""
        if not (self.bundle / NOTE).exists():
            print(f"no {self.bundle.name}/{NOTE}: this interpreter's packages, and vendor/ as it is", flush=True)
            return
        self.note = json.loads((self.bundle / NOTE).read_text(encoding="utf-8"))
        self._install()
        vendor = ROOT / "vendor" / "stylegan3"
        if not (vendor / "train.py").exists():
            _extract(self.bundle / HOST, vendor)
        if not (self.work / "data" / self.note["data"]).exists():
            _extract(self.bundle / DATA, self.work / "data")
        source = self.note["source"]
        if source["commit"] and not source["dirty"] and source["sha256"] == source_sha256(ROOT):
            self.env["MTM_COMMIT"] = source["commit"]

    def _install(self) -> None:
        wheels = sorted((self.bundle / WHEELS).glob("*.whl"))
        stamp, names = self.site / ".installed", "\n".join(wheel.name for wheel in wheels)
        if stamp.exists() and stamp.read_text(encoding="utf-8") == names:
            return
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
        command += ["--no-cache-dir", "--disable-pip-version-check", "--upgrade", "--target", str(self.site)]
        done = subprocess.run([*command, *map(str, wheels)], env=self.env, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"the wheels could not be installed:\n{done.stdout}{done.stderr}")
        stamp.write_text(names, encoding="utf-8")

    def look_for_gpu(self) -> None:
        """Records the GPU, or why there is none."""
        log_path = self.work / "look.log"
        with log_path.open("wb") as log:
            code = run_for([sys.executable, "-c", LOOK], LOOK_S, self.env, log)
        lines = log_path.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["it printed nothing"]
        if code is None:
            self.no_gpu = f"torch did not say within {LOOK_S:.0f} s whether there is one"
        elif code:
            self.no_gpu = lines[-1]
        else:
            self.where = json.loads(next(line for line in reversed(lines) if line.startswith("{")))
            self.no_gpu = self.where.pop("why")

    def do(self, step: Step, limit_s: float) -> None:
        """Runs the step, and writes its result."""
        needs_gpu = step.needs_gpu and not (step.row and self.preset == "smoke")
        if needs_gpu and self.no_gpu:
            result: Result = {"state": "not run", "seconds": 0.0, "figure": f"no GPU: {self.no_gpu}", "numbers": {}}
        elif limit_s <= 0:
            result = {"state": "not run", "seconds": 0.0, "figure": "no time was left", "numbers": {}}
        else:
            result = self._run(step, limit_s)
        now = time.strftime("%Y-%m-%d", time.gmtime())
        facts = {**self.where, "commit": self.env.get("MTM_COMMIT"), "date": now}
        self.results[step.name] = result | {"preset": self.preset if step.row else None, "where": facts}
        self.try_to_write()

    def _run(self, step: Step, limit_s: float) -> Result:
        json_path, log_path = self.logs / f"{step.name}.json", self.logs / f"{step.name}.log"
        json_path.unlink(missing_ok=True)
        words = {"PYTHON": sys.executable, "JSON": str(json_path), "DATA": str(self._data()), "TRAIN": str(self.train)}
        words["PRESET"] = self.preset
        argv = [words.get(word, word) for word in step.argv]
        before = len(ledger_lines(self.train))
        started_s = time.monotonic()
        with log_path.open("wb") as log:
            code = run_for([*argv], limit_s, self.env, log)
        seconds = time.monotonic() - started_s
        text = log_path.read_text(encoding="utf-8", errors="replace")
        # If it is already done, it adds no new line; if it fails early, an earlier attempt's numbers must not be shown.
        numbers = numbers_of(step, json_path, self.train, since=0 if code == 0 else before)
        said = ([line.strip() for line in text.splitlines() if line.strip()] or [""])[-1]
        state = {0: "done", NOT_HERE: "not run", None: "timed out"}.get(code, "failed")
        figure = said if state == "not run" else step.figure(text, numbers) or said
        return {"state": state, "seconds": round(seconds, 1), "figure": figure, "exit_code": code, "numbers": numbers}

    def _data(self) -> Path:
        return self.work / "data" if self.note else ROOT / "data"

    def summary(self) -> str:
        """A line per step: its state, seconds and figure."""
        lines = [f"{'step':14}{'state':11}{'s':>6}  figure"]
        for step in STEPS:
            if (result := self.results.get(step.name)) is not None:
                figure = " ".join(str(result["figure"]).split())[:150]
                lines.append(f"{step.name:14}{result['state']:11}{result['seconds']:6.0f}  {figure}")
        return "\n".join(lines)

    def try_to_write(self) -> None:
        """`write`; if it fails (e.g. a full disk), the next step's may succeed, and includes this step's results."""
        try:
            self.write()
            self.unwritten = False
        except OSError as error:
            self.unwritten = True
            print(f"gpu-session: {self.out} could not be written: {error}.", file=sys.stderr, flush=True)

    def write(self) -> None:
        """Writes OUT's files, each completely or not at all."""
        facts = {"schema": 1, "source": self.note.get("source"), "packages": self.note.get("packages")}
        kept, left_out = self._kept()
        facts |= {"left_out": [file.relative_to(self.work).as_posix() for file in left_out], "steps": self.results}
        text = json.dumps(facts, indent=1)
        for name, folder in (("WORK", self.work), ("REPOSITORY", ROOT), ("PYTHON", Path(sys.prefix))):
            text = text.replace(str(folder), name)
        _replace(self.out / "session.json", f"{text}\n".encode())
        _replace(self.out / "summary.txt", f"{self.summary()}\n".encode())
        archive = self.out / ".files.tar.gz"
        with tarfile.open(archive, "w:gz", compresslevel=6) as tar:
            for file in kept:
                tar.add(file, file.relative_to(self.work).as_posix())
        os.replace(archive, self.out / "files.tar.gz")

    def _kept(self) -> tuple[list[Path], list[Path]]:
        """(kept, left out): logs and the trainings' files except snapshots. The smallest are kept, up to MOST_BYTES."""
        files = [file for folder in (self.logs, self.train) for file in folder.rglob("*") if file.is_file()]
        files = [file for file in files if file.suffix not in (".pkl", ".pt")]
        kept, left_out, total = list[Path](), list[Path](), 0
        for file in sorted(files, key=lambda file: (file.stat().st_size, file)):
            total += file.stat().st_size
            (kept if total <= MOST_BYTES else left_out).append(file)
        return kept, left_out


def run_for(argv: Sequence[str], limit_s: float, env: dict[str, str], log: Any) -> int | None:
    """The command's exit code; None if it ran out of time. SIGINT ends it first, so that it saves what it has."""
    process = subprocess.Popen(
        argv, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return None
    finally:  # also if this session is interrupted
        _end(process)


def _end(process: subprocess.Popen) -> None:
    """Ends the command and any processes that it left behind: a GPU in use by others gives no valid times."""
    try:
        for patience_s in (GRACE_S, KILL_S):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(patience_s)
    finally:
        with contextlib.suppress(ProcessLookupError):  # no process is left
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(KILL_S)


def _extract(archive: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}")
    temporary.write_bytes(data)
    os.replace(temporary, path)


def chosen(names: str) -> list[Step]:
    """The steps with these names, in the order of STEPS. Raises ValueError for an unknown name."""
    known = {step.name: step for step in STEPS}
    if unknown := [name for name in names.split() if name not in known]:
        raise ValueError(f"gpu-session: steps must be of {', '.join(known)}; got {', '.join(unknown)}.")
    return [step for step in STEPS if not names.split() or step.name in names.split()]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the chosen steps; the exit code is not 0 if one failed."""
    parser = argparse.ArgumentParser(prog="gpu-session", description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--steps", default="", help="names, separated by spaces; default: all")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "gpu", help="folder for the results")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "gpu-work", help="packages, builds, snapshots")
    parser.add_argument("--bundle", type=Path, default=ROOT / BUNDLE, help="the output of make gpu-bundle")
    parser.add_argument("--preset", default="full", help="preset of the trainings: full, long, or smoke on a CPU")
    parser.add_argument("--limit-s", type=float, default=1e9, help="for all steps together, seconds")
    given = parser.parse_args(arguments)
    end_s = time.monotonic() + given.limit_s
    try:
        steps = chosen(given.steps)
        session = Session(given.out, given.work, given.bundle, given.preset)
        session.unpack()
    except (ValueError, RuntimeError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    try:
        session.look_for_gpu()
        for step in steps:
            left_s = end_s - time.monotonic() - GRACE_S - 2 * KILL_S  # time to end the step, and to write its result
            print(f"{step.name} ...", end=" ", flush=True)
            session.do(step, min(step.limit_s, left_s))
            print(f"{session.results[step.name]['state']}, {session.results[step.name]['seconds']:.0f} s", flush=True)
    except KeyboardInterrupt:
        session.try_to_write()
        print("interrupted. Name the steps that are left to go on.", file=sys.stderr)
        return 130
    print(f"\n{session.summary()}", flush=True)
    bad = any(session.results[step.name]["state"] in ("failed", "timed out") for step in steps)
    return int(bad or session.unwritten)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C: a step must not outlive its session
    sys.exit(main())
