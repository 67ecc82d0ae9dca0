"""The steps of a GPU session, in order: what each runs, its time limit, and the figure that summarises it.

Imports only Python's standard library, like tools/gpu_session.py: at first, a bare machine has nothing else.
"""

import csv
import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NOT_HERE = 77  # a step's exit code if the machine lacks what it needs; its last line says what
Numbers = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """In `argv`, PYTHON, JSON (the file with its numbers), DATA, TRAIN and PRESET are placeholders."""

    name: str
    argv: tuple[str, ...]
    limit_s: int
    figure: Callable[[str, Numbers], str]  # from what it printed and its numbers
    row: str = ""  # row of experiments/tables/gpu.toml that it trains
    needs_gpu: bool = True


def _tests(log: str, _: Numbers) -> str:
    found = re.findall(r"^=*\s*(\d+ (?:passed|failed|error|skipped).*?)\s*=*$", log, re.MULTILINE)
    return found[-1] if found else ""


def _bench(_: str, numbers: Numbers) -> str:
    both = "forward+backward"
    found = []
    for layer in numbers.get("layers", []):
        if (layer["side"], layer["batch"], layer["layout"]) == (32, 32, "nchw") and both in layer["ms"]:
            found.append(f"{layer['kind']} {layer['ms'][both]['ours'] / layer['ms'][both]['plain']:.2f}x")
    return f"{both} at 32x32, ours/plain: {', '.join(found)}" if found else ""


def _table4(_: str, numbers: Numbers) -> str:
    settings = numbers.get("settings", {})
    return ", ".join(f"{name} {s['training_ratio']:.2f}x" for name, s in settings.items() if name != "none")


def _plugins(_: str, numbers: Numbers) -> str:
    return ", ".join(f"{name} {p['seconds']:.0f} s, off by {p['error']:.1e}" for name, p in numbers.items())


def _profile(_: str, numbers: Numbers) -> str:
    kernels = [k for group in numbers.values() if isinstance(group, list) for k in group]
    most = max(kernels, key=lambda k: k["us"], default=None)
    return f"{len(kernels)} kernels; the longest is {most['name']}, {most['us']:.0f} us" if most else ""


def _trained(_: str, numbers: Numbers) -> str:
    metrics = {name: m["value"] for name, m in numbers.get("metrics", {}).items()}
    values = [f"{name} {value:.4g}" for name, value in metrics.items() if value is not None]
    values += [f"{numbers['s_per_kimg']:.3g} s/kimg"] if numbers.get("s_per_kimg") else []
    return ", ".join([f"{numbers['kimg']:.4g} kimg", *values]) if numbers.get("kimg") is not None else ""


def _probe(_: str, numbers: Numbers) -> str:
    if not numbers:
        return ""
    missing = ", ".join(numbers.get("missing", {}))
    gpu = numbers.get("gpu") or "no GPU"
    return f"{gpu}, torch {numbers.get('torch')}" + (f"; missing: {missing}" if missing else "")


def _training(name: str, row: str, limit_s: int) -> Step:
    words = ("-m", "experiments.run", "gpu", "--out", "TRAIN", "--preset", "PRESET", "--cache", "DATA", "--row", row)
    return Step(name, ("PYTHON", *words), limit_s, _trained, row)


STEPS = (
    Step("probe", ("PYTHON", "-m", "tools.gpu_probe", "--json", "JSON"), 60, _probe, needs_gpu=False),
    Step("test", ("PYTHON", "-m", "pytest", "-q", "-W", "default", "-p", "no:cacheprovider", "tests/gpu"), 400, _tests),
    Step("bench", ("PYTHON", "-m", "tools.bench", "--device=cuda", "--seconds=1", "--json", "JSON"), 300, _bench),
    Step("plugins", ("PYTHON", "-m", "tools.gpu_plugins", "--json", "JSON"), 240, _plugins),
    _training("train-plain", "stylegan2", 560),
    _training("train-mtm", "stylegan2-mtm", 560),
    Step("table4", ("PYTHON", "-m", "tools.bench_table4", "--json", "JSON"), 300, _table4),
    Step("profile", ("PYTHON", "-m", "tools.gpu_profile", "--json", "JSON"), 90, _profile),
    Step("counters", ("PYTHON", "-m", "tools.gpu_profile", "--counters", "--json", "JSON"), 180, _profile),
    _training("train-3t", "stylegan3-t", 400),
    _training("train-3t-mtm", "stylegan3-t-mtm", 400),
)


def numbers_of(step: Step, json_path: Path, train: Path, since: int = 0) -> Numbers:
    """What the step measured: its JSON, or the last line of its row in the ledger, not counting the ledger's first
    `since` lines; empty if there is none."""
    try:
        if not step.row:
            return json.loads(json_path.read_text(encoding="utf-8"))
        lines = [json.loads(line) for line in ledger_lines(train)[since:]]
        return [line for line in lines if line.get("row") == step.row][-1]
    except (OSError, ValueError, IndexError):
        return {}


def ledger_lines(train: Path) -> list[str]:
    """The ledger's lines so far; none if there is no ledger."""
    try:
        return (train / "ledger.jsonl").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []


def read_steps(out: Path) -> dict[str, dict[str, Any]]:
    """Each step's result from a session's OUT/session.json. Raises ValueError if a session did not write that file."""
    kinds: dict[str, Any] = {"state": str, "seconds": int | float, "figure": str, "numbers": dict, "where": dict}
    kinds["preset"] = str | None
    path = out / "session.json"
    try:
        steps = json.loads(path.read_text(encoding="utf-8"))["steps"]
        whole = all(isinstance(step[key], kind) for step in steps.values() for key, kind in kinds.items())
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} must be as gpu-session wrote it; got {error!r}. Move it away.") from None
    if not whole:
        raise ValueError(f"{path} must be as gpu-session wrote it; got values of other types. Move it away.")
    return steps


def read_counters(text: str) -> list[dict[str, Any]]:
    """ncu's `--csv --page raw`: one item per launch, {"name", "us", and every other numeric column}."""
    lines = [line for line in text.splitlines() if line.startswith('"')]
    rows = list(csv.DictReader(io.StringIO("\n".join(lines))))
    found = []
    for row in rows[1:]:  # the first row has the units
        numbers = {key: _number(value) for key, value in row.items() if key and "__" in key}
        time = numbers.pop("gpu__time_duration.sum", None)
        if time is not None:
            unit = {"nsecond": 1e-3, "ns": 1e-3, "usecond": 1.0, "us": 1.0, "msecond": 1e3, "ms": 1e3}
            us = time * unit.get(rows[0]["gpu__time_duration.sum"], 1e-3)
            found.append({"name": row.get("Kernel Name", "?"), "us": us, **numbers})
    return found


def _number(text: str) -> float | None:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None
