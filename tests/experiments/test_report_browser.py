"""The report in headless Chromium without network access: its slider, its videos and its layout."""

from pathlib import Path

import pytest
from browser import PROGRAM, Browser
from PIL import Image
from report_lab import fill_many, fill_paper, finish, make_table, start

from experiments import report
from experiments.report import render

DESK, PHONE = (1280, 900, False), (390, 844, True)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.fixture(autouse=True)
def no_summary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace report.png by one pixel; the page does not show it."""
    for name in ("summary_png", "paper_png"):
        monkeypatch.setattr(report, name, lambda _, path: Image.new("RGB", (1, 1)).save(path, "png"))


def render_pair(out: Path) -> None:
    table = make_table()
    start(out, table)
    finish(out, table, "plain", 4.0)
    finish(out, table, "low", 3.0)
    render(out)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    if PROGRAM is None:
        pytest.skip("no Chromium: apt-get install chromium")
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture
def browser(chromium):
    chromium.media(prefers_color_scheme="light", prefers_reduced_motion="no-preference")
    return chromium


BAR = """(() => {  // where the red bar of the film is, as a share of its width, from the pixels that show
  const film = document.querySelector(".film"), image = film.querySelector("img");
  const canvas = document.createElement("canvas"), step = (film.getBoundingClientRect().top
    - image.getBoundingClientRect().top) / image.getBoundingClientRect().height * 16;
  canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
  const context = canvas.getContext("2d"); context.drawImage(image, 0, 0);
  const row = context.getImageData(0, (step + .5) * canvas.height / 16, canvas.width, 1).data;
  let left = 0; while (row[4 * left] < 160) left++;
  return left / canvas.width; })()"""
VALUE = "document.querySelector('.sweep input').value"
SAID = "document.querySelector('.sweep output').textContent"


def shown(browser: Browser) -> tuple[float, str, float]:
    """The slider's value, its label, and the strength that the image shows."""
    return float(browser.run(VALUE)), browser.run(SAID), round(browser.run(BAR) / 0.6, 1)


def test_the_slider_moves_the_images_by_keyboard(browser, out):
    render_pair(out)
    browser.open(out / "report.html", 1200, 900)
    assert shown(browser) == (1.0, "1.0, as trained", 1.0)
    for _ in range(20):
        if browser.run("document.activeElement.type") == "range":
            break
        browser.press("Tab")
    assert browser.run("document.activeElement.labels[0].textContent") == "Strength"
    browser.press("ArrowRight")
    assert shown(browser) == (1.1, "1.1", 1.1)
    browser.press("Home")
    assert shown(browser) == (0.0, "0.0, offsets off", 0.0)
    assert browser.run("document.activeElement.getAttribute('aria-valuetext')") == "0.0, offsets off"
    browser.press("End")
    assert shown(browser) == (1.5, "1.5", 1.5)


def test_the_slider_works_by_touch_on_a_phone_and_nothing_is_wider_than_it(browser, out):
    render_pair(out)
    browser.open(out / "report.html", 360, 740, mobile=True)
    assert browser.run("document.documentElement.scrollWidth") == 360
    browser.run("document.querySelector('.sweep').scrollIntoView()")
    box = browser.run("JSON.parse(JSON.stringify(document.querySelector('.sweep input').getBoundingClientRect()))")
    assert box["height"] >= 44
    assert box["width"] > 200
    y = box["y"] + box["height"] / 2
    browser.touch((box["x"] + box["width"] * 2 / 3, y), (box["x"] + box["width"] / 2, y), (box["x"] + 1, y))
    assert shown(browser) == (0.0, "0.0, offsets off", 0.0)


def test_the_page_asks_for_nothing_but_itself(browser, out):
    fill_many(out)
    render(out)
    browser.open(out / "report.html", 1200, 900)
    assert [url for url in browser.requests if not url.startswith("data:")] == [(out / "report.html").as_uri()]
    assert browser.run("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert browser.run("document.querySelectorAll('details.group[open]').length") == 2
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")


TEXTS = """(() => {  // every line of text that shows: [text, left, top, right, bottom, size of its type, px]
  const found = [], walker = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, parent = node.parentElement;
    if (!node.data.trim() || parent.closest("pre, option, .slider") || !parent.checkVisibility()) continue;
    const range = document.createRange(); range.selectNodeContents(node);
    const size = parent.closest("svg") ? 99 : parseFloat(getComputedStyle(parent).fontSize);
    const text = node.data.trim().slice(0, 40);
    for (const r of range.getClientRects())
      if (r.width > 1) found.push([text, r.left, r.top + scrollY, r.right, r.bottom + scrollY, size]);
  }
  return JSON.parse(JSON.stringify(found)); })()"""
CUT = """[...document.querySelectorAll("main *")].filter(e => !e.closest("pre, svg, .film, .scroller")
  && e.scrollWidth > e.clientWidth + 1 && e.clientWidth && getComputedStyle(e).display != "inline")
  .map(e => e.tagName + "." + e.className)"""


@pytest.mark.parametrize("screen", [DESK, PHONE], ids=["desk", "phone"])
@pytest.mark.parametrize("smoke", [False, True], ids=["full", "smoke"])
def test_the_papers_tables_fit_and_nothing_overlaps_or_is_cut(browser, out, screen, smoke):
    fill_paper(out, smoke)
    render(out)
    browser.open(out / "report.html", *screen)
    browser.run("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert browser.run("document.documentElement.scrollWidth") <= screen[0]
    assert browser.run(CUT) == []
    lines = browser.run(TEXTS)
    assert len(lines) > 100
    assert [line for line in lines if line[1] < 0 or line[3] > screen[0] + 0.5] == []
    assert min(line[5] for line in lines) >= 12
    for i, (text, left, top, right, bottom, _) in enumerate(lines):
        for other, left2, top2, right2, bottom2, _ in lines[i + 1 :]:
            across, down = min(right, right2) - max(left, left2), min(bottom, bottom2) - max(top, top2)
            assert across < 1 or down < 6, f"{text!r} overlaps {other!r}"  # line boxes may touch, letters may not


CONTRAST = """(() => {  // the least contrast of a text with what is behind it (WCAG 2), and the text
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const linear = c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => .2126 * linear(r / 255) + .7152 * linear(g / 255) + .0722 * linear(b / 255);
  const behind = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
    if (c.length == 3 || c[3] > 0) return c; } };
  let least = [99, ""];
  for (const e of document.querySelectorAll("main *:not(svg *)")) {
    if (![...e.childNodes].some(n => n.nodeType == 3 && n.data.trim()) || !e.checkVisibility()) continue;
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
    const ratio = (a + .05) / (b + .05);
    if (ratio < least[0]) least = [ratio, e.textContent.slice(0, 40)];
  }
  return least; })()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_dark(browser, out, scheme):
    fill_paper(out)
    render(out)
    browser.media(prefers_color_scheme=scheme)
    browser.open(out / "report.html", *DESK)
    ratio, text = browser.run(CONTRAST)
    assert ratio >= 4.5, f"{text!r} has a contrast of {ratio:.1f} only"
    assert browser.run("getComputedStyle(document.body).backgroundColor") == (
        "rgb(247, 248, 250)" if scheme == "light" else "rgb(18, 22, 28)"
    )


def test_videos_move_and_do_not_where_that_is_not_wanted(browser, out):
    fill_paper(out)
    render(out)
    visible = "[...document.querySelectorAll('.moving')].filter(image => image.checkVisibility()).length"
    strips = "document.querySelectorAll('img[alt^=\"Generated videos\"]').length"
    browser.media(prefers_reduced_motion="no-preference")
    browser.open(out / "report.html", *DESK)
    assert (browser.run(visible), browser.run(strips)) == (1, 1)
    count = """(async () => { const decoder = new ImageDecoder({ type: "image/webp", data: await (await fetch(
      document.querySelector(".moving").src)).arrayBuffer() }); await decoder.tracks.ready;
      return decoder.tracks.selectedTrack.frameCount; })()"""
    assert browser.run(count) == 8
    browser.run("document.querySelector('.play input').click()")
    assert browser.run(visible) == 0
    browser.media(prefers_reduced_motion="reduce")
    browser.open(out / "report.html", *DESK)
    assert (browser.run(visible), browser.run(strips)) == (0, 1)
    assert not browser.run("document.querySelector('.play').checkVisibility()")
