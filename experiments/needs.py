"""What a call of the runner lacks: the hosts' code, weights, data. What needs no person is fetched."""

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
    """The hosts of the call's rows that cannot train yet, and what they are."""
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
    """The data sets whose source only the user can give, and has not."""
    recipes = {name: RECIPES[call.table.datasets[name].recipe] for name in call.dataset_names}
    wanted = [name for name, recipe in recipes.items() if recipe.takes_source and name not in call.data.sources]
    return [name for name in wanted if not call.data.path(name).exists()]


def fetch(call: Call) -> None:
    """Fetches and patches the hosts and fetches the weights that are missing; a failure is reported, and stays a
    need."""
    if hosts := [name for name, _ in unready_hosts(call)]:
        words = [word for name in hosts for word in ("--host", name)]
        subprocess.run([sys.executable, "tools/apply_patches.py", "apply", *words], cwd=ROOT, stdout=2)
    if any(_weights(call)):
        subprocess.run([sys.executable, "-m", "tools.weights", *call.weights], cwd=ROOT, stdout=2)


def listed(missing: list[Need]) -> str:
    """All of them as one text."""
    lines = [f"missing: {len(missing)}"]
    for need in missing:
        lines += [f"  {need.what}", f"      {need.command}"]
    return "\n".join(lines)


def ready_rows(call: Call) -> list[str]:
    """The rows whose data is there."""
    lacking = _lacking(call)
    return [row.id for row in call.rows if row.dataset not in lacking]


def find_sources(table: Table, dataset_names: list[str], given: tuple[str, ...], cache: Path) -> dict[str, Path]:
    """The user's data by data set. A word of `given` is NAME=PATH, or a folder with an entry named after each data set
    (imagenet-128.tar, lsun-cat-256/, ...), or where one data set is lacking, that; `cache` is looked at too. Raises
    UserError for a word that is not one of these."""
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
    """What lies in a folder under these names: a folder, or a file with the suffix of a source."""
    found: dict[str, Path] = {}
    for name in names:
        for path in [folder / name, *(folder / f"{name}{suffix}" for suffix in sorted(SOURCE_SUFFIXES))]:
            if path.exists():
                found.setdefault(name, path.resolve() if path.is_symlink() else path)
    return found
