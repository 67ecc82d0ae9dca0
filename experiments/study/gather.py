"""Collects finished runs from the folders of one or more machines as plain values, each run once.

A run is identified by its row, its seed and the hash of everything that decides its training. If several machines have
the same run, the one that was done first counts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from experiments import ledger
from experiments.checked import read_json, read_object
from experiments.files import UserError, atomic_output
from experiments.folder import STATE_NAME, read_state
from experiments.results import Results, RowResult, RunResult, load_results
from experiments.trainers.contract import METRICS, TRAIN, Measured, read_lines
from experiments.trainers.mini import STATS

SCHEMA = 1
KINDS = {"schema": int, "preset": str, "fingerprints": dict, "runs": list}  # keys and types of the file's content
KEYS = ("row", "seed", "identity", "status", "options", "kimg", "times", "metrics", "kept", "analysis")  # keys of a run
RESTORE = "Restore the file: git checkout it, and merge again."
ANALYSIS = "analysis"  # folder in a run with NAME.json: results of analyses such as experiments.study.limbs


def read_results(path: Path) -> dict[str, Any]:
    """Reads a file of `write_results`; an empty study if there is no file. Raises UserError for a newer schema, and for
    a damaged or edited file."""
    content: dict[str, Any] = {"schema": SCHEMA, "preset": "", "fingerprints": {}, "runs": []} | read_object(path)
    schema = content["schema"]
    if isinstance(schema, int) and schema > SCHEMA:
        raise UserError(f"study: {path} must be of schema {SCHEMA}; got {schema}. Update this checkout.")
    if wrong := [key for key, kind in KINDS.items() if not isinstance(content[key], kind)]:
        raise UserError(
            f"study: {path} must have the right types; got {wrong[0]}: {content[wrong[0]]!r:.60}. {RESTORE}"
        )
    for i, run in enumerate(content["runs"]):
        lacks = [key for key in KEYS if not isinstance(run, dict) or key not in run]
        if lacks:
            raise UserError(f"study: {path} must have {', '.join(lacks)} in every run; runs[{i}] has none. {RESTORE}")
    return content


def write_results(path: Path, content: dict[str, Any]) -> None:
    """Writes JSON with one line per run, so that a diff shows which runs were added."""
    head = {key: value for key, value in content.items() if key != "runs"}
    lines = ",\n".join("  " + json.dumps(run, sort_keys=True) for run in content["runs"])
    text = json.dumps(head, indent=1, sort_keys=True).rstrip("}\n") + f',\n "runs": [\n{lines}\n ]\n}}\n'
    with atomic_output(path) as partial:
        partial.write_text(text, encoding="utf-8")


def merge(before: dict[str, Any], folders: Iterable[Path]) -> tuple[dict[str, Any], list[str]]:
    """`before` with the runs of these folders added, and messages about duplicate runs and problems with files.

    Raises UserError for a folder that holds no table, or a table of another base than the study's or another preset.
    """
    runs = {key_of(run): run for run in before["runs"]}
    prints: dict[str, Any] = dict(before["fingerprints"])
    preset, said = before["preset"], list[str]()
    for folder in folders:
        results = load_results(folder)
        if results.table.family != "study":
            raise UserError(f"study: {folder} must be a folder of the study; got {results.table.name}'s. Leave it out.")
        preset = preset or results.table.preset
        if results.table.preset != preset:
            raise UserError(
                f"study: all runs must be of one preset; got {results.table.preset} in {folder} beside {preset}. "
                f"Give another file: python -m experiments.study merge {folder} --into FILE."
            )
        said += results.problems
        for run in runs_of(results, prints):
            there = runs.get(key_of(run))
            if there is not None and rank(there) <= rank(run):
                same = there["time_utc"] == run["time_utc"]
                said += [] if same else [f"{name_of(run)} of {folder} is counted once: it was done before"]
                if same:
                    runs[key_of(run)] = both(there, run)
                continue
            if there is not None and there["status"] == "done":
                said.append(f"{name_of(run)} of {folder} replaces the one that was done later")
            runs[key_of(run)] = run
    ordered = sorted(runs.values(), key=lambda run: (run["row"], run["seed"], run["identity"]))
    return {"schema": SCHEMA, "preset": preset, "fingerprints": prints, "runs": ordered}, said


def check_folders(folders: Iterable[Path]) -> None:
    """Raises UserError for a folder that holds no table."""
    for folder in folders:
        if read_state(folder) is None:
            raise UserError(
                f"study: every folder must be one that make study wrote, with {STATE_NAME} in it; got {str(folder)!r}. "
                "Give the study's OUT: make study-results FROM='FOLDER ...'."
            )


def both(there: dict[str, Any], run: dict[str, Any]) -> dict[str, Any]:
    """Merges two copies of the same run: the results in either copy, even if one copy lacks files."""
    kept = {kimg: there["kept"].get(kimg, {}) | run["kept"].get(kimg, {}) for kimg in [*there["kept"], *run["kept"]]}
    return there | run | {name: there[name] | run[name] for name in ("metrics", "analysis", "times")} | {"kept": kept}


def key_of(run: dict[str, Any]) -> tuple[str, int, str]:
    return run["row"], run["seed"], run["identity"]


def name_of(run: dict[str, Any]) -> str:
    return f"{run['row']}/{run['seed']}-{run['identity']}"


def rank(run: dict[str, Any]) -> tuple[bool, str]:
    """A sort key: runs that are done first, then the earlier one."""
    return run["status"] != "done", run["time_utc"]


def runs_of(results: Results, prints: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """The ended runs of a folder, with their metrics. Adds fingerprints to `prints`, by their hash."""
    for row in results.rows:
        for run in row.runs:
            if run.entry is not None and run.folder is not None:
                yield _run(results.out, row, run, run.entry, prints)


def _run(out: Path, row: RowResult, run: RunResult, entry: ledger.Attempt, prints: dict[str, Any]) -> dict[str, Any]:
    assert run.folder is not None
    done = run.status == "done"
    problems: list[str] = []
    stats = read_lines(run.folder / TRAIN / STATS, problems)
    return {
        "row": row.row.id,
        "title": row.row.title,
        "seed": run.seed,
        "identity": run.folder.name.partition("-")[2],
        "status": run.status,
        "message": entry.message,
        "mtm": row.row.mtm,
        "options": row.row.options,
        "dataset": row.row.dataset,
        "data_sha256": entry.dataset.get("content_sha256", ""),
        "kimg": entry.kimg,
        "times": times_at(stats),
        "wall_s": round(run.wall_s, 1),
        "parameters": entry.trainer.get("generator_parameters"),
        "metrics": noted(entry.metrics, prints) if done else {},
        "kept": kept(run.folder, prints) if done else {},
        "analysis": analyses(run.folder) if done else {},
        "commit": entry.git.get("commit", ""),
        "dirty": entry.git.get("dirty"),
        "versions": entry.versions,
        "machine": entry.machine,
        "made_by": entry.commands[:1],
        "time_utc": entry.time_utc,
    }


def times_at(stats: list[dict[str, Any]]) -> dict[str, list[float]]:
    """By whole kimg: seconds since the start, and seconds of processor time."""
    found: dict[str, list[float]] = {}
    for line in stats:
        kimg = line.get("kimg")
        if isinstance(kimg, int | float) and line.get("elapsed_s") is not None:
            found[f"{kimg:.0f}" if kimg >= 1 else f"{kimg:g}"] = [
                round(line["elapsed_s"], 1),
                round(line.get("cpu_s") or line["elapsed_s"], 1),
            ]
    return found


def noted(metrics: dict[str, Measured], prints: dict[str, Any]) -> dict[str, list[Any]]:
    """By name: the value, and the hash of its fingerprint, which is added to `prints`."""
    found: dict[str, list[Any]] = {}
    for name, measured in metrics.items():
        digest = hashlib.sha256(json.dumps(measured.fingerprint, sort_keys=True).encode()).hexdigest()[:8]
        prints[digest] = measured.fingerprint
        found[name] = [measured.value, digest]
    return found


def kept(folder: Path, prints: dict[str, Any]) -> dict[str, dict[str, list[Any]]]:
    """By kimg: the metrics of the generators that were kept during training."""
    found = {}
    by_kimg: dict[float, Path] = {}
    for at in (folder / METRICS).glob("kept-*"):
        with suppress(ValueError):  # skips other folders
            by_kimg[float(at.name.partition("-")[2])] = at
    for _, at in sorted(by_kimg.items()):
        measured = {path.stem: read_json(Measured, path) for path in sorted(at.glob("*.json"))}
        found[at.name.partition("-")[2]] = noted(measured, prints)
    return found


def analyses(folder: Path) -> dict[str, Any]:
    """By name: the results of the analyses of the run's snapshots."""
    return {path.stem: read_object(path) for path in sorted((folder / ANALYSIS).glob("*.json"))}
