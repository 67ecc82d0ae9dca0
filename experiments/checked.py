"""Validation of values from files: pydantic models whose errors name the file, the key, the expected value and the
actual one."""

import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from experiments.files import UserError

Model = TypeVar("Model", bound=BaseModel)


_SURROGATES = re.compile("[\ud800-\udfff]")


class Checked(BaseModel):
    """A model that accepts no unknown key and converts nothing except an integer to a number."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _scalar(value: Any) -> Any:
    if type(value) not in (str, int, float, bool):
        raise PydanticCustomError("scalar_type", "str or int or float or bool")
    return value


def _finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Value = Annotated[str | int | float | bool, BeforeValidator(_scalar)]  # value of a trainer's option
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Bytes = Annotated[int, Field(ge=0, lt=1 << 63)]
Number = Annotated[float | None, BeforeValidator(_finite_or_none)]  # None stands for NaN and infinity


def storable(value: Any) -> Any:
    """JSON values with NaN and infinity, which JSON cannot hold, replaced by None; and characters that UTF-8 cannot
    encode (lone surrogates, such as those from a path in another encoding) replaced by U+FFFD."""
    if isinstance(value, dict):
        return {storable(key): storable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [storable(item) for item in value]
    if isinstance(value, str):
        return _SURROGATES.sub("\N{REPLACEMENT CHARACTER}", value)
    return _finite_or_none(value)


def check(model: type[Model], values: Any, where: str) -> Model:
    """`values` as a `model`. Raises UserError, naming `where` (a file) and every wrong key."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UserError("\n".join(_sentences(model, error.errors(), where))) from None


def read_object(path: Path) -> dict[str, Any]:
    """The file's JSON object with None for NaN and infinity; empty if there is no file. Raises UserError if the file
    cannot be read or holds anything else."""
    if not path.exists():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: expected JSON, got {error}. Restore the file, or remove it.") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a JSON object, got {_short(values)}. Restore the file, or remove it.")
    return storable(values)


def read_json(model: type[Model], path: Path) -> Model:
    """The file's JSON object as a `model`. Raises UserError, naming the file, if it is missing, not JSON or wrong."""
    if not path.exists():
        raise UserError(f"{path}: expected a file, got none.")
    return check(model, read_object(path), path.name)


def _sentences(model: type[BaseModel], errors: Iterable[ErrorDetails], where: str) -> list[str]:
    unknown: dict[tuple[int | str, ...], list[str]] = {}
    missing: dict[tuple[int | str, ...], list[str]] = {}
    wrong: list[str] = []
    for error in errors:
        place, key = error["loc"][:-1], str(error["loc"][-1]) if error["loc"] else ""
        if error["type"] == "extra_forbidden":
            unknown.setdefault(place, []).append(key)
        elif error["type"] == "missing":
            missing.setdefault(place, []).append(key)
        else:
            wrong.append(
                f"{where}: {_key(error['loc']) or 'the whole'} must have the right type; "
                f"expected {_expected(error)}, got {_short(error['input'])}. Correct it."
            )
    sentences = [
        f"{where}{_at(place)} must have known keys only; expected some of {', '.join(_fields(model, place))}, "
        f"got {', '.join(keys)}. Remove or correct it."
        for place, keys in unknown.items()
    ]
    sentences += [
        f"{where}{_at(place)} must have the keys {', '.join(keys)}; got none. Add them."
        for place, keys in missing.items()
    ]
    return sentences + wrong


def _at(place: tuple[int | str, ...]) -> str:
    return f": {_key(place)}" if place else ""


def _key(place: tuple[int | str, ...]) -> str:
    """Formats ('rows', 0, 'kimg') as rows[0].kimg."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")


_TYPES = {"string": "str", "int": "int", "float": "a number", "bool": "bool", "dict": "a table", "list": "a list"}


def _expected(error: ErrorDetails) -> str:
    kind = error["type"].removesuffix("_type").removesuffix("_parsing")
    if kind in ("model", "model_attributes"):
        return "a table"
    return _TYPES.get(kind, error["msg"].removeprefix("Input should be ").removeprefix("Value error, "))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:40] + "..." + text[-15:]


def _fields(model: type[BaseModel], place: tuple[int | str, ...]) -> list[str]:
    """Names of the keys that the model at this place has."""
    here: Any = model
    for part in place:
        if isinstance(part, str) and hasattr(here, "model_fields"):
            here = _inner(here.model_fields[part].annotation)
    return list(here.model_fields)


def _inner(annotation: Any) -> Any:
    """The model inside list[Model], dict[str, Model] or Model | None."""
    while not hasattr(annotation, "model_fields"):
        arguments = [a for a in get_args(annotation) if a is not type(None)]
        if not arguments:
            return annotation
        annotation = arguments[0] if isinstance(annotation, UnionType) else arguments[-1]
    return annotation
