"""A hook for mkdocs (mkdocs.yml): also makes the pages above docs/ pages of the site; README.md is its first page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "CONTRIBUTING.md", "CHANGELOG.md": "CHANGELOG.md"}
PAGES |= {name: name for name in ("NOTICE.md", "LICENSE", "CITATION.cff")}


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages, with their links changed to the site's."""
    from mkdocs.structure.files import File

    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=within_docs(text) if source.endswith(".md") else text))
    return files


def within_docs(text: str) -> str:
    """`text` with its links to docs/PAGE changed to PAGE."""
    return re.sub(r"\]\(docs/", "](", text)
