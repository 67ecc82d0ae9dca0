"""What a table of experiments is: the TOML files in experiments/tables, checked key by key.

A table has rows; a row is one training run of a host on a dataset with one MTM setting, and the metrics to take of it.
A preset ("full" is what the paper did, "smoke" the same path in minutes with meaningless numbers) changes options.
"""

import re
import tomllib
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from experiments.files import UserError

TABLES = Path(__file__).parent / "tables"
Value = str | int | float | bool
T = TypeVar("T")


@dataclass(frozen=True)
class Host:
    """A trainer: the commands that train and evaluate a row. "python" stands for this interpreter."""

    train: list[str]
    evaluate: list[str]


@dataclass(frozen=True)
class Dataset:
    """A recipe: the command that makes the zip (--out and the options are added) and the credit that is due."""

    title: str
    make: list[str]
    options: dict[str, Value] = field(default_factory=dict)
    sources: list[str] = field(default_factory=list)  # files whose change makes a cached zip stale
    credit: str = ""


@dataclass(frozen=True)
class Metric:
    """A number to take of every finished row, from metrics.json under this metric's name."""

    title: str
    lower_is_better: bool = True
    samples_nimg: int = 5000


@dataclass(frozen=True)
class Cost:
    """What a preset is expected to need, for the dry run and the check of the disk."""

    hours: float
    machine: str
    memory_gb: float
    disk_gb: float


@dataclass(frozen=True)
class Preset:
    """Overrides. `meaningless` marks every number that this preset gives, wherever it shows."""

    cost: Cost
    meaningless: bool = False
    options: dict[str, Value] = field(default_factory=dict)
    dataset_options: dict[str, Value] = field(default_factory=dict)
    samples_nimg: int | None = None


@dataclass(frozen=True)
class Row:
    """One training run. `paper` holds the paper's numbers by metric; `baseline` is the row to compare with."""

    id: str
    title: str
    host: str
    mtm: str
    metrics: list[str]
    dataset: str = ""  # the table's, unless it is given
    options: dict[str, Value] = field(default_factory=dict)
    paper: dict[str, float] = field(default_factory=dict)
    baseline: str | None = None


@dataclass(frozen=True)
class Table:
    """A table, with one preset applied: every row's options are complete."""

    name: str
    title: str
    about: str
    dataset: str
    hosts: dict[str, Host]
    datasets: dict[str, Dataset]
    metrics: dict[str, Metric]
    presets: dict[str, Preset]
    rows: list[Row]
    options: dict[str, Value] = field(default_factory=dict)
    parallel: int = 1
    preset: str = "full"

    @property
    def cost(self) -> Cost:
        return self.presets[self.preset].cost

    @property
    def meaningless(self) -> bool:
        return self.presets[self.preset].meaningless

    def row(self, row_id: str) -> Row:
        """The row of this id, which must exist."""
        return next(row for row in self.rows if row.id == row_id)

    def with_data(self, dataset: str) -> "Table":
        """The same table with every row on another dataset."""
        if dataset not in self.datasets:
            raise UserError(f"with_data: table {self.name} must have a dataset {dataset!r}; it takes no data of yours.")
        return replace(self, rows=[replace(row, dataset=dataset) for row in self.rows])

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `table_from_dict` reads them back."""
        return asdict(self)


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
    table = build(Table, {**values, "preset": preset}, path.name)
    _check_references(table, path.name)
    return _resolve(table)


def table_from_dict(values: dict[str, Any]) -> Table:
    """The table that `Table.as_dict` wrote; presets are applied already."""
    return build(Table, values, "run.json")


def build(cls: type[T], values: dict[str, Any], where: str) -> T:
    """Makes the dataclass `cls` from a mapping, checking every key and type; `where` names the place in errors."""
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise UserError(
            f"load_table: {where} must have known keys only; expected some of {', '.join(known)}, "
            f"got {', '.join(unknown)}. Remove or correct it."
        )
    required = {n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING}
    missing = sorted(required - set(values))
    if missing:
        raise UserError(f"load_table: {where} must have the keys {', '.join(missing)}; got none. Add them.")
    hints = get_type_hints(cls)
    return cls(**{key: _convert(hints[key], value, f"{where}: {key}") for key, value in values.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, UnionType):
        kinds: tuple[type, ...] = args
    elif origin is dict and isinstance(value, dict):
        return {key: _convert(args[1], item, f"{where}.{key}") for key, item in value.items()}
    elif origin is list and isinstance(value, list):
        return [_convert(args[0], item, f"{where}[{i}]") for i, item in enumerate(value)]
    elif hasattr(hint, "__dataclass_fields__") and isinstance(value, dict):
        return build(hint, value, where)
    else:
        kinds = (origin or hint,)
    if type(value) in kinds:
        return value
    names = " or ".join(kind.__name__ for kind in kinds)
    raise UserError(f"load_table: {where} must have the right type; expected {names}, got {value!r}. Correct it.")


def _check_references(table: Table, where: str) -> None:
    def check(key: str, name: str, known: Any) -> None:
        if name not in known:
            raise UserError(
                f"load_table: {where}: {key} must name something that exists; expected one of "
                f"{', '.join(known)}, got {name!r}. Correct it."
            )

    ids = [row.id for row in table.rows]
    if len(set(ids)) != len(ids) or not ids:
        raise UserError(f"load_table: {where}: rows must have distinct ids, at least one; got {ids}. Rename one.")
    for row_id in ids:  # it becomes the name of a folder
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", row_id):
            raise UserError(f"load_table: {where}: id must be of a-z, 0-9 and -; got {row_id!r}. Rename it.")
    check("dataset", table.dataset, table.datasets)
    check("preset", table.preset, table.presets)
    for row in table.rows:
        check(f"rows.{row.id}.host", row.host, table.hosts)
        check(f"rows.{row.id}.dataset", row.dataset or table.dataset, table.datasets)
        for metric in [*row.metrics, *row.paper]:
            check(f"rows.{row.id}.metrics", metric, table.metrics)
        if row.baseline is not None:
            check(f"rows.{row.id}.baseline", row.baseline, [i for i in ids if i != row.id])


def _resolve(table: Table) -> Table:
    preset, values = table.presets[table.preset], table.as_dict()
    for row in values["rows"]:
        row["options"] = {"mtm": row["mtm"], **table.options, **preset.options, **row["options"]}
        row["dataset"] = row["dataset"] or table.dataset
    for dataset in values["datasets"].values():
        dataset["options"] |= {k: v for k, v in preset.dataset_options.items() if k in dataset["options"]}
    for metric in values["metrics"].values():
        metric["samples_nimg"] = preset.samples_nimg or metric["samples_nimg"]
    return table_from_dict(values)
