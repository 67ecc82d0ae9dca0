"""experiments.report: what it says of a run's folder, above all where it must be careful."""

import json
import re
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner
from matplotlib.figure import SubFigure
from PIL import Image

from experiments import charts, ledger, report
from experiments.datasets.zips import DatasetInfo
from experiments.folder import claim
from experiments.report import render
from experiments.results import compare, load_results, number_text, read_stats
from experiments.table import Cost, Dataset, Host, Metric, Preset, Row, Table

CREDIT = "Pictures: Nobody & Co, CC BY-SA 4.0."
FINGERPRINT = {"backbone": "random", "weights_sha256": "ab" * 32, "ddof": 0}


def make_table(*, paper: bool = False, meaningless: bool = False, credit: str = CREDIT) -> Table:
    rows = [
        Row("plain", "Plain", "h", "none", ["frechet"], "d", {"seed": 0}, {"frechet": 4.0} if paper else {}),
        Row("low", "MTM <Low>", "h", "low", ["frechet"], "d", {"seed": 0}, {"frechet": 3.0} if paper else {}, "plain"),
    ]
    preset = Preset(Cost(1, "m", 1, 1), meaningless)
    return Table(
        "t",
        "A <title> & more",
        "About it.",
        "d",
        {"h": Host(["x"], ["y"])},
        {"d": Dataset("Shapes", ["z"], credit=credit)},
        {"frechet": Metric("Frechet distance, random embedding")},
        {"full": preset},
        rows,
    )


def finish(out: Path, table: Table, row_id: str, value: float, status: str = "done", **fingerprint: object) -> None:
    folder = out / "rows" / row_id
    folder.mkdir(parents=True, exist_ok=True)
    lines = [{"kimg": k, "elapsed_s": k * 9.0, "G_loss": 1 / k, "path_length": 0.2 * k, "odd": 1.0} for k in (1, 2, 3)]
    (folder / "stats.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    names = ["reals", "samples"] + ["fig4", "offsets"] * (row_id == "low")
    for name in names:
        Image.new("RGB", (24, 12), "teal").save(folder / f"{name}.png")
    row = table.row(row_id)
    entry = {
        "event": "row",
        "row": row_id,
        "status": status,
        "seed": 0,
        "wall_s": 27.0,
        "peak_rss_bytes": 123_000_000,
        "commands": [["python", "-m", "train", "--outdir", f"OUT/rows/{row_id}"]],
        "dataset": asdict(DatasetInfo(9, 8, "cd" * 32)),
        "trainer": {"mtm_impl": "native", "parameters": 12345},
        "metrics": {"frechet": value, "fingerprint": FINGERPRINT | fingerprint} if status == "done" else {},
        "paper": row.paper,
        **ledger.provenance(),
    }
    ledger.append_entry(out / ledger.NAME, entry)


@pytest.fixture(autouse=True)
def quick_charts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes a second and more: only the tests that look at drawings, by asking for real_charts, wait for it."""
    if "real_charts" not in request.fixturenames:
        monkeypatch.setattr(report, "curve_svg", lambda *_: b"<svg/>")
        monkeypatch.setattr(report, "summary_png", lambda _, path: Image.new("RGB", (1, 1)).save(path, "png"))


@pytest.fixture
def real_charts() -> None:
    pass


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def make_run(out: Path, table: Table, plain: float | None, low: float | None) -> tuple[str, str]:
    """A run's folder with these distances (None: not run), rendered: (markdown, html)."""
    claim(out, table, {"d": DatasetInfo(9, 8, "cd" * 32)}, own_data=False)
    for row_id, value in (("plain", plain), ("low", low)):
        if value is not None:
            finish(out, table, row_id, value)
    render(out)
    return (out / "report.md").read_text(), (out / "report.html").read_text()


class Links(HTMLParser):
    """Every place that a page would fetch from, and every tag it opens."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "srcset", "href", "data", "action")]


def test_the_html_fetches_nothing_and_escapes_what_it_is_given(real_charts, out):
    _, html = make_run(out, make_table(), 4.0, 3.0)
    parser = Links()
    parser.feed(html)
    assert parser.links
    assert all(link.startswith("data:image/") for link in parser.links)
    assert not re.search(r"url\(|@import|<script", html)
    assert "A &lt;title&gt; &amp; more" in html
    assert "low>" not in parser.tags


def test_the_worse_mtm_is_called_worse(out):
    for text in make_run(out, make_table(), 4.0, 5.0):
        assert "higher by 1 (25%): worse. MTM does not win at this scale." in text
        assert "One seed per row" in text


def test_the_better_mtm_is_called_better_with_the_same_caution(out):
    for text in make_run(out, make_table(), 4.0, 3.0):
        assert "lower by 1 (25%): better" in text
        assert "does not win" not in text
        assert "One seed per row" in text


def test_a_small_difference_is_a_tie_and_no_win(out):
    for text in make_run(out, make_table(), 4.0, 3.96):
        assert "a tie (they differ by 1.0%). MTM does not win at this scale." in text


def test_a_row_that_did_not_run_is_shown_as_not_run(out):
    markdown, html = make_run(out, make_table(), 4.0, None)
    assert "| MTM <Low> | low | not run | – |" in markdown
    assert 'class="status not run"' in html
    assert "not compared, because not both rows have finished" in html


def test_a_failed_row_has_a_status_and_no_number(out):
    table = make_table()
    claim(out, table, {"d": DatasetInfo(9, 8, "cd" * 32)}, own_data=False)
    finish(out, table, "plain", 4.0)
    finish(out, table, "low", 3.0, status="failed")
    render(out)
    assert "| MTM <Low> | low | failed | – |" in (out / "report.md").read_text()


def test_the_latest_attempt_counts_and_times_add_up(out):
    table = make_table()
    claim(out, table, {"d": DatasetInfo(9, 8, "cd" * 32)}, own_data=False)
    finish(out, table, "low", 9.0, status="interrupted")
    finish(out, table, "low", 3.0)
    result = load_results(out).by_id("low")
    assert (result.status, result.metrics, result.wall_s) == ("done", {"frechet": 3.0}, 54.0)


def test_every_number_of_a_meaningless_preset_is_labelled(out):
    markdown, html = make_run(out, make_table(meaningless=True), 4.0, 3.0)
    for text in (markdown, html):
        assert "every number here is meaningless" in text
        assert "4.000 (meaningless)" in text
        assert "3.000 (meaningless)" in text
        assert "better" not in text.replace("method is better", "")


def test_the_paper_columns_appear_with_the_papers_numbers_only(out, tmp_path):
    markdown, html = make_run(out, make_table(paper=True), 4.1, 3.6)
    assert "Frechet distance, random embedding: paper" in html
    assert "| 3.600 | 3.000 | +0.6 | higher by 0.6 (20%): worse |" in markdown
    other = tmp_path / "other"
    other.mkdir()
    assert ": paper" not in make_run(other, make_table(), 4.1, 3.6)[0]


def test_fingerprint_cost_versions_and_commands_are_there(out):
    for text in make_run(out, make_table(), 4.0, 3.0):
        assert "Fingerprint: backbone: random · weights_sha256: abababababababab… · ddof: 0" in text
        for expected in ("9.000", "27 s", "0.12 GB", "12,345", "torch ", "--outdir OUT/rows/low", "native"):
            assert expected in text


def test_rows_with_different_fingerprints_show_both(out):
    table = make_table()
    claim(out, table, {"d": DatasetInfo(9, 8, "cd" * 32)}, own_data=False)
    finish(out, table, "plain", 4.0)
    finish(out, table, "low", 4.0, ddof=1)
    render(out)
    markdown = (out / "report.md").read_text()
    assert "Fingerprint: Plain: backbone: random" in markdown
    assert "ddof: 1" in markdown


def test_fewer_pictures_than_dimensions_bring_a_caution(out):
    table = make_table()
    claim(out, table, {"d": DatasetInfo(9, 8, "cd" * 32)}, own_data=False)
    finish(out, table, "plain", 4.0, dimensions=192, real_nimg=100, generated_nimg=5000)
    render(out)
    markdown = (out / "report.md").read_text()
    assert markdown.count("Caution: ") == 1
    assert "Plain: real_nimg is 100, fewer than the 192 dimensions" in markdown


def test_time_and_memory_of_all_calls_are_there(out):
    make_run(out, make_table(), 4.0, 3.0)
    for wall_s, peak in ((100, 1_500_000_000), (20, 900_000_000)):
        ledger.append_entry(out / ledger.NAME, {"event": "call", "wall_s": wall_s, "peak_rss_bytes": peak})
    render(out)
    assert "everything: 2 min 00 s in 2 calls, at most 1.50 GB" in (out / "report.md").read_text()


def test_no_number_is_called_fid(out):
    for text in make_run(out, make_table(), 4.0, 3.0):
        assert not re.search(r"\bFID\b", re.sub(r"base64,[A-Za-z0-9+/=]+", "", text))


def test_the_credit_stands_with_every_group_of_pictures(real_charts, out, monkeypatch):
    drawn: list[str] = []
    real_sub_text = SubFigure.text
    monkeypatch.setattr(SubFigure, "text", lambda *a, **k: (drawn.append(a[3]), real_sub_text(*a, **k))[1])
    markdown, html = make_run(out, make_table(), 4.0, 3.0)
    assert html.count("Nobody &amp; Co, CC BY-SA 4.0") == html.count('<div class="grid wide">') == 3
    assert markdown.count(CREDIT) == 4  # with the summary picture too
    assert CREDIT in drawn


def test_pictures_of_ones_own_bring_no_credit(out):
    for text in make_run(out, make_table(credit=""), 4.0, 3.0):
        assert "CC BY-SA" not in text


def test_the_markdown_links_pictures_that_exist(out):
    markdown, _ = make_run(out, make_table(), 4.0, 3.0)
    links = re.findall(r"!\[[^]]*\]\(([^)]+)\)", markdown)
    assert len(links) >= 6
    assert all((out / link).is_file() for link in links)


def test_the_summary_picture_holds_the_rows_pictures(real_charts, out):
    make_run(out, make_table(), 4.0, 3.0)
    with Image.open(out / "report.png") as picture:
        assert picture.width > 1200
        counts = picture.convert("RGB").getcolors(1 << 24)
    assert {colour: count for count, colour in counts}[0, 128, 128] > 50_000


def test_curves_of_both_rows_are_drawn_for_every_loss(real_charts, out):
    make_run(out, make_table(), 4.0, 3.0)
    results = load_results(out)
    assert charts.curve_names(results) == ["G_loss", "path_length", "odd"]
    for theme in ("light", "dark"):
        svg = charts.curve_svg(results, "path_length", theme).decode()
        assert all(colour in svg for colour in charts.THEMES[theme]["rows"].split()[:2])
    assert charts.curve_svg(results, "odd", "dark") == charts.curve_svg(results, "odd", "dark")


def test_rendering_twice_gives_the_same_files(real_charts, out):
    first = make_run(out, make_table(), 4.0, 3.0)
    render(out)
    assert ((out / "report.md").read_text(), (out / "report.html").read_text()) == first


def test_a_run_without_any_result_still_renders(real_charts, out):
    markdown, _ = make_run(out, make_table(), None, None)
    assert markdown.count("not run") == 2


def test_a_torn_ledger_is_mentioned_in_the_report(out):
    make_run(out, make_table(), 4.0, 3.0)
    with (out / ledger.NAME).open("a") as file:
        file.write('{"schema": 1, "ro')
    render(out)
    assert "problem: ledger.jsonl: line 3 is torn" in (out / "report.md").read_text()


def test_a_folder_that_is_no_run_is_refused_with_the_next_step(tmp_path):
    result = CliRunner().invoke(report.main, ["--out", str(tmp_path)])
    assert result.exit_code == 1
    assert "expected run.json in it" in result.output
    assert "make quickstart" in result.output
    assert list(tmp_path.iterdir()) == []


def test_stats_repeated_by_a_resume_count_once_and_damaged_lines_are_reported(tmp_path):
    lines = ['{"kimg": 1, "a": 1}', '{"kimg": 2, "a": 2}', "{torn", '{"kimg": 1.5, "a": 3}', '{"kimg": 2, "a": 4}']
    (tmp_path / "stats.jsonl").write_text("\n".join(lines))
    problems: list[str] = []
    ticks = read_stats(tmp_path / "stats.jsonl", problems)
    assert [(tick["kimg"], tick["a"]) for tick in ticks] == [(1, 1), (1.5, 3), (2, 4)]
    assert len(problems) == 1
    assert "line 3" in problems[0]


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (4.31234, "4.312"), (0.0001234, "0.0001234"), (0, "0.000"), (123456.7, "123457")]
)
def test_numbers_have_four_digits(value, text):
    assert number_text(value) == text


def test_where_higher_is_better_higher_is_better():
    assert compare(0.9, 0.5, Metric("Recall", lower_is_better=False)).endswith("better")
    assert compare(0.3, 0.5, Metric("Recall", lower_is_better=False)).endswith("worse")
