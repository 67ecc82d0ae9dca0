"""The recipe of a data set, and the manifest in every data set."""

from __future__ import annotations

import inspect
import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import click

from experiments.datasets import images, zips
from experiments.datasets.zips import DatasetInfo, add_member
from experiments.files import UserError, atomic_output

MANIFEST_NAME = "mtm_manifest.json"  # not *dataset.json, which the video hosts would read as labels
CREDIT_NAME = "ATTRIBUTION.txt"


@dataclass(frozen=True)
class Recipe:
    """How a data set is made, and the terms of its use.

    `make(source, file, **options)` writes a zip in the hosts' format to `file` and returns its description. `source` is
    the publisher's data, or None if `takes_source` is False. `make` raises UserError for everything that the user can
    fix. It need not handle partial files, the manifest or the credit: `run` writes the last two, in `folder` of the
    zip. `options` are click's, so that the command line checks and documents them. `packages` are those whose versions
    decide the result.
    """

    name: str
    title: str
    make: Callable[..., DatasetInfo]
    obtain: str
    licence: str
    credit: str = ""
    takes_source: bool = True
    options: tuple[click.Option, ...] = ()
    packages: tuple[str, ...] = ("pillow",)
    folder: str = ""
    more_sources: tuple[str, ...] = ()  # source files, beside that of `make`, whose code may change the result
    # For published data sets:
    expected: dict[str, int] = field(default_factory=dict)  # what the source should hold -> how many
    crop: str = ""  # crop and resize, with its source
    check: Callable[[Path], object] = images.open_source  # fast check; raises UserError if a path cannot be a source
    resumable: bool = False  # `make` also takes `work`, a folder that is kept until the data set is made
    unrecorded: tuple[str, ...] = ()  # options that do not affect the result
    source_option: str = ""  # for a recipe without a source: the option that takes the user's own files

    def run(self, source: Path | None, dest: Path, **options: Any) -> DatasetInfo:
        """Makes the data set at `dest`, with its manifest, completely or not at all. Missing options get their
        defaults. Raises UserError."""
        if (source is None) == self.takes_source:
            rule, got = ("be given", "none") if self.takes_source else ("not be given", repr(str(source)))
            raise UserError(f"{self.name}: source must {rule}; got {got}. {self.obtain}")
        if self.resumable and source is not None and dest.resolve().is_relative_to(source.resolve()):
            raise UserError(
                f"{self.name}: DEST must not be inside SOURCE, where it would count as an archive of images; got "
                f"{str(dest)!r} in {str(source)!r}. Choose another folder for it."
            )
        complete = self._complete(options)
        work = dest.with_name(f".{dest.name}.parts")
        with atomic_output(dest) as partial:
            info = self.make(source, partial, **complete, **({"work": work} if self.resumable else {}))
            with zipfile.ZipFile(partial, "a", zipfile.ZIP_STORED) as archive:
                if self.credit:
                    add_member(archive, self.folder + CREDIT_NAME, f"{self.credit}\nLicence: {self.licence}\n")
                add_member(archive, self.folder + MANIFEST_NAME, json.dumps(self._manifest(info, complete), indent=2))
        if self.resumable:
            shutil.rmtree(work, ignore_errors=True)
        return info

    @property
    def sources(self) -> list[Path]:
        """The source files whose code may change the result. A cache uses their hash in the names of its entries."""
        own = inspect.getsourcefile(inspect.unwrap(self.make))
        files = [own, *self.more_sources, images.__file__, zips.__file__]
        return [Path(str(file)) for file in dict.fromkeys(files)]

    def _complete(self, options: dict[str, Any]) -> dict[str, Any]:
        known = {str(option.name): option for option in self.options}
        if unknown := sorted(set(options) - set(known)):
            raise UserError(f"{self.name}: options must be some of {', '.join(known)}; got {', '.join(unknown)}.")
        context = click.Context(click.Command(self.name))
        defaults = {name: option.get_default(context) for name, option in known.items() if name not in options}
        if missing := [name for name in defaults if known[name].required]:
            raise UserError(f"{self.name}: {', '.join(missing)} must be given.")
        return {name: options.get(name, defaults.get(name)) for name in known}

    def _manifest(self, info: DatasetInfo, options: dict[str, Any]) -> dict[str, Any]:
        return {
            "schema": 4,
            **asdict(info),
            "recipe": self.name,
            "options": {name: value for name, value in options.items() if name not in self.unrecorded},
            "expected": self.expected,
            "crop": self.crop,
            "versions": {package: version(package) for package in self.packages},
            "licence": self.licence,
            "credit": self.credit,
        }


def version(package: str) -> str | None:
    """The installed version of a package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a data set, as written when the data set was made; `zips.describe` reads the images themselves.
    Raises UserError, naming the file, if there is no readable manifest."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = (MANIFEST_NAME, zips.CLIPS + MANIFEST_NAME)
            present = next((name for name in names if name in archive.namelist()), MANIFEST_NAME)
            manifest = json.loads(archive.read(present))
        if isinstance(manifest, dict):
            return manifest
        reason = "it is not a JSON object"
    except KeyError:
        reason = f"it has no {MANIFEST_NAME}"
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        reason = str(error)
    raise UserError(f"Failed to read the manifest of {str(path)!r}: {reason}. Make it with python -m tools.data.")
