"""Figures and page of a complete, made-up study."""

from PIL import Image
from study_lab import study, whole

from experiments.study import figures
from experiments.study.page import results_lines


def test_every_figure_is_drawn_of_a_whole_study(tmp_path):
    made = whole()
    for name in ("paired", "curves", "controls", "offsets"):
        getattr(figures, name)(made, tmp_path / f"{name}.png")
        with Image.open(tmp_path / f"{name}.png") as image:
            assert len(set(image.convert("L").resize((64, 64)).tobytes())) > 10


def test_a_metrics_title_shows_which_direction_is_better():
    assert figures.named("person_rate") == "Person rate ↑"
    assert figures.named("frechet") == "Fréchet, random ↓"


def test_figures_of_no_run_are_empty_and_none_of_offsets(tmp_path):
    figures.paired(study(), tmp_path / "paired.png")
    figures.curves(study(), tmp_path / "curves.png")
    assert not figures.offsets(study(), tmp_path / "offsets.png")
    assert not (tmp_path / "offsets.png").exists()


def test_the_page_of_a_whole_study_has_every_run_and_nothing_left(tmp_path):
    made = whole()
    del made.rows["people-low"][1]["analysis"]["limbs"]["exchange"]  # analysed by an earlier version
    lines = list(results_lines(made, ["paired.png"]))
    assert sum(line.startswith("| `people") and "-0123abcd` |" in line for line in lines) == 10 + 18 + 4
    assert "| MTM gains on people | primary | upheld |" in lines
    assert "| offsets off: pose collapses | primary | upheld |" in lines
    assert "| 0 | 0.7 / 0.2 | 0.5 / – | 0.5 | 0.6 | not run | convs.8, convs.16 |" in lines
    assert "| 0 | 0.7 / 0.71 / 0.69 | 0.8 | 0.2 | – | 0.01 |" in lines
    assert "| 1 | not run |||||" in lines
    text = "\n".join(lines)
    assert "so far" not in text
    assert "(study/paired.png)" in text
