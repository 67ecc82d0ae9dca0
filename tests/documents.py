"""Reads code blocks from the documentation's pages, so that tests can run them."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def sections(page: str) -> dict[str, list[tuple[str, str]]]:
    """Second-level section -> its fenced blocks in order, as (language, code)."""
    parts = re.split(r"^## (.+)$", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {title: blocks(text) for title, text in zip(parts[1::2], parts[2::2], strict=True)}


def blocks(text: str) -> list[tuple[str, str]]:
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def block(page: str, title: str, language: str) -> str:
    """The section's only block in that language."""
    (code,) = [code for kind, code in sections(page)[title] if kind == language]
    return code
