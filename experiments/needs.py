"""Finds what a call of the runner lacks: hosts' code, weights, data. Fetches what can be fetched without the user."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from experiments.datasets import RECIPES
from experiments.datasets.listing import SOURCE_SUFFIXES
from experiments.files import UserError
from experiments.provenance import host_state
from experiments.run import Call
from experiments.table_model import Table
from experiments.trainers import TRAINERS
from experiments.trainers.contract import ROOT
from experiments.weights import examine, select, weights_folder


@dataclass(frozen=True)
class Need:
    """Something that is missing, and the command that gets it."""

    what: str
    command: str


def needs(call: Call, target: str) -> list[Need]:
    """Everything that is missing for the call's rows; `target` is the Make target that asks."""
    hosts = [Need(f"vendor/{name} is {state}.", f"make patch HOST={name}") for name, state in unready_hosts(call)]
    return [*hosts, *_weights(call), *_data(call, target)]


def unready_hosts(call: Call) -> Iterator[tuple[str, str]]:
    """The hosts of the call's rows that cannot train yet, each with the reason: "not fetched" or "not patched"."""
    for name in dict.fromkeys(host for row in call.rows if (host := TRAINERS[row.trainer].host)):
        state = host_state(name)
        if state["commit"] is None:
            yield name, "not fetched"
        elif "mtm" not in state["patches"]:
            yield name, "not patched"


def _weights(call: Call) -> Iterator[Need]:
    if call.table.applied.stand_ins or not call.weights:
        return
    folder = weights_folder()
    for entry in select(call.weights):
        state = examine(entry, folder)
        if state.kind in ("missing", "wrong"):
            what = f"weights {entry.name} are {state.kind}: {entry.title} ({entry.terms}), from {entry.url}"
            yield Need(what, f'make weights WEIGHTS="{entry.name}"')


def _data(call: Call, target: str) -> Iterator[Need]:
    for name in [name for name in call.dataset_names if name in call.data.sources]:
        try:
            call.data.check_source(name)
        except UserError as error:
            yield Need(f"data set {name}: {error}", f"make {target} DATA={name}=SOURCE")
    lacking = _lacking(call)
    for name in lacking:
        recipe = RECIPES[call.table.datasets[name].recipe]
        what = f"data set {name} must come from you: {recipe.obtain} Licence: {recipe.licence}"
        one = f"make {target} DATA={name}=SOURCE"
        yield Need(what, one if len(lacking) == 1 else f"ln -s SOURCE {call.data.cache / name}, then make {target}")


def _lacking(call: Call) -> list[str]:
    """The data sets that need a source from the user, who has not given it."""
    recipes = {name: RECIPES[call.table.datasets[name].recipe] for name in call.dataset_names}
    wanted = [name for name, recipe in recipes.items() if recipe.takes_source and name not in call.data.sources]
    return [name for name in wanted if not call.data.path(name).exists()]


def fetch(call: Call) -> None:
    """Fetches and patches missing hosts, and fetches missing weights. What fails is reported and remains in `needs`."""
    if hosts := [name for name, _ in unready_hosts(call)]:
        words = [word for name in hosts for word in ("--host", name)]
        subprocess.run([sys.executable, "tools/apply_patches.py", "apply", *words], cwd=ROOT, stdout=2)
    if any(_weights(call)):
        subprocess.run([sys.executable, "-m", "tools.weights", *call.weights], cwd=ROOT, stdout=2)


def listed(missing: list[Need]) -> str:
    """All needs as one text."""
    lines = [f"missing: {len(missing)}"]
    for need in missing:
        lines += [f"  {need.what}", f"      {need.command}"]
    return "\n".join(lines)


def ready_rows(call: Call) -> list[str]:
    """The ids of the rows whose data is available or can be rendered."""
    lacking = _lacking(call)
    return [row.id for row in call.rows if row.dataset not in lacking]


def find_sources(table: Table, dataset_names: list[str], given: tuple[str, ...], cache: Path) -> dict[str, Path]:
    """The user's data by data set. A word of `given` is NAME=PATH, a folder with entries named after the data sets
    (imagenet-128.tar, lsun-cat-256/, ...), or, if only one data set needs a source, its path. Entries with such names
    in `cache` are used too. Raises UserError for any other word."""
    wanted = [name for name in dataset_names if RECIPES[table.datasets[name].recipe].takes_source]
    found = _entries(cache, wanted)
    for word in given:
        name, equals, path = word.partition("=")
        if equals and name in table.datasets:
            found[name] = Path(path)
        elif entries := _entries(Path(word), wanted):
            found |= entries
        elif len(wanted) == 1 and Path(word).exists():
            found[wanted[0]] = Path(word)
        else:
            names = ", ".join(dict.fromkeys(wanted or dataset_names))
            absent = "" if equals or Path(word).exists() else ", which does not exist"
            raise UserError(
                f"reproduce: DATA must be NAME=PATH with a name of {names}, or a folder with entries of these names; "
                f"got {word!r}{absent}. Correct it."
            )
    return found


def _entries(folder: Path, names: list[str]) -> dict[str, Path]:
    """The entries of a folder with these names: a folder, or a file with a suffix that a source may have."""
    found: dict[str, Path] = {}
    for name in names:
        for path in [folder / name, *(folder / f"{name}{suffix}" for suffix in sorted(SOURCE_SUFFIXES))]:
            if path.exists():
                found.setdefault(name, path.resolve() if path.is_symlink() else path)
    return found
