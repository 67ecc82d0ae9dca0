"""What a table of experiments is: the TOML files in experiments/tables, checked key by key.

A table has rows; a row is the training of one trainer on a data set with one MTM setting, once for each seed, and the
metrics to take of it. A preset ("full" is what the paper did, "smoke" the same path in minutes with numbers that mean
nothing) changes options.
"""

import re
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from experiments.checked import Checked, Value, check
from experiments.datasets import RECIPES
from experiments.datasets.zips import CLIPS
from experiments.files import UserError
from experiments.metrics import METRICS, Metric
from experiments.trainers import TRAINERS

TABLES = Path(__file__).parent / "tables"


class Dataset(Checked):
    """A data set by its recipe (experiments/datasets; the one of its own name where empty) and its options. Title and
    credit are the recipe's where empty."""

    recipe: str = ""
    options: dict[str, Value] = {}
    title: str = ""
    credit: str = ""


class Cost(Checked):
    """What a preset is expected to need, for the dry run and the check of the disk."""

    hours: float
    machine: str
    memory_gb: float
    disk_gb: float


class Preset(Checked):
    """Overrides. `meaningless` marks every number that this preset gives, wherever it shows."""

    cost: Cost
    meaningless: bool = False
    options: dict[str, Value] = {}
    dataset_options: dict[str, Value] = {}
    samples_nimg: int | None = None
    seeds: list[int] = []


class Setting(Checked):
    """What several rows share; a row's own values come first."""

    trainer: str = ""
    dataset: str = ""
    metrics: list[str] = []
    options: dict[str, Value] = {}


class Row(Checked):
    """Runs that differ in their seed only. `paper` holds the paper's numbers by metric; `baseline` is the row to
    compare with; what is empty is the setting's, or the table's."""

    id: str
    title: str
    mtm: str
    setting: str = ""
    trainer: str = ""
    dataset: str = ""
    metrics: list[str] = []
    seeds: list[int] = []
    options: dict[str, Value] = {}
    paper: dict[str, float] = {}
    baseline: str | None = None


class Table(Checked):
    """A table, with one preset applied: every row is complete."""

    name: str
    title: str
    about: str
    datasets: dict[str, Dataset]
    presets: dict[str, Preset]
    rows: list[Row]
    settings: dict[str, Setting] = {}
    trainer: str = ""
    dataset: str = ""
    metrics: list[str] = []
    seeds: list[int] = [0]
    options: dict[str, Value] = {}
    samples_nimg: int = 50_000  # generated images for each metric that leaves the number open
    parallel: int = 1  # rows at a time, where there are GPUs enough
    preset: str = "full"

    @property
    def cost(self) -> Cost:
        return self.presets[self.preset].cost

    @property
    def meaningless(self) -> bool:
        return self.presets[self.preset].meaningless

    @property
    def shown_metrics(self) -> Mapping[str, Metric]:
        """The metrics that any row asks for, in the order in which they are asked for."""
        return {name: METRICS[name] for row in self.rows for name in row.metrics}

    def row(self, row_id: str) -> Row:
        """The row of this id, which must exist."""
        return next(row for row in self.rows if row.id == row_id)

    def with_data(self, given: Collection[str]) -> "Table":
        """The same table with the user's own images, at the same resolution, in place of those data sets in `given`
        that are rendered. The others take what the user gives for their source. Raises UserError where they are clips.
        """
        own = RECIPES["images"]
        for name in given:
            recipe = RECIPES[self.datasets[name].recipe]
            if recipe.folder == CLIPS and not recipe.takes_source:
                raise UserError(
                    f"run: --data must stand for a data set of images; got {name}, whose folders of frames would be "
                    "lost. Train on your own clips with the codebase's own command: docs/hosts/."
                )
        changed = {
            name: Dataset(
                recipe=own.name,
                options={k: v for k, v in self.datasets[name].options.items() if k == "resolution"},
                title=own.title,
                credit=own.credit,
            )
            for name in given
            if not RECIPES[self.datasets[name].recipe].takes_source
        }
        return self.model_copy(update={"datasets": self.datasets | changed})


def load_table(name: str, preset: str = "full") -> Table:
    """Reads experiments/tables/<name>.toml (or a path to such a file) and applies the preset.

    Raises UserError for a key that does not exist (listing those that do), a missing key, a wrong type, and a name
    that refers to nothing.
    """
    path = Path(name) if name.endswith(".toml") else TABLES / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in TABLES.glob("*.toml")))
        raise UserError(f"load_table: name must be a table; expected one of {known}, got {name!r}.")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"load_table: {path.name} must be valid TOML; {error}. Correct that line.") from error
    return _checked({**values, "preset": preset}, path.name)


def table_from_dict(values: Any, where: str) -> Table:
    """The table that `model_dump` wrote into the file `where`; presets are applied already."""
    return check(Table, values, where)


def _checked(values: dict[str, Any], where: str) -> Table:
    try:
        table = check(Table, values, where)
    except UserError as error:
        raise UserError(f"load_table: {error}") from None
    if table.preset not in table.presets:
        _refuse(where, "preset", table.preset, table.presets)
    for name, dataset in table.datasets.items():
        if (dataset.recipe or name) not in RECIPES:
            _refuse(where, f"datasets.{name}.recipe", dataset.recipe or name, RECIPES)
    for row in table.rows:
        if row.setting and row.setting not in table.settings:
            _refuse(where, f"rows.{row.id}.setting", row.setting, table.settings)
    table = _resolve(table)
    _check_references(table, where)
    return table


def _refuse(where: str, key: str, name: str, known: Collection[str]) -> None:
    raise UserError(
        f"load_table: {where}: {key} must name something that exists; expected one of {', '.join(known) or 'none'}, "
        f"got {name!r}. Correct it."
    )


def _check_references(table: Table, where: str) -> None:
    ids = [row.id for row in table.rows]
    if len(set(ids)) != len(ids) or not ids:
        raise UserError(f"load_table: {where}: rows must have distinct ids, at least one; got {ids}. Rename one.")
    for row in table.rows:
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", row.id):  # it becomes the name of a folder
            raise UserError(f"load_table: {where}: id must be of a-z, 0-9 and -; got {row.id!r}. Rename it.")
        if len(set(row.seeds)) != len(row.seeds) or not row.seeds:
            raise UserError(
                f"load_table: {where}: rows.{row.id}.seeds must be distinct, at least one; got {row.seeds}. "
                "Remove what is repeated."
            )
        named: list[tuple[str, str, Collection[str]]] = [
            ("trainer", row.trainer, TRAINERS),
            ("dataset", row.dataset, table.datasets),
        ]
        named += [("metrics", name, METRICS) for name in [*row.metrics, *row.paper]]
        named += [("baseline", row.baseline, [i for i in ids if i != row.id])] if row.baseline is not None else []
        for key, name, known in named:
            if name not in known:
                _refuse(where, f"rows.{row.id}.{key}", name, known)


def _resolve(table: Table) -> Table:
    preset = table.presets[table.preset]
    rows = [_resolve_row(row, table.settings.get(row.setting, Setting()), table, preset) for row in table.rows]
    datasets = {name: _resolve_dataset(name, dataset, preset) for name, dataset in table.datasets.items()}
    samples_nimg = preset.samples_nimg or table.samples_nimg
    return table.model_copy(update={"rows": rows, "datasets": datasets, "samples_nimg": samples_nimg})


def _resolve_row(row: Row, setting: Setting, table: Table, preset: Preset) -> Row:
    return row.model_copy(
        update={
            "trainer": row.trainer or setting.trainer or table.trainer,
            "dataset": row.dataset or setting.dataset or table.dataset,
            "metrics": row.metrics or setting.metrics or table.metrics,
            "seeds": row.seeds or preset.seeds or table.seeds,
            "options": {"mtm": row.mtm, **table.options, **setting.options, **preset.options, **row.options},
        }
    )


def _resolve_dataset(name: str, dataset: Dataset, preset: Preset) -> Dataset:
    recipe = RECIPES[dataset.recipe or name]
    changed = {key: value for key, value in preset.dataset_options.items() if key in dataset.options}
    return Dataset(
        recipe=recipe.name,
        options=dataset.options | changed,
        title=dataset.title or recipe.title,
        credit=dataset.credit or recipe.credit,
    )
