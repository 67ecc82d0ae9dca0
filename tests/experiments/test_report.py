"""experiments.report: what it says about a table's folder, especially if results need care, and how it looks."""

import re
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner
from matplotlib.figure import SubFigure
from PIL import Image
from report_lab import CREDIT, TITLE, draw, fill_many, finish, make_row, make_run, make_table, start

from experiments import ledger, report
from experiments.curves import MOST_POINTS, curve_names, panels
from experiments.metrics.base import Metric
from experiments.report import render
from experiments.results import RowResult, RunResult, compare, load_results, number_text
from experiments.sheets import STRENGTHS
from experiments.table import Table
from experiments.thumbnails import thumbnails
from experiments.trainers.contract import IMAGES, Tick


@pytest.fixture(autouse=True)
def quick_charts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip drawing, which takes a second, except in tests that check the drawing. Those request real_charts."""
    if "real_charts" not in request.fixturenames:
        monkeypatch.setattr(report, "summary_png", lambda _, path: Image.new("RGB", (1, 1)).save(path, "png"))


@pytest.fixture
def real_charts() -> None:
    pass


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def texts(out: Path) -> tuple[str, str]:
    """The rendered report: (Markdown with runs of spaces reduced to one, HTML)."""
    render(out)
    return re.sub(" +", " ", (out / "report.md").read_text()), (out / "report.html").read_text()


def make_report(out: Path, table: Table, plain: float | None, low: float | None) -> tuple[str, str]:
    """Render the report of a table with these distances (None: not run)."""
    start(out, table)
    for row_id, value in (("plain", plain), ("low", low)):
        if value is not None:
            finish(out, table, row_id, value)
    return texts(out)


class Links(HTMLParser):
    """Every URL that a page would fetch, every link to follow, and every tag that it opens."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "srcset", "data", "action")]
        self.links += [value or "" for name, value in attrs if name == "href"]


def test_the_html_fetches_nothing_links_whole_images_and_escapes_what_it_is_given(out):
    _, html = make_report(out, make_table(), 4.0, 3.0)
    parser = Links()
    parser.feed(html)
    assert parser.fetched
    assert all(link.startswith("data:image/webp;base64,") for link in parser.fetched)
    assert {Path(link).name for link in parser.links} == {"samples.png", "reals.png", "fig4.png", "offsets.png"}
    assert all((out / link).is_file() for link in parser.links)
    assert not re.search(r"url\(|@import|<script src|fetch\(|https?://", html)
    assert "A &lt;title&gt; &amp; more" in html
    assert "low>" not in parser.tags


def test_the_worse_mtm_is_called_worse(out):
    for text in make_report(out, make_table(), 4.0, 5.0):
        assert "higher by 1 (25%): worse. MTM does not win at this scale." in text
        assert "One seed per row" in text


def test_the_better_mtm_is_called_better_with_the_same_caution(out):
    for text in make_report(out, make_table(), 4.0, 3.0):
        assert "lower by 1 (25%): better" in text
        assert "does not win" not in text
        assert "One seed per row" in text


def test_a_small_difference_is_a_tie_and_no_win(out):
    for text in make_report(out, make_table(), 4.0, 3.96):
        assert "a tie (they differ by 1.0%). MTM does not win at this scale." in text


def test_a_row_that_did_not_run_is_shown_as_not_run(out):
    markdown, html = make_report(out, make_table(), 4.0, None)
    assert f"| MTM <Low> | low | not run | {TITLE} | – |" in markdown
    assert 'class="status not-run"' in html
    assert "Rows: 1 of 2 done, 1 not run." in html
    assert "not compared, because MTM &lt;Low&gt; is not run" in html


def test_a_failed_row_has_a_status_a_reason_and_no_number(out):
    table = make_table()
    start(out, table)
    finish(out, table, "plain", 4.0)
    finish(out, table, "low", 3.0, status="failed", entry={"message": "train ended with exit code 1."})
    markdown, _ = texts(out)
    assert f"| MTM <Low> | low | failed | {TITLE} | – |" in markdown
    assert "train ended with exit code 1." in markdown


def test_the_latest_attempt_counts_and_times_add_up(out):
    table = make_table()
    start(out, table)
    finish(out, table, "low", 9.0, status="interrupted")
    finish(out, table, "low", 3.0)
    result = load_results(out).by_id("low")
    assert (result.status, result.metrics, result.wall_s) == ("done", {"frechet": 3.0}, 54.0)


def test_several_seeds_show_mean_spread_and_each_run(out):
    table = make_table(seeds=[0, 1, 2])
    start(out, table)
    for seed, (plain, low) in enumerate([(4.0, 3.0), (4.2, 3.3), (4.4, 3.6)]):
        finish(out, table, "plain", plain, seed=seed)
        finish(out, table, "low", low, seed=seed)
    markdown, html = texts(out)
    assert "| 4.200 ± 0.2 (seed 0: 4.000, seed 1: 4.200, seed 2: 4.400) |" in markdown
    assert "3.300 ± 0.3<small>(seed 0: 3.000, seed 1: 3.300, seed 2: 3.600)</small>" in html
    assert "lower by 0.9 (21%): better (mean of 3 seeds)" in markdown
    assert "One seed per row" not in markdown
    assert html.count('class="other"') == 8  # two more seeds for each of two rows in two panels


def test_a_row_with_seeds_to_go_says_how_many(out):
    table = make_table(seeds=[0, 1])
    start(out, table)
    finish(out, table, "plain", 4.0)
    markdown, _ = texts(out)
    assert f"not run (1 of 2 done) | {TITLE} | 4.000 (seed 0: 4.000, seed 1: not run) |" in markdown


def test_seeds_that_were_measured_in_different_ways_have_no_mean(out):
    table = make_table(seeds=[0, 1])
    start(out, table)
    finish(out, table, "plain", 4.0)
    finish(out, table, "plain", 5.0, seed=1, ddof=1)
    for seed in (0, 1):
        finish(out, table, "low", 3.0, seed=seed)
    markdown, _ = texts(out)
    assert "| – (seed 0: 4.000, seed 1: 5.000) |" in markdown
    assert "not compared, because its runs computed it in different ways" in markdown


def test_a_smoke_test_shows_its_numbers_greyed_and_has_no_other_verdict(out):
    rows = [
        make_row("plain", "Plain", paper={"frechet": 4.0}),
        make_row("low", "Low", "low", baseline="plain", paper={"frechet": 3.0}),
    ]
    markdown, html = make_report(out, make_table(rows=rows, meaningless=True), 4.1, 3.6)
    for text in (markdown, html):
        assert "is a smoke test.** It checks" in text or "is a smoke test.</strong> It checks" in text
        assert not re.search("meaningless|better|worse|One seed", text)
    assert f"| {TITLE} | 4.0 | 4.100 | +0.1 | smoke test |" in markdown
    assert "against the baseline" not in markdown
    greyed = re.findall(r'<td data-label="(\w+)" class="n-\w+ grey">([^<]*)', html)
    assert greyed == [
        *[("ours", "4.100"), ("difference", "+0.1"), ("verdict", "smoke test")],
        *[("ours", "3.600"), ("difference", "+0.6"), ("verdict", "smoke test")],
    ]


def test_the_paper_columns_appear_with_the_papers_numbers_only(out, tmp_path):
    rows = [
        make_row("plain", "Plain", paper={"frechet": 4.0}),
        make_row("low", "Low", "low", baseline="plain", paper={"frechet": 3.0}),
    ]
    markdown, html = make_report(out, make_table(rows=rows), 4.1, 3.6)
    assert '<th class="n-paper">paper</th>' in html
    assert "| 3.0 | 3.600 | +0.6 | higher by 0.6 (20%): worse |" in markdown
    other = tmp_path / "other"
    other.mkdir()
    assert "| paper |" not in make_report(other, make_table(), 4.1, 3.6)[0]


def test_fingerprint_cost_versions_and_commands_are_there(out):
    for text in make_report(out, make_table(), 4.0, 3.0):
        assert "Fingerprint: backbone: random · weights_sha256: abababababababab… · ddof: 0" in text
        for expected in ("9.000", "27 s", "0.12 GB", "12,345", "torch ", "--outdir OUT/runs/low", "native"):
            assert expected in text


def test_rows_of_different_fingerprints_are_not_compared_and_it_says_why(out):
    table = make_table()
    start(out, table)
    finish(out, table, "plain", 4.0)
    finish(out, table, "low", 1.0, ddof=1)
    markdown, _ = texts(out)
    assert "not compared, because their fingerprints differ in ddof: there 0, here 1" in markdown
    assert "better" not in markdown.replace("method is better", "")
    assert "Fingerprint: backbone: random · weights_sha256: abababababababab…\n\n" in markdown
    assert "* Plain: ddof: 0\n* MTM <Low>: ddof: 1\n" in markdown


def test_values_of_stand_in_weights_say_so_and_are_not_compared(out):
    table = make_table()
    start(out, table)
    finish(out, table, "plain", 4.0, weights="stand-in")
    finish(out, table, "low", 1.0, weights="stand-in")
    markdown, html = texts(out)
    for text in (markdown, html):
        assert text.count("(stand-in weights)") >= 2
    assert "not compared, because the extractor's weights are stand-ins" in markdown
    assert "better" not in markdown.replace("method is better", "")


def test_fewer_images_than_dimensions_bring_a_caution(out):
    table = make_table()
    start(out, table)
    finish(out, table, "plain", 4.0, dimensions=192, real_nimg=100, generated_nimg=5000)
    markdown, _ = texts(out)
    assert markdown.count("Caution: ") == 1
    assert "Plain: real_nimg is 100, fewer than the 192 dimensions" in markdown


def test_what_is_no_frechet_distance_needs_no_such_caution(out):
    table = make_table()
    start(out, table)
    line = {"metrics": {"frechet": {"value": 1.0, "fingerprint": {"dimensions": 192, "real_nimg": 100}}}}
    finish(out, table, "plain", 4.0, entry=line)
    assert "Caution: " not in texts(out)[0]


def test_time_and_memory_of_all_calls_are_there(out):
    make_report(out, make_table(), 4.0, 3.0)
    for wall_s, peak in ((100.0, 1_500_000_000), (20.0, 900_000_000)):
        ledger.append_entry(out / ledger.NAME, {"event": "call", "wall_s": wall_s, "peak_rss_bytes": peak})
    assert "everything: 2 min 00 s in 2 calls, at most 1.50 GB" in texts(out)[0]


def test_no_number_is_called_fid(out):
    for text in make_report(out, make_table(), 4.0, 3.0):
        assert not re.search(r"\bFID\b", re.sub(r"base64,[A-Za-z0-9+/=]+", "", text))


def test_the_credit_stands_with_every_group_of_images(real_charts, out, monkeypatch):
    drawn: list[str] = []
    real_sub_text = SubFigure.text
    monkeypatch.setattr(SubFigure, "text", lambda *a, **k: (drawn.append(a[3]), real_sub_text(*a, **k))[1])
    markdown, html = make_report(out, make_table(), 4.0, 3.0)
    assert html.count("Nobody &amp; Co, CC BY-SA 4.0") == html.count('<div class="grid wide">') == 4
    assert markdown.count(CREDIT) == 5  # including the summary image's
    assert CREDIT in drawn


def test_images_of_ones_own_bring_no_credit(out):
    for text in make_report(out, make_table(credit=""), 4.0, 3.0):
        assert "CC BY-SA" not in text


def test_the_markdown_links_images_that_exist(out):
    markdown, _ = make_report(out, make_table(), 4.0, 3.0)
    links = re.findall(r"!\[[^]]*\]\(([^)]+)\)", markdown)
    assert len(links) == 10  # the summary, five images, four strengths
    assert all((out / link).is_file() for link in links)


def test_the_summary_image_holds_the_rows_images(real_charts, out):
    make_report(out, make_table(), 4.0, 3.0)
    with Image.open(out / "report.png") as image:
        assert image.width > 1200
        counts = image.convert("RGB").getcolors(1 << 24)
    assert {colour: count for count, colour in counts}[0, 128, 128] > 50_000


def row_result(*runs: dict[str, list[float]]) -> RowResult:
    """A row with runs that have these curves, one tick per kimg."""
    found = [
        RunResult(
            seed,
            ticks=[
                Tick(kimg=float(i + 1), curves={name: values[i] for name, values in curves.items()})
                for i in range(len(next(iter(curves.values()))))
            ],
        )
        for seed, curves in enumerate(runs)
    ]
    return RowResult(make_row("a", "A", seeds=list(range(len(runs)))), found)


def test_curves_that_tell_nothing_are_not_drawn():
    row = row_result({"r1": [1.0, 2.0], "augment": [0.0, 0.0], "G_loss": [1.0, 0.5], "unheard/of": [1.0, 2.0]})
    assert curve_names([row]) == ["G_loss", "r1"]
    every = {name: [1.0, 2.0] for name in ("path_penalty", "r1", "path_length", "augment", "D_loss", "G_loss")}
    assert curve_names([row_result(every)]) == ["G_loss", "D_loss", "augment", "path_length"]


def test_a_panel_draws_every_run_within_its_frame_and_skips_what_is_not_finite():
    values = [float(i % 7) for i in range(1000)]
    rows = [
        row_result({"G_loss": values}, {"G_loss": [*values[:3], float("nan"), float("inf")]}),
        row_result({"x": []}),
    ]
    (panel,) = panels(rows)
    assert [(line["colour"], line["first"]) for line in panel["lines"]] == [(0, True), (0, False)]
    points = [[tuple(map(float, point.split(","))) for point in line["points"].split()] for line in panel["lines"]]
    assert [len(line) for line in points] == [1000 // -(-1000 // MOST_POINTS) + 1, 3]
    assert all(44 <= x <= 332 and 8 <= y <= 168 for line in points for x, y in line)
    assert [text for _, text in panel["x_ticks"]] == ["0", "500", "1000"]
    assert len({text for _, text in panel["y_ticks"]}) == len(panel["y_ticks"]) >= 3


def test_rows_are_grouped_by_what_they_are_compared_with(out):
    rows = [
        make_row("a", "A"),
        make_row("b", "B"),
        make_row("a-low", "A low", "low", baseline="a"),
        make_row("b-low", "B low", "low", baseline="b"),
        make_row("alone", "Alone"),
    ]
    table = make_table(rows=rows)
    start(out, table)
    for row in rows:
        finish(out, table, row.id, 4.0)
    _, html = texts(out)
    summaries = re.findall(r'<details class="group"( open)?><summary>([^<]*)', html)
    assert summaries == [(" open", "Shapes: A; A low"), (" open", "Shapes: B; B low"), ("", "Shapes: Alone")]


def test_rendering_twice_gives_the_same_files(out):
    first = make_report(out, make_table(), 4.0, 3.0)
    assert texts(out) == first


def test_a_table_without_any_result_still_renders(real_charts, out):
    markdown, _ = make_report(out, make_table(), None, None)
    assert markdown.count("| not run |") == 2


BROKEN_LINES = {
    "no wall_s": {"wall_s": ...},
    "text for wall_s": {"wall_s": "long"},
    "a list as metric": {"metrics": {"frechet": [1]}},
    "text as metric": {"metrics": {"frechet": {"value": "abc", "fingerprint": {}}}},
    "no machine": {"machine": ..., "versions": ..., "git": ..., "trainer": ...},
}


@pytest.mark.parametrize("entry", BROKEN_LINES.values(), ids=BROKEN_LINES)
def test_a_strange_line_in_the_ledger_does_not_keep_the_report_from_rendering(out, entry):
    table = make_table()
    start(out, table)
    finish(out, table, "plain", 4.0)
    finish(out, table, "low", 3.0, entry=entry)
    markdown, _ = texts(out)
    assert "4.000" in markdown
    assert ("problem: " in markdown) == ("machine" not in entry)


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")], ids=str)
def test_a_metric_that_is_no_number_is_a_dash(out, value):
    table = make_table()
    start(out, table)
    finish(out, table, "plain", 4.0)
    finish(out, table, "low", value)
    markdown, _ = texts(out)
    assert f"| MTM <Low> | low | done | {TITLE} | – |" in markdown
    assert "not compared" in markdown


def test_a_torn_ledger_is_mentioned_in_the_report(out):
    make_report(out, make_table(), 4.0, 3.0)
    with (out / ledger.NAME).open("a") as file:
        file.write('{"schema": 2, "ro')
    assert "problem: ledger.jsonl: line 3 is incomplete" in texts(out)[0]


def test_a_damaged_image_is_named_and_the_others_are_shown(real_charts, out):
    table = make_table()
    make_report(out, table, 4.0, float("nan"))
    folder = make_run(table, table.row("low"), 0, out).folder / IMAGES
    for name in ("samples", "strength-0.7"):
        path = folder / f"{name}.png"
        path.write_bytes(path.read_bytes()[:90])
    markdown, html = texts(out)
    assert "problem: images/samples.png cannot be read as an image" in markdown
    assert "problem: images/strength-0.7.png cannot be read as an image" in markdown
    assert 'type="range"' not in html
    assert "offsets.png" in html


def test_a_row_without_all_strengths_has_no_film(out):
    table = make_table()
    make_report(out, table, 4.0, 3.0)
    (make_run(table, table.row("low"), 0, out).folder / IMAGES / "strength-1.5.png").unlink()
    assert 'type="range"' not in texts(out)[1]


def test_a_folder_that_is_no_run_is_refused_with_the_next_step(tmp_path):
    result = CliRunner().invoke(report.main, ["--out", str(tmp_path)])
    assert result.exit_code == 1
    assert "with table.json in it; got" in result.output
    assert "make quickstart" in result.output
    assert list(tmp_path.iterdir()) == []


def test_thumbnails_keep_their_budget_with_images_that_do_not_compress(tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.thumbnails.BUDGET_BYTES", 300_000)
    draw(tmp_path, True, noise_seed=0)
    stills = [[tmp_path / f"{name}.png"] for name in ("samples", "fig4", "offsets")]
    film = [tmp_path / f"strength-{s:.1f}.png" for s in STRENGTHS]
    small, unreadable = thumbnails([*stills, film] * 2)
    assert unreadable == []
    sizes = [len(thumbnail.uri) for thumbnail in small.values()]
    assert len(sizes) == 4
    assert sum(sizes) <= 300_000 * 4 / 3 + 4 * 30
    assert 1.5 * min(sizes) < max(sizes)  # the film gets two shares


@pytest.mark.slow
def test_42_rows_make_a_small_report_in_a_short_time(real_charts, out):
    fill_many(out)
    cpu_s = time.process_time()
    _, html = texts(out)
    assert time.process_time() - cpu_s < 15  # on any machine; an idle one took 1.7 s
    assert len(html) < 5_000_000
    assert html.count('<details class="group"') == 14
    assert html.count('<div class="film"') == 28
    assert "28 comparisons: 28 better, 0 worse, 0 not compared, 0 ties. The table has each." in html


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (4.31234, "4.312"), (0.0001234, "0.0001234"), (0, "0.000"), (123456.7, "123457")]
)
def test_numbers_have_four_digits(value, text):
    assert number_text(value) == text


def test_where_higher_is_better_higher_is_better():
    recall = Metric("recall", "Recall", None, lower_is_better=False)
    assert compare(0.9, 0.5, recall).endswith("better")
    assert compare(1900.25, 0.5, recall) == "higher by 1900 (379950%): better"
    assert compare(0.3, 0.5, recall).endswith("worse")
