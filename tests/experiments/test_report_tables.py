"""The report by the paper's tables: cited values, costs, what is partial, and presets that are not the paper's."""

import json
from pathlib import Path

import pytest
from report_lab import DATA, finish, make_row, make_run, make_table

from experiments.costs import BENCH
from experiments.folder import claim
from experiments.report_table import tables_text
from experiments.results import load_results
from experiments.table_model import Entry, Preset, Section, Table

PAPER = {"frechet": 4.0}


def sectioned(**preset) -> Table:
    """Two tables that share a row, one of which cites a value and shows costs."""
    rows = [
        make_row("plain", "Plain", options={"kimg": 3}),
        make_row("low", "Low", "low", baseline="plain", options={"kimg": 3}),
    ]
    shared = Entry(title="baseline", row="plain", paper=PAPER)
    low = Entry(title="w/ MTM", row="low", paper={"frechet": 3.0, "training_ratio": 1.2, "parameters_m": 28.55})
    cited = Entry(title="DIGAN", paper={"frechet": 83.1})
    costs = ["training_ratio", "inference_ratio", "parameters_m"]
    table = make_table(rows=rows)
    sections = [
        Section(id="t1", title="Table 1", metrics=["frechet"], entries=[cited, shared]),
        Section(id="t4", title="Table 4", metrics=["frechet"], measures=costs, entries=[shared, low]),
        Section(id="f", title="Figure 4", metrics=["frechet"], figure="fig4", entries=[Entry(title="w/", row="low")]),
    ]
    presets = {"full": Preset(cost=table.presets["full"].cost, **preset)}
    return table.model_copy(update={"sections": sections, "presets": presets, "base": "paper"})


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def begin(out: Path, table: Table) -> None:
    claim(out, table, {"d": DATA}, [make_run(table, row, 0, out) for row in table.rows])


def cells(out: Path, section: int, row: int) -> dict[str, str]:
    table = tables_text(load_results(out))[section]
    return dict(zip(table["columns"], table["rows"][row], strict=True))


def test_a_cited_value_is_marked_and_has_nothing_of_ours(out):
    begin(out, sectioned())
    cited = cells(out, 0, 0)
    assert (cited["row"], cited["status"], cited["mtm"]) == ("DIGAN", "cited", "–")
    title = next(name for name in cited if name.endswith(": paper"))
    assert cited[title] == "83.1"
    assert {value for name, value in cited.items() if name not in ("row", "status", title, "kimg")} == {"–"}


def test_a_row_of_two_tables_is_in_both_with_its_number(out):
    table = sectioned()
    begin(out, table)
    finish(out, table, "plain", 4.1)
    for section, row in ((0, 1), (1, 0)):
        found = cells(out, section, row)
        assert (found["row"], found["status"]) == ("baseline", "done")
        assert "4.100" in found.values()
        assert "+0.1" in found.values()
    assert cells(out, 1, 1)["status"] == "not run"


def test_costs_are_those_of_the_bench_beside_the_papers(out):
    begin(out, sectioned())
    before = cells(out, 1, 1)
    assert before["training time, ×"] == "–"
    assert before["training time, ×: paper"] == "1.2"
    settings = {"none": {"training_ratio": 1.0, "inference_ratio": 1.0, "parameters": 27_752_733}}
    settings["low"] = {"training_ratio": 1.034, "inference_ratio": 1.01, "parameters": 28_443_969}
    (out / BENCH).write_text(json.dumps({"device": "cuda", "settings": settings}))
    found = cells(out, 1, 1)
    assert (found["training time, ×"], found["inference time, ×"]) == ("1.034", "1.010")
    assert (found["parameters, M"], found["parameters, M: paper"]) == ("28.44", "28.55")
    (out / BENCH).write_text(json.dumps({"device": "cpu", "settings": settings}))
    assert cells(out, 1, 1)["training time, ×"] == "1.034 (on a CPU)"
    (out / BENCH).write_text("{")
    assert cells(out, 1, 1)["training time, ×"] == "–"
    assert any(BENCH in problem for problem in load_results(out).problems)


def test_a_preset_on_other_data_is_not_held_against_the_paper(out):
    table = sectioned(comparable=False)
    begin(out, table)
    finish(out, table, "plain", 4.1)
    found = cells(out, 0, 1)
    assert "not compared: preset full" in found.values()
    assert "+0.1" not in found.values()
    assert "other data than the paper's: Shapes" in tables_text(load_results(out))[0]["note"]


def test_a_run_that_was_begun_and_has_not_ended_is_partial(out):
    table = sectioned()
    begin(out, table)
    folder = make_run(table, table.rows[0], 0, out).train
    folder.mkdir(parents=True)
    (folder / "stats.jsonl").write_text(json.dumps({"kimg": 1.5, "elapsed_s": 3.0}) + "\n")
    found = cells(out, 0, 1)
    assert (found["status"], found["kimg"]) == ("partial", "1.5 of 3")


def test_a_figure_says_where_its_images_are(out):
    begin(out, sectioned())
    assert tables_text(load_results(out))[2]["note"] == "Its images are below, by row; none was selected."


def test_a_folder_takes_a_second_table_of_the_same_base_and_no_other(out):
    table = sectioned()
    one = table.model_copy(update={"sections": table.sections[:1], "rows": table.rows[:1]})
    two = table.model_copy(update={"sections": table.sections[1:2]})
    begin(out, one)
    begin(out, two)
    assert [section["title"] for section in tables_text(load_results(out))] == ["Table 1", "Table 4"]
    with pytest.raises(ValueError, match="out must hold this table and preset"):
        begin(out, make_table())
