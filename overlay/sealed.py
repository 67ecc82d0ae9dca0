"""A patched checkout that is copied without git: its files, and a note that describes them (SEAL).

A machine that is lent for minutes may have neither a network nor git. The provenance that was read from the original
checkout (overlay/provenance.py) goes with the files, and is valid there as long as no file's bytes change.
"""

import hashlib
import json
import shutil
from collections.abc import Collection
from pathlib import Path

from .catalog import load_hosts
from .errors import OverlayError
from .git import open_checkout, tree_blobs
from .provenance import Provenance, provenance

SEAL = "MTM-SEAL.json"


def seal(root: Path, name: str, target: Path, suffixes: Collection[str]) -> Provenance:
    """Copies the host's tracked files of these suffixes to `target`, with the note. Returns its provenance.

    Raises:
        KeyError: for an unknown host.
        OverlayError: if it is not fetched, or has edits that do not come from a patch.
    """
    found, host = provenance(root, name), next(h for h in load_hosts(root) if h.name == name)
    checkout = open_checkout(host.folder)
    if checkout is None or found["commit"] is None:
        raise OverlayError(f"seal: {host.vendor} must be fetched; got an empty folder. Run: make patch HOST={name}")
    if found["foreign"] is not None:
        raise OverlayError(f"seal: {host.vendor} must hold patches alone; got other edits. See: make edits HOST={name}")
    target.mkdir(parents=True, exist_ok=True)
    files = {}
    for path in sorted(tree_blobs(checkout, checkout.head) or {}):
        if Path(path).suffix in suffixes:
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(host.folder / path, target / path)
            files[path] = _sha256(target / path)
    (target / SEAL).write_text(json.dumps({"provenance": found, "files": files}, indent=1) + "\n", encoding="utf-8")
    return found


def read_seal(folder: Path) -> Provenance | None:
    """The provenance in the folder's note; None if there is no note, or if it is a git checkout, which git describes.
    Raises OverlayError if a file has changed."""
    if not (folder / SEAL).is_file() or (folder / ".git").exists():
        return None
    note = json.loads((folder / SEAL).read_text(encoding="utf-8"))
    changed = [path for path, sha256 in note["files"].items() if _sha256(folder / path) != sha256]
    if changed:
        raise OverlayError(
            f"seal: {folder.name} must be as it was sealed; got changes in {', '.join(changed[:5])}. "
            "Unpack it again, or take a git checkout."
        )
    return note["provenance"]


def sealed_files(folder: Path) -> list[str]:
    """The files named in the note."""
    return list(json.loads((folder / SEAL).read_text(encoding="utf-8"))["files"])


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
