"""A hook of mkdocs (mkdocs.yml): the pages above docs/ are pages of the site too; README.md is the first."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "CONTRIBUTING.md", "CHANGELOG.md": "CHANGELOG.md"}
PAGES |= {name: name for name in ("NOTICE.md", "LICENSE", "CITATION.cff")}


def on_files(files: Any, config: Any) -> Any:
    """Adds them, with their links as the site has them."""
    from mkdocs.structure.files import File

    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=within_docs(text) if source.endswith(".md") else text))
    return files


def within_docs(text: str) -> str:
    """`text` with its links to docs/PAGE made links to PAGE."""
    return re.sub(r"\]\(docs/", "](", text)
