"""The report by the paper's tables: cited values, costs, partial rows, and presets that differ from the paper."""

import json
import re
from pathlib import Path

import pytest
from report_lab import DATA, TITLE, finish, make_row, make_run, make_table

from experiments.costs import BENCH
from experiments.folder import claim
from experiments.report import render
from experiments.report_markdown import aligned
from experiments.report_table import Line, TableRow, tables_text
from experiments.results import load_results
from experiments.table_model import Entry, Preset, Section, Table

PAPER = {"frechet": 4.0}


def sectioned(**preset) -> Table:
    """Tables that share rows. One cites a value, one shows costs."""
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


def row_of(out: Path, section: int, row: int) -> TableRow:
    return tables_text(load_results(out))[section].rows[row]


def measures(out: Path) -> dict[str, Line]:
    """The lines of Table 4's second row, keyed by metric."""
    return {line.metric: line for line in row_of(out, 1, 1).lines}


def test_a_cited_value_is_marked_and_has_nothing_of_ours(out):
    begin(out, sectioned())
    cited = row_of(out, 0, 0)
    assert (cited.title, cited.status, cited.mtm, cited.cost) == ("DIGAN", "cited", "–", [])
    assert cited.lines == [Line(TITLE, paper="83.1")]


def test_a_row_of_two_tables_is_in_both_with_its_number(out):
    table = sectioned()
    begin(out, table)
    finish(out, table, "plain", 4.1)
    for section, row in ((0, 1), (1, 0)):
        found = row_of(out, section, row)
        assert (found.title, found.status) == ("baseline", "done")
        assert (found.lines[0].ours, found.lines[0].difference) == ("4.100", "+0.1")
        assert found.cost == ["3 kimg", "27 s", "9.000 s/kimg", "0.12 GB of memory", "12,345 parameters"]
    assert (row_of(out, 1, 1).status, row_of(out, 1, 1).cost) == ("not run", [])


def test_costs_are_those_of_the_bench_beside_the_papers(out):
    begin(out, sectioned())
    before = measures(out)["training time, ×"]
    assert (before.ours, before.paper, before.difference) == ("–", "1.2", "–")
    settings = {"none": {"training_ratio": 1.0, "inference_ratio": 1.0, "parameters": 27_752_733}}
    settings["low"] = {"training_ratio": 1.034, "inference_ratio": 1.01, "parameters": 28_443_969}
    (out / BENCH).write_text(json.dumps({"device": "cuda", "settings": settings}))
    found = measures(out)
    assert found["training time, ×"] == Line("training time, ×", "1.034", "1.2", "-0.166")
    assert found["inference time, ×"].ours == "1.010"
    assert (found["parameters, M"].ours, found["parameters, M"].paper) == ("28.44", "28.55")
    (out / BENCH).write_text(json.dumps({"device": "cpu", "settings": settings}))
    on_cpu = measures(out)["training time, ×"]
    assert (on_cpu.whole, on_cpu.verdict, on_cpu.grey) == ("1.034 (on a CPU)", "not compared: on a CPU", True)
    (out / BENCH).write_text("{")
    assert measures(out)["training time, ×"].ours == "–"
    assert any(BENCH in problem for problem in load_results(out).problems)


def test_a_preset_on_other_data_is_not_held_against_the_paper(out):
    table = sectioned(comparable=False)
    begin(out, table)
    finish(out, table, "plain", 4.1)
    line = row_of(out, 0, 1).lines[0]
    assert (line.verdict, line.difference, line.grey) == ("not compared: preset full", "+0.1", True)
    assert "other data than the paper's: Shapes." in tables_text(load_results(out))[0].note


def test_stand_in_weights_are_not_held_against_the_paper_and_a_large_difference_has_no_exponent(out):
    table = sectioned()
    begin(out, table)
    finish(out, table, "plain", 1517.0, weights="stand-in")
    line = row_of(out, 0, 1).lines[0]
    assert (line.whole, line.difference) == ("1517 (stand-in weights)", "+1513")
    assert (line.verdict, line.grey) == ("not compared: stand-in weights", True)


def test_a_run_that_was_begun_and_has_not_ended_is_partial(out):
    table = sectioned()
    begin(out, table)
    folder = make_run(table, table.rows[0], 0, out).train
    folder.mkdir(parents=True)
    (folder / "stats.jsonl").write_text(json.dumps({"kimg": 1.5, "elapsed_s": 3.0}) + "\n")
    found = row_of(out, 0, 1)
    assert (found.status, found.kind, found.cost[0]) == ("partial", "partial", "1.5 of 3 kimg")
    render(out)
    html = (out / "report.html").read_text()
    assert '<span class="status partial">partial</span>' in html
    assert '<span class="status not-run">not run</span>' in html
    assert '<a href="#t1">Table 1</a><span>0 of 1 done, 1 partial, 1 cited</span>' in html
    assert "| baseline | none | partial |" in re.sub(" +", " ", (out / "report.md").read_text())


def test_a_done_row_whose_metric_was_not_asked_for_says_not_measured(out):
    table = sectioned()
    begin(out, table)
    finish(out, table, "plain", None, entry={"metrics": {}})
    line = row_of(out, 0, 1).lines[0]
    assert (line.ours, line.verdict) == ("–", "not measured")


def test_the_markdown_table_has_columns_of_equal_width_and_one_line_for_each_number(out):
    table = sectioned()
    begin(out, table)
    finish(out, table, "plain", 4.1)
    lines = aligned(tables_text(load_results(out))[1]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["baseline", "", "", "", "w/ MTM", "", "", ""]


def test_a_figure_says_where_its_images_are(out):
    begin(out, sectioned())
    assert tables_text(load_results(out))[2].note == "Its images are below, by row; none was selected."


def test_a_folder_takes_a_second_table_of_the_same_base_and_no_other(out):
    table = sectioned()
    one = table.model_copy(update={"sections": table.sections[:1], "rows": table.rows[:1]})
    two = table.model_copy(update={"sections": table.sections[1:2]})
    begin(out, one)
    begin(out, two)
    assert [section.title for section in tables_text(load_results(out))] == ["Table 1", "Table 4"]
    with pytest.raises(ValueError, match="out must hold this table and preset"):
        begin(out, make_table())
