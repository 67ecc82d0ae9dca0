"""Links between pages and files, and parts of pages that scripts make. `make docs` checks the pages' links, too."""

import re
import subprocess
from pathlib import Path

import pytest
from documents import ROOT

from tools.diagram import SVG, draw

PAGES = sorted(path.relative_to(ROOT) for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
LINK = re.compile(r"\]\(([^()\s]+)\)")


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes from the headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_pages_are_found():
    assert {Path("README.md"), Path("docs/recipes.md"), Path("docs/hosts/eg3d.md")} <= set(PAGES)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_within_the_repository_leads_somewhere(page):
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"`[^`]*`", "", text)
    for link in LINK.findall(text):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = ROOT / page.parent / name if name else ROOT / page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_diagram_is_what_its_script_draws():
    assert (ROOT / SVG).read_text(encoding="utf-8") == draw()


def test_nothing_names_this_machine():
    tracked = subprocess.run(["git", "ls-files", "*.md", "*.yml", "*.cff"], cwd=ROOT, capture_output=True, text=True)
    for name in tracked.stdout.split():
        assert str(ROOT) not in (ROOT / name).read_text(encoding="utf-8"), name
