"""Caches statistics of real data between measurements.

Files are in the folder in MTM_CACHE, or in .cache in the repository. A file's name is made from the data's path and the
features. Inside is a key with everything that decides the numbers: the hash of the files' content, which of them were
used, flips (none), the weights' hash, and how images were resized. If the key differs, the entry is stale. Stale and
damaged entries are computed again. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from experiments.files import UserError, atomic_output
from experiments.metrics.features import FeatureStats

ROOT = Path(__file__).resolve().parents[2]
VERSION = 2  # of the format of the entries, and of the decoding of images


def cache_folder() -> Path:
    """The folder of the cache, which need not exist."""
    return Path(os.environ.get("MTM_CACHE") or ROOT / ".cache") / "metrics"


class Entry:
    """The statistics of one set of features of one source."""

    def __init__(self, source: Path, key: dict[str, Any]) -> None:
        """`key`: plain values that decide the numbers. Its `about` names the features; it also decides the file's
        name."""
        self._key = json.dumps({**key, "version": VERSION}, sort_keys=True)
        place = hashlib.sha256(json.dumps([str(source.resolve()), key["about"]]).encode()).hexdigest()[:16]
        self.path = cache_folder() / f"{re.sub(r'[^A-Za-z0-9._-]', '_', source.name)[:60]}-{place}.npz"

    def load(self) -> tuple[FeatureStats, dict[str, Any]] | None:
        """Statistics and facts; None if there is no usable file. An unusable file is reported on stderr."""
        if not self.path.exists():
            return None
        try:
            with self.path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                if str(file["key"]) != self._key:
                    self._say("is stale: the data, the weights or the options changed")
                    return None
                arrays = {name: file[name] for name in file.files if name not in ("key", "facts")}
                return FeatureStats.from_state(arrays), json.loads(str(file["facts"]))
        except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            self._say(f"is damaged ({str(error).splitlines()[0] if str(error) else type(error).__name__})")
            return None

    def save(self, stats: FeatureStats, facts: dict[str, Any]) -> None:
        """Stores statistics and facts. If that fails (a full disk, a read-only folder), prints why and continues."""
        try:
            with atomic_output(self.path) as partial, partial.open("wb") as file:
                arrays = {"key": np.array(self._key), "facts": np.array(json.dumps(facts)), **stats.state()}
                np.savez(file, **arrays)  # type: ignore[arg-type]
        except (UserError, OSError) as error:  # OSError: an I/O error, or a folder that several machines share
            self._say(f"was not kept: {error}", "")

    def _say(self, what: str, then: str = "; computed anew.") -> None:
        print(f"metrics: cached statistics {self.path}: {what}{then}", file=sys.stderr)
