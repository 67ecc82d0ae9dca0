"""A host's patched code, for our tools to import: from the pinned commit, never from vendor/'s working tree."""

import importlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import click

from mtm_hosts.hosts import HOSTS
from overlay.catalog import load_hosts, load_patches
from overlay.git import open_checkout, read_blobs, tree_blobs
from overlay.inserter import insert
from overlay.sealed import read_seal, sealed_files

_ROOT = Path(__file__).resolve().parents[1]
_CONCERNS = ("compat", "cpu", "mtm")
_CODE = (".py", ".cpp", ".cu", ".h", ".yaml")  # files that importing and training need; images are left out


@contextmanager
def imported(name: str, concerns: Collection[str] = _CONCERNS) -> Iterator[Callable[[str], ModuleType]]:
    """A function that imports the host's modules, such as "training.networks_stylegan2", with our lines.

    Raises:
        click.ClickException: if the submodule is not fetched.
    """
    facts = HOSTS[name]
    with tempfile.TemporaryDirectory() as folder:
        write_patched(name, Path(folder), concerns)
        sys.path.insert(0, str(Path(folder, facts.code)))
        try:
            importlib.import_module(f"{facts.package}dnnlib")  # first: it has compat's line, which fixes libraries
            yield lambda module: importlib.import_module(facts.package + module)
        finally:
            sys.path.remove(str(Path(folder, facts.code)))


def write_patched(name: str, folder: Path, concerns: Collection[str] = _CONCERNS) -> None:
    """Write the host's files with the lines of these concerns to `folder`. Raises the errors of `imported`."""
    host = next(h for h in load_hosts(_ROOT) if h.name == name)
    if (sealed := read_seal(host.folder)) is not None:
        _copy_sealed(host.folder, folder, concerns, sealed["concerns"])
        return
    checkout = open_checkout(host.folder)
    if checkout is None:
        raise click.ClickException(f"{host.vendor} must be fetched; got no checkout. Run: make patch HOST={name}")
    tree = tree_blobs(checkout, host.commit) or {}
    code = {path: blob for path, (_, blob) in tree.items() if Path(path).suffix in _CODE}
    blobs = read_blobs(checkout, list(code.values()))
    insertions: dict[str, dict] = {}
    for concern, patch in load_patches(host).items():
        for file in patch.files if concern in concerns else ():
            insertions.setdefault(file.path, {})[concern] = file.insertions
    for path, blob in code.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(insert(blobs[blob], insertions.get(path, {})))


def _copy_sealed(sealed: Path, folder: Path, concerns: Collection[str], there: Collection[str]) -> None:
    """Copies from a checkout without git, which has the lines of all its concerns. Only train.py and the training loop
    call what launch, metrics and resume add, so those lines do no harm."""
    if missing := set(concerns) - set(there):
        raise click.ClickException(f"{sealed.name} must be sealed with {', '.join(sorted(missing))}; pack it anew.")
    for path in sealed_files(sealed):
        if Path(path).suffix in _CODE:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(sealed / path, folder / path)
