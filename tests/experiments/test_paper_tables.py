"""The paper's tables: numbers as printed, runs that several tables share, and the effects of presets."""

from pathlib import Path

import pytest

from experiments import folder
from experiments.data import Data
from experiments.files import UserError
from experiments.paper_tables import ALL, FILES, load_paper, merged, names
from experiments.run import Call
from experiments.study import TABLES as STUDY
from experiments.table import TABLES, load_table
from experiments.table_model import Section, Table

FID3 = ("fid", "clip_fd", "sfid")
FVD = ("fvd16", "fvd128", "fid")
COSTS = ("training_ratio", "inference_ratio", "parameters_m")

# Typed from the paper (arXiv 2308.15472), row by row in its order. None means that the paper prints a dash.
PAPER: dict[str, tuple[tuple[str, ...], list[tuple]]] = {
    "table1a": (FID3, [(21.14, 35.60, 4.52), (19.16, 33.92, 4.39)]),
    "table1b": (FID3, [(21.36, 25.97, 4.79), (13.60, 19.27, 3.57)]),
    "table1c": (FID3, [(4.04, 33.34, 8.15), (2.32, 25.98, 6.93)]),
    "table1d": (FID3, [(6.87, 24.31, 6.06), (5.92, 19.89, 5.70)]),
    "table2": (("fid",), [(3.78,), (4.32,), (4.07,)]),
    "table3a": (
        FVD,
        [
            (85.9, 272.8, None),
            (83.1, 196.7, None),
            (116.5, 152.7, None),
            (73.9, 248.3, 40.8),
            (49.0, 135.9, 49.9),
            (42.3, 124.6, 44.5),
        ],
    ),
    "table3b": (
        FVD,
        [
            (144.7, None, None),
            (128.1, None, None),
            (94.6, None, None),
            (152.0, 267.3, 33.8),
            (97.4, 188.9, 26.6),
            (89.5, 180.6, 25.2),
        ],
    ),
    "table3c": (FVD, [(449.8, 460.6, 28.3), (207.2, 221.5, 19.2), (194.8, 198.4, 10.3)]),
    "table4": (
        (*FID3, *COSTS),
        [
            (21.14, 35.60, 4.52, 1.0, 1.0, 27.78),
            (19.16, 33.92, 4.39, 1.2, 1.0, 28.55),
            (19.35, 34.53, 4.42, 2.1, 1.0, 28.94),
            (20.02, 34.76, 4.46, 3.2, 1.0, 29.32),
        ],
    ),
    # The paper's rows are methods and its columns data sets. Here each cell is a row.
    "tableA1": (("fid",), [(9.37,), (8.72,), (21.36,), (13.60,), (8.40,), (6.16,)]),
    "tableA2": (
        ("fid",),
        [(21.14,), (22.35,), (19.16,), (4.04,), (2.82,), (2.32,), (6.87,), (6.38,), (5.92,)],
    ),
}
FIGURES = {"fig2": "samples", "fig3": "films", "fig4": "fig4", "figA1": "samples", "figA2": "films"}
CITED = {
    "table3a": ["MoCoGAN", "DIGAN", "LongVideoGAN"],
    "table3b": ["MoCoGAN-HD", "DIGAN", "TATS-base"],
}


def sections() -> dict[str, Section]:
    return {section.id: section for name in FILES for section in load_table(name).sections}


@pytest.mark.parametrize("name", PAPER)
def test_every_number_is_the_papers(name: str) -> None:
    section = sections()[name]
    columns, rows = PAPER[name]
    assert (*section.metrics, *section.measures) == columns
    assert [tuple(entry.paper.get(column) for column in columns) for entry in section.entries] == rows


def test_every_table_and_figure_is_there_and_nothing_else() -> None:
    assert list(sections()) == [*PAPER, "fig4", "fig2", "fig3", "figA1", "figA2"]
    assert {name: section.figure for name, section in sections().items() if section.figure} == FIGURES
    assert {path.stem for path in TABLES.glob("*.toml")} == {*FILES, *STUDY, "smoke", "quickstart", "gpu"}


def test_what_the_paper_cites_from_others_is_no_row() -> None:
    cited = {name: [e.title for e in section.entries if not e.row] for name, section in sections().items()}
    assert {name: titles for name, titles in cited.items() if titles} == CITED
    assert len(load_paper("table3a").rows) == 3


def runs(table: Table, out: Path) -> dict[str, Path]:
    call = Call(table, table.rows, out, Data(table, {}, out / "data"))
    return {run.row: run.folder for run in call.make_runs({})}


@pytest.mark.parametrize("preset", ["full", "small", "smoke"])
def test_a_run_that_stands_in_several_tables_is_one_run(
    tmp_path: Path, preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "host_state", lambda name: {"name": name})  # otherwise git runs for each row
    found = {name: runs(load_paper(name, preset), tmp_path) for name in FILES}
    whole = runs(load_paper(ALL, preset), tmp_path)
    assert len(whole) == 29
    for folders in found.values():
        assert folders.items() <= whole.items()
    assert found["table1"]["imagenet-stylegan2"] == found["table4"]["imagenet-stylegan2"]
    assert set(found["tableA2"]) - set(found["table1"]) == {f"{d}-stylegan2-2x" for d in ("imagenet", "church", "cat")}
    assert found["fig4"].items() <= found["table1"].items()
    assert len(set(whole.values())) == 29


@pytest.mark.parametrize("preset", ["full", "small", "smoke"])
def test_an_mtm_row_differs_from_its_baseline_in_mtm_alone(preset: str) -> None:
    table = load_paper(ALL, preset)
    pairs = [(row, table.row(row.baseline)) for row in table.rows if row.baseline]
    assert len(pairs) == 12
    for row, baseline in pairs:
        assert (row.options["mtm"], baseline.mtm) == (row.mtm, "none")
        assert row.mtm != "none"
        assert {**row.options, "mtm": "none"} == baseline.options
        assert (row.trainer, row.dataset, row.metrics) == (baseline.trainer, baseline.dataset, baseline.metrics)


def test_the_longer_baseline_trains_for_twice_the_iterations() -> None:
    table = load_paper("tableA2")
    for data in ("imagenet", "church", "cat"):
        once, twice = (table.row(f"{data}-stylegan2{end}").options for end in ("", "-2x"))
        assert (once["kimg"], twice["kimg"]) == (25_000, 50_000)
        assert {**once, "kimg": 50_000} == twice


def test_full_trains_on_eight_gpus_and_videos_in_two_stages() -> None:
    table = load_paper(ALL)
    assert {row.options["gpus"] for row in table.rows} == {8}
    lengths = {row.id: (row.options.get("stage1-kimg"), row.options["kimg"]) for row in table.rows}
    twice = {f"{data}-stylegan2-2x" for data in ("imagenet", "church", "cat")}
    for row in table.rows:
        once = (25_000, 50_000) if row.trainer == "stylesv" else (None, 25_000)
        assert lengths[row.id] == ((None, 50_000) if row.id in twice else once)


def test_small_and_smoke_take_rendered_data_and_say_that_they_are_not_the_paper() -> None:
    for preset in ("small", "smoke"):
        table = load_paper(ALL, preset)
        assert not table.applied.comparable
        assert table.applied.about
        used = {row.dataset for row in table.rows}
        assert all(name.startswith(f"{preset}-") for name in used)
        assert {row.options["gpus"] for row in table.rows} == {1}
    assert load_paper(ALL, "smoke").meaningless
    assert not load_paper(ALL, "small").meaningless


def test_every_row_has_an_estimate_with_its_source() -> None:
    for preset in ("full", "small", "smoke"):
        for row in load_paper(ALL, preset).rows:
            assert row.estimate is not None
            assert row.estimate.source
            assert row.estimate.s_per_kimg or row.estimate.rest_s


def test_a_part_asks_for_its_own_metrics_and_all_for_those_of_every_part() -> None:
    assert load_paper("tableA2").row("imagenet-stylegan2").metrics == ["fid"]
    assert load_paper(ALL).row("imagenet-stylegan2").metrics == list(FID3)
    assert load_paper("table1b").row("taichi-stylegan3").metrics == list(FID3)


def test_merging_keeps_what_either_table_has() -> None:
    first, second = load_paper("table1a"), load_paper("tableA2")
    for both in (merged(first, second), merged(second, first)):
        assert both.row("imagenet-stylegan2").metrics[0] == "fid"
        assert set(both.row("imagenet-stylegan2").metrics) == set(FID3)
        assert {section.id for section in both.sections} == {"table1a", "tableA2"}
        assert len(both.rows) == 9
    assert merged(first, load_paper("table1")) == load_paper("table1")


def test_a_name_that_is_none_is_refused_with_those_that_are() -> None:
    with pytest.raises(UserError, match=r"table must be one of all, table1, .*, table3c, .*; got 'table5'"):
        load_paper("table5")
    assert {"all", "table1", "table1d", "table3c", "tableA2", "fig4"} <= set(names())
    with pytest.raises(UserError, match="preset must be one of full, small, smoke"):
        load_paper("table1", "tiny")


SHARED = """
base = "paper"
name = "t"
title = "T"
about = "A."

[[sections]]
id = "t"
title = "T"
metrics = ["fid"]
entries = [{ title = "StyleGAN2", row = "imagenet-stylegan2", paper = { fid = 1.0 } }]
"""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            'base = "paper"',
            'base = "papers"',
            "base must be one of paper, study; got 'papers'",
        ),
        ('row = "imagenet-', 'row = "imagnet-', "sections.t.entries.row must be one of"),
        ("fid = 1.0", "fvd16 = 1.0", "sections.t.entries.paper must be one of fid"),
        ('metrics = ["fid"]', 'metrics = ["fidd"]', "sections.t.metrics must be one of"),
        ('metrics = ["fid"]', 'metrics = ["fid"]\nmeasures = ["speed"]', "sections.t.measures must be one of"),
    ],
)
def test_a_mistake_in_a_section_is_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = tmp_path / "t.toml"
    path.write_text(SHARED)
    assert [row.id for row in load_table(str(path)).rows] == ["imagenet-stylegan2"]
    assert old in SHARED
    path.write_text(SHARED.replace(old, new))
    with pytest.raises(UserError, match=said):
        load_table(str(path))
