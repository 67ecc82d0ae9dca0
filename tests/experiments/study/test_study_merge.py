"""Merging the runs of several machines into one file: each run once, with all facts a sceptic needs; and its page."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from study_lab import run

from experiments.files import UserError
from experiments.study.__main__ import main
from experiments.study.compare import Study
from experiments.study.gather import ANALYSIS, both, kept, merge, read_results, write_results
from experiments.study.page import BEGIN, END, results_lines, write_page
from experiments.table import load_table
from experiments.trainers.contract import METRICS


def command(*words: str | Path):
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study's first table, as a smoke test."""
    folder = tmp_path_factory.mktemp("study")
    words = ["run", "--preset", "smoke", "--table", "people", "--out", folder / "out", "--cache", folder / "data"]
    done = command(*words)
    assert done.exit_code == 0, done.output
    assert "2 of 2 runs are finished already" in command(*words).output
    return folder / "out"


@pytest.mark.slow
def test_a_smoke_run_is_merged_with_every_fact_and_makes_a_page(smoke, tmp_path):
    into = tmp_path / "results.json"
    done = command("merge", smoke, "--into", into)
    assert done.exit_code == 0, done.output
    assert "2 runs, 2 done" in done.output
    content = read_results(into)
    first = content["runs"][0]
    assert [(one["row"], one["seed"]) for one in content["runs"]] == [("people-low", 0), ("people-plain", 0)]
    assert first["mtm"] == "low"
    assert set(first["metrics"]) == {"person_rate", "joint_distance", "frechet", "frechet_mobilenet"}
    assert set(first["kept"]["0.064"]) == set(first["metrics"])
    value, print_ = first["metrics"]["person_rate"]
    assert 0 <= value <= 1
    assert content["fingerprints"][print_]["weights"] == "stand-in"
    assert first["times"]["0.128"][1] > 0
    assert first["parameters"] > content["runs"][1]["parameters"]
    for fact in ("commit", "versions", "machine", "data_sha256", "time_utc", "options"):
        assert first[fact], fact
    page = tmp_path / "study.md"
    page.write_text(f"# Study\n\n{BEGIN}\n{END}\n\nThe end.\n")
    done = command("report", "--results", into, "--page", page)
    assert done.exit_code == 0, done.output
    text = page.read_text()
    assert "smoke test. Its numbers mean nothing" in text
    assert text.endswith(f"{END}\n\nThe end.\n")
    assert "| study-people | `people-low` | 1 | 1 |" in text
    assert "| study-sets | `openmoji-low` | 1 | not run |" in text
    assert all((tmp_path / "study" / f"{name}.png").stat().st_size > 1000 for name in ("paired", "curves", "controls"))
    assert "(study/offsets.png)" not in text
    assert command("report", "--results", into, "--page", page).exit_code == 0
    assert page.read_text() == text  # a second report gives the same page


@pytest.mark.slow
def test_a_copy_of_a_folder_counts_once_and_brings_its_analysis(smoke, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(smoke, other)
    folder = next((other / "runs" / "people-low").iterdir())
    (folder / ANALYSIS).mkdir()
    (folder / ANALYSIS / "limbs.json").write_text('{"switch": {"person_rate_on": 0.5}}')
    content, said = merge(read_results(tmp_path / "none.json"), [smoke, other])
    assert len(content["runs"]) == 2
    assert said == []
    assert sum(bool(one["analysis"]) for one in content["runs"]) == 1
    again, _ = merge(content, [smoke])
    assert sum(bool(one["analysis"]) for one in again["runs"]) == 1


def done_at(time: str, value: float, **changes) -> dict:
    return run("people-low", 0, value) | {"time_utc": time, "message": "", "status": "done"} | changes


def test_of_two_runs_with_one_identity_the_first_that_was_done_counts(tmp_path, monkeypatch):
    late, early = done_at("2026-02-02T00:00:00Z", 0.7), done_at("2026-01-01T00:00:00Z", 0.6)
    failed = done_at("2025-01-01T00:00:00Z", 0.1, status="failed")
    table = load_table("study-people")
    results = type("Results", (), {"table": table, "problems": []})()
    folders = iter([[failed], [late], [early]])
    monkeypatch.setattr("experiments.study.gather.load_results", lambda _: results)
    monkeypatch.setattr("experiments.study.gather.runs_of", lambda *_: next(folders))
    content, said = merge(read_results(tmp_path / "none"), [tmp_path / name for name in "abc"])
    assert content["runs"] == [early]
    folders = iter([[late]])
    content, said = merge(content, [tmp_path / "d"])
    assert content["runs"] == [early]
    assert said == [f"people-low/0-0123abcd of {tmp_path / 'd'} is counted once: it was done before"]


def test_an_earlier_run_that_replaces_another_is_said(tmp_path, monkeypatch):
    early, late = done_at("2026-01-01T00:00:00Z", 0.6), done_at("2026-02-02T00:00:00Z", 0.7)
    results = type("Results", (), {"table": load_table("study-people"), "problems": []})()
    monkeypatch.setattr("experiments.study.gather.load_results", lambda _: results)
    monkeypatch.setattr("experiments.study.gather.runs_of", lambda *_: [early])
    content, said = merge(read_results(tmp_path / "none") | {"runs": [late]}, [tmp_path / "a"])
    assert content["runs"] == [early]
    assert said == [f"people-low/0-0123abcd of {tmp_path / 'a'} replaces the one that was done later"]


@pytest.mark.parametrize("turned", [False, True])
def test_a_copy_that_lacks_files_takes_nothing_away(turned):
    whole = done_at("t", 0.5, kept={"10": {"frechet": [1.0, "a"], "person_rate": [0.5, "a"]}, "20": {}})
    torn = whole | {"times": {"9": [1, 1]}, "kept": {"10": {"frechet": [1.0, "a"]}}, "metrics": {}}
    first, second = (torn, whole) if turned else (whole, torn)
    assert both(first, second) == whole


def test_kept_generators_are_read_in_order_and_other_folders_left(tmp_path):
    for name in ("kept-20", "kept-9", "kept-mine"):
        (tmp_path / METRICS / name).mkdir(parents=True)
    assert list(kept(tmp_path, {})) == ["9", "20"]


def test_a_folder_without_a_table_is_refused_with_the_next_step(tmp_path):
    into = tmp_path / "results.json"
    done = command("merge", tmp_path / "nowhere", "--into", into)
    assert done.exit_code == 1
    assert "nowhere'. Give the study's OUT: make study-results FROM=" in done.output
    assert not into.exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"schema": "2"}', "got schema: '2'. Restore the file"),
        ('{"runs": {}}', "got runs: {}. Restore the file"),
        ('{"preset": null}', "got preset: None. Restore the file"),
        ('{"runs": [{"row": "people-low"}]}', r"must have seed, .*analysis in every run; runs\[0\] has none"),
        ('{"runs": [1]}', r"runs\[0\] has none"),
        ('{"schema": 1, "runs": [', "expected JSON"),
    ],
)
def test_a_damaged_file_of_runs_is_refused(text, said, tmp_path):
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(UserError, match=said):
        read_results(path)


def test_a_report_of_no_file_or_no_page_writes_nothing(tmp_path):
    page, results = tmp_path / "docs" / "study.md", tmp_path / "r.json"
    page.parent.mkdir()
    page.write_text(f"{BEGIN}\nnumbers\n{END}\n")
    done = command("report", "--results", results, "--page", page)
    assert done.exit_code == 1
    assert "r.json', which is none. Collect the runs first: make study-results." in done.output
    assert "numbers" in page.read_text()
    write_results(results, read_results(results))
    done = command("report", "--results", results, "--page", tmp_path / "other" / "study.md")
    assert done.exit_code == 1
    assert "study.md', which is none. Run it in the checkout." in done.output
    assert not (tmp_path / "other").exists()
    page.write_text(f"{END}\n{BEGIN}\n")
    done = command("report", "--results", results, "--page", page)
    assert "must hold the lines" in done.output
    assert [one.name for one in page.parent.iterdir()] == ["study.md"]


def test_a_folder_of_another_table_or_preset_is_refused(tmp_path, monkeypatch):
    results = type("Results", (), {"table": load_table("quickstart"), "problems": []})()
    monkeypatch.setattr("experiments.study.gather.load_results", lambda _: results)
    with pytest.raises(UserError, match="must be a folder of the study; got quickstart's"):
        merge(read_results(tmp_path / "none"), [tmp_path])
    results.table = load_table("study-people", "smoke")
    with pytest.raises(UserError, match="must be of one preset; got smoke"):
        merge(read_results(tmp_path / "none") | {"preset": "full"}, [tmp_path])


def test_the_file_has_a_run_a_line_and_is_read_back(tmp_path):
    content = {"schema": 1, "preset": "full", "fingerprints": {"a": {"x": 1}}, "runs": [done_at("t", 0.5)] * 2}
    write_results(tmp_path / "r.json", content)
    assert read_results(tmp_path / "r.json") == content
    assert sum('"row"' in line for line in (tmp_path / "r.json").read_text().splitlines()) == 2
    empty = {"schema": 1, "preset": "", "fingerprints": {}, "runs": []}
    write_results(tmp_path / "e.json", empty)
    assert read_results(tmp_path / "e.json") == empty
    (tmp_path / "n.json").write_text(json.dumps({"schema": 99}))
    with pytest.raises(UserError, match="must be of schema 1; got 99"):
        read_results(tmp_path / "n.json")


def test_a_page_without_its_marks_is_left(tmp_path):
    page = tmp_path / "study.md"
    page.write_text("# Mine\n")
    with pytest.raises(UserError, match="must hold the lines"):
        write_page(page, Study(read_results(tmp_path / "none")), [])
    assert page.read_text() == "# Mine\n"


def test_an_empty_study_says_not_run_of_everything(tmp_path):
    text = "\n".join(results_lines(Study(read_results(tmp_path / "none")), []))
    assert text.count("| not run |") > 20
    assert "upheld" not in text


def test_a_verdict_of_fewer_seeds_than_planned_says_so():
    pairs = [run(row, s, v + 0.01 * s) for s in range(4) for row, v in (("people-plain", 0.5), ("people-low", 0.62))]
    pairs = [one | {"message": "", "parameters": 1} for one in pairs]
    line = "| MTM gains on people | primary | upheld"
    lines = list(results_lines(Study({"preset": "full", "runs": pairs}), []))
    assert f"{line}, so far: not all seeds are there |" in lines
    rest = [run("people-plain", 4, 0.53), run("people-low", 4, 0.661)]
    more = [*pairs, *[one | {"message": "", "parameters": 1} for one in rest]]
    assert f"{line} |" in list(results_lines(Study({"preset": "full", "runs": more}), []))


def test_a_failed_run_is_listed_with_its_reason(tmp_path):
    failed = done_at("t", 0.5, status="failed", message="train: NaN\nmore")
    text = "\n".join(results_lines(Study({"preset": "full", "runs": [failed]}), []))
    assert "| `people-low/0-0123abcd` | failed: train: NaN |" in text


def test_a_dry_run_writes_nothing_and_says_what_the_whole_costs(tmp_path):
    done = command("run", "--out", tmp_path / "out", "--dry-run")
    assert done.exit_code == 0, done.output
    assert "the study: 80 runs are left, about " in done.output
    assert not (tmp_path / "out").exists()
    done = command("run", "--out", tmp_path / "out", "--dry-run", "--preset", "smoke")
    assert "the study: 26 runs are left with 2 at a time" in done.output  # the full study's cost does not apply
    assert command("run", "--out", tmp_path, "--table", "nothing").exit_code == 1


def test_data_for_a_misspelt_data_set_is_refused(tmp_path):
    done = command("run", "--out", tmp_path / "out", "--data", "peopel=mine.zip", "--dry-run")
    assert done.exit_code == 1
    assert "with one of aligned, openmoji, people, people64; got 'peopel=mine.zip'" in done.output
