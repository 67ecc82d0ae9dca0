"""OUT/report.png for the paper's tables and for other tables: above all, no text is cut off or covered."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image, ImageDraw
from report_lab import CREDIT, fill_paper

from experiments import charts, report, summary
from experiments.contact import wrapped
from experiments.results import load_results
from experiments.summary import WIDTH_PX, font, paper_png
from experiments.thumbnails import uniform_note

Box = tuple[float, float, float, float]


@pytest.fixture
def written(monkeypatch) -> list[tuple[str, Box]]:
    """Every text that is drawn, and its box."""
    found: list[tuple[str, Box]] = []
    real = ImageDraw.ImageDraw.text

    def text(self, xy, text, fill=None, font=None, anchor=None, *args, **kwargs):
        found.append((text, self.textbbox(xy, text, font, anchor=anchor, spacing=kwargs.get("spacing", 4))))
        return real(self, xy, text, fill, font, anchor, *args, **kwargs)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    return found


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.mark.parametrize("smoke", [False, True], ids=["full", "smoke"])
def test_no_text_of_the_papers_image_is_cut_or_covers_another(out, written, smoke):
    fill_paper(out, smoke)
    paper_png(load_results(out), out / "report.png")
    with Image.open(out / "report.png") as image:
        size = image.size
    assert size[0] == WIDTH_PX
    assert len(written) > 30
    for text, (left, top, right, bottom) in written:
        assert min(left, top) >= 0, f"{text!r} is cut"
        assert right <= size[0], f"{text!r} is cut"
        assert bottom <= size[1], f"{text!r} is cut"
    for (text, a), (other, b) in combinations(written, 2):
        covers = min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])
        assert not covers, f"{text!r} covers {other!r}"


def test_the_papers_image_has_every_row_with_paper_ours_difference_and_status(out, written):
    fill_paper(out)
    paper_png(load_results(out), out / "report.png")
    texts = [text for text, _ in written]
    at = dict(written)
    for row in (["w/ MTM", "21.14", "1900", "+1879", "done"], ["LongVideoGAN", "116.5", "–", "cited"]):
        assert set(row) <= set(texts)
    line = [text for text, box in written if abs(box[1] - at["StyleSV, SkyTimelapse"][1]) < 12]
    assert line[:5] == ["StyleSV, SkyTimelapse", "73.9", "–", "–", "partial"]
    assert {"failed", "Plain", "MTM", "Offset field", "Generator loss"} <= set(texts)
    assert CREDIT in texts
    assert "Rows: 3 of 5 done, 1 failed, 1 partial." in " ".join(texts).replace("\n", " ")
    assert texts.count("(nearly uniform)") == 1  # one trainer only; the lab's strips are grey
    assert not any("Smoke test" in text for text in texts)


def test_the_papers_image_of_a_smoke_test_says_so(out, written):
    fill_paper(out, smoke=True)
    paper_png(load_results(out), out / "report.png")
    assert any(text.startswith("Smoke test: ") for text, _ in written)


def test_a_table_with_sections_gets_the_papers_image_and_a_small_copy_of_it(out, monkeypatch):
    fill_paper(out)
    drawn = []
    monkeypatch.setattr(report, "paper_png", lambda _, path: drawn.append(Image.new("RGB", (9, 9)).save(path, "png")))
    result = CliRunner().invoke(report.main, ["--out", str(out), "--image", str(out / "small.png")])
    assert result.exit_code == 0, result.output
    assert len(drawn) == 1
    with Image.open(out / "small.png") as image:
        assert (image.mode, image.size) == ("P", (9, 9))


def test_small_images_with_long_titles_do_not_share_a_band_that_is_too_narrow_for_them():
    tiny = Image.new("RGB", (10, 40))
    titled = [("StyleGAN2 w/ MTM, ImageNet-128: learned offsets", tiny)] * 5
    bands = charts._pack(titled)
    assert sum(len(band) for band in bands) == 5
    for band in bands:
        shares = [charts._room(one) / sum(charts._room(other) for other in band) for one in band]
        for (title, _), share in zip(band, shares, strict=True):
            assert share * charts.WIDTH_INCHES >= charts.TITLE_INCHES * len(title) - 1e-9


def test_the_heading_of_any_other_table_is_wrapped(out):
    fill_paper(out)
    results = load_results(out)
    heading = charts._heading(results, results.rows)
    assert all(len(line) <= 160 for text, *_ in heading for line in text.split("\n"))
    assert "(stand-in" not in heading[1][0]
    assert heading[1][0].replace("\n", " ").count("FID") == 4  # FID and sFID for two rows


def test_text_is_wrapped_at_words_and_cut_with_an_ellipsis():
    face = font(17)
    lines = wrapped("StyleGAN2 w/ MTM, YouTube Driving frames", face, 170).split("\n")
    assert " ".join(lines) == "StyleGAN2 w/ MTM, YouTube Driving frames"
    assert len(lines) > 1
    assert max(face.getlength(line) for line in lines) <= 170
    short = summary._cut("StyleGAN2 w/ MTM, YouTube Driving frames", face, 100)
    assert short.endswith("…")
    assert face.getlength(short) <= 100


def test_nearly_uniform_images_are_said_to_be_so_whatever_the_gaps():
    grey = np.full((20, 40, 3), 0xDD, dtype=np.uint8)
    grey[2:18, 2:18], grey[2:18, 22:38] = 127, 128
    assert uniform_note(Image.fromarray(grey)) == (
        "Nearly uniform, and not stretched: standard deviation 0.5 of 255 grey levels."
    )
    grey[2:18, 22:38] = 150
    assert uniform_note(Image.fromarray(grey)) == ""
