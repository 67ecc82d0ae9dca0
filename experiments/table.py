"""Reads tables: the TOML files in experiments/tables, checked key by key, with one preset applied.

A table has rows. A row is the training of one trainer on one data set with one MTM setting, once per seed, and the
metrics to compute. A preset changes options: "full" is what the paper did, "smoke" a smoke test of the same path in
minutes. A table with `base` inherits the keys of tables/shared/<base>.toml, and of its rows those that the table's
sections show. So what several tables share is written once, and a run that appears in several tables is one run.
"""

import re
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from experiments.checked import Value, check
from experiments.datasets import RECIPES
from experiments.files import UserError
from experiments.metrics import METRICS
from experiments.table_model import (
    MEASURES,
    Cost,
    Dataset,
    Entry,
    Estimate,
    Preset,
    Row,
    Section,
    Setting,
    Table,
)
from experiments.trainers import TRAINERS

__all__ = ["Cost", "Dataset", "Entry", "Estimate", "Preset", "Row", "Section", "Setting", "Table"]

TABLES = Path(__file__).parent / "tables"
SHARED = TABLES / "shared"
_ID = re.compile(r"[a-z0-9][a-z0-9-]*")  # an id becomes the name of a folder


def load_table(name: str, preset: str = "full") -> Table:
    """Reads experiments/tables/<name>.toml (or a path to such a file) and applies the preset.

    Raises UserError for an unknown key (listing the known ones), a missing key, a wrong type, and a reference to an
    unknown name.
    """
    path = Path(name) if name.endswith(".toml") else TABLES / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in TABLES.glob("*.toml")))
        raise UserError(f"load_table: name must be one of {known}, or a TOML file's path; got {name!r}. Correct it.")
    values = _read(path)
    if base := values.get("base"):
        shared = SHARED / f"{base}.toml"
        if not shared.is_file():
            _refuse(path.name, "base", str(base), sorted(p.stem for p in SHARED.glob("*.toml")))
        values = _based_on(_read(shared), values)
    return _checked({**values, "preset": preset}, path.name)


def table_from_dict(values: Any, where: str) -> Table:
    """The table that `model_dump` wrote to the file `where`, with its preset already applied."""
    return check(Table, values, where)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"load_table: {path.name} must be valid TOML; {error}. Correct that line.") from error


def _based_on(shared: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """The table's own keys merged over the shared ones, with the shared rows that its sections show."""
    shown = [entry.get("row") for section in own.get("sections", []) for entry in section.get("entries", [])]
    rows = [row for row in shared.get("rows", []) if row.get("id") in shown]
    return {**shared, **own, "rows": [*rows, *own.get("rows", [])]}


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
    _check_preset(table, where)
    _check_sections(table, where)
    table = _resolve(table)
    _check_references(table, where)
    return table


def _refuse(where: str, key: str, name: str, known: Collection[str]) -> None:
    raise UserError(
        f"load_table: {where}: {key} must be one of {', '.join(known) or 'none'}; got {name!r}. Correct it."
    )


def _check_preset(table: Table, where: str) -> None:
    named: list[tuple[str, str, Collection[str]]] = [
        (f"settings.{name}.like", setting.like, table.settings)
        for name, setting in table.settings.items()
        if setting.like
    ]
    key = f"presets.{table.preset}"
    named += [(f"{key}.settings", name, table.settings) for name in table.applied.settings]
    named += [(f"{key}.datasets", name, table.datasets) for pair in table.applied.datasets.items() for name in pair]
    for key, name, known in named:
        if name not in known:
            _refuse(where, key, name, known)


def _check_sections(table: Table, where: str) -> None:
    ids = [row.id for row in table.rows]
    for section in table.sections:
        key = f"sections.{section.id}"
        named: list[tuple[str, str, Collection[str]]] = [("metrics", name, METRICS) for name in section.metrics]
        named += [("measures", name, MEASURES) for name in section.measures]
        named += [("entries.row", name, ids) for name in section.row_ids]
        shown = [*section.metrics, *section.measures]
        named += [("entries.paper", name, shown) for entry in section.entries for name in entry.paper]
        for what, name, known in named:
            if name not in known:
                _refuse(where, f"{key}.{what}", name, known)


def _check_references(table: Table, where: str) -> None:
    ids = [row.id for row in table.rows]
    if len(set(ids)) != len(ids) or not ids:
        raise UserError(f"load_table: {where}: rows must have distinct ids, at least one; got {ids}. Rename one.")
    for row in table.rows:
        if not _ID.fullmatch(row.id):
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
    preset = table.applied
    rows = [_resolve_row(row, table) for row in table.rows]
    if table.sections:  # a baseline that no section shows is not trained for this table
        ids = [row.id for row in rows]
        rows = [row if row.baseline in ids else row.model_copy(update={"baseline": None}) for row in rows]
    datasets = {name: _resolve_dataset(name, dataset, preset) for name, dataset in table.datasets.items()}
    values = {"rows": rows, "datasets": datasets, "samples_nimg": preset.samples_nimg or table.samples_nimg}
    return table.model_copy(update=values | {"parallel": preset.parallel or table.parallel})


def _settings_of(row: Row, table: Table) -> list[Setting]:
    """The settings from which a row takes its values, in order of increasing precedence: the setting that its setting
    is `like`, its setting, and the preset's changes of each."""
    own = table.settings.get(row.setting, Setting())
    names = [name for name in (own.like, row.setting) if name]
    changed = table.applied.settings
    return [*[table.settings[name] for name in names], *[changed[name] for name in names if name in changed]]


def _resolve_row(row: Row, table: Table) -> Row:
    preset, settings = table.applied, _settings_of(row, table)

    def last(values: list[Any]) -> Any:
        return next((value for value in reversed(values) if value), None)

    options: dict[str, Value] = {"mtm": row.mtm, **table.options}
    for setting in settings:
        options |= setting.options
    options |= {**preset.options, **row.options}
    options |= {key: options[key] * row.kimg_times for key in ("kimg", "stage1-kimg") if key in options}
    dataset = row.dataset or last([s.dataset for s in settings]) or table.dataset
    shown = [name for section in table.sections if row.id in section.row_ids for name in section.metrics]
    metrics = row.metrics or list(dict.fromkeys(shown)) or last([s.metrics for s in settings]) or table.metrics
    without = {name for setting in settings for name in setting.without}
    estimates = [*[s.estimate for s in settings], row.estimate]
    if preset.meaningless:  # an estimate in seconds per whole run does not hold for a smoke test
        ours = [s.estimate for s in preset.settings.values()]
        estimates = [one for one in estimates if one and (one.s_per_kimg or one in ours)]
    return row.model_copy(
        update={
            "trainer": row.trainer or last([s.trainer for s in settings]) or table.trainer,
            "dataset": preset.datasets.get(dataset, dataset),
            "metrics": [name for name in metrics if name not in without],
            "seeds": row.seeds or preset.seeds or table.seeds,
            "estimate": last(estimates),
            "options": options,
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
        size_gb=dataset.size_gb,
    )
