"""experiments.run with real child processes: resuming, interrupts, crashes, locks, and tables with mistakes."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from experiments import run as run_module
from experiments.files import UserError
from experiments.ledger import ROOT, read_entries
from experiments.progress import BarProgress, LineProgress, duration_text
from experiments.table import load_table

FAKE = Path(__file__).with_name("fake_host.py")
TABLE = """
name = "tiny"
title = "A tiny table"
about = "For tests."
dataset = "shapes"
parallel = 2

[hosts.fake]
train = ["python", "{fake}", "train"]
evaluate = ["python", "{fake}", "evaluate"]

[datasets.shapes]
title = "Shapes"
make = ["python", "{fake}", "data"]
options = {{ resolution = 8, count = 4 }}
credit = "Pictures: Nobody, CC BY-SA 4.0."

[datasets.user]
title = "The user's own pictures"
make = ["python", "-m", "experiments.datasets.zips"]
options = {{ resolution = 8, min-nimg = 2 }}

[metrics.frechet]
title = "Frechet distance, random embedding"

[options]
kimg = 5
seed = 7

[presets.full.cost]
hours = 0.1
machine = "2 CPU cores"
memory_gb = 1
disk_gb = 0.001

[presets.smoke]
meaningless = true
options = {{ kimg = 2 }}
cost = {{ hours = 0.1, machine = "2 CPU cores", memory_gb = 1, disk_gb = 0.001 }}

[[rows]]
id = "plain"
title = "Plain"
host = "fake"
mtm = "none"
metrics = ["frechet"]

[[rows]]
id = "low"
title = "MTM, Low"
host = "fake"
mtm = "low"
metrics = ["frechet"]
baseline = "plain"
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(TABLE.format(fake=FAKE))
    return path


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.report.render", lambda out: [out / "report.html"])


def arguments(table: Path, *more: str) -> list[str]:
    return [str(table), "--out", str(table.parent / "out"), "--cache", str(table.parent / "cache"), *more]


def call(table: Path, *more: str) -> Result:
    return CliRunner().invoke(run_module.main, arguments(table, *more))


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the runner as a process of its own; whatever a failing test leaves running is killed."""
    started: list[subprocess.Popen[str]] = []

    def start_runner(table: Path, *more: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "experiments.run", *arguments(table, *more)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        # A shell's background jobs, and so their tests, ignore SIGINT; a user's terminal does not.
        heard = {"start_new_session": True, "preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
        started.append(subprocess.Popen(command, cwd=ROOT, text=True, **heard, **pipes))
        return started[-1]

    yield start_runner
    for process in started:
        process.kill()
        process.communicate()


def edit(table: Path, old: str, new: str) -> None:
    text = table.read_text()
    assert old in text
    table.write_text(text.replace(old, new))


def ledger_of(table: Path, event: str = "row") -> list[dict]:
    entries, problems = read_entries(table.parent / "out" / "ledger.jsonl")
    assert not problems
    return [entry for entry in entries if entry["event"] == event]


def final(table: Path, row: str) -> str:
    return (table.parent / "out" / "rows" / row / "final.pt").read_text()


def wait_for(condition, seconds: float = 20.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if result := condition():
            return result
        time.sleep(0.02)
    raise AssertionError(f"{condition} did not come true in {seconds} s")


def ticks(table: Path, row: str, at_least: int) -> bool:
    path = table.parent / "out" / "rows" / row / "stats.jsonl"
    return path.exists() and len(path.read_text().splitlines()) >= at_least


def files_below(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*")}


def test_a_dry_run_prints_every_command_and_writes_nothing(table):
    before = files_below(table.parent)
    result = call(table, "--dry-run")
    assert result.exit_code == 0
    assert len(re.findall(r"^python .*fake_host\.py (?:train|evaluate|data) ", result.output, re.MULTILINE)) == 5
    assert "--mtm low --kimg 5 --seed 7" in result.output
    assert "cost: about 6 min 00 s on 2 CPU cores" in result.output
    assert files_below(table.parent) == before


def test_a_run_makes_rows_ledger_and_report_and_is_not_repeated(table):
    result = call(table)
    assert result.exit_code == 0, result.output
    out = table.parent / "out"
    assert all((out / name).stat().st_size > 0 for name in ("report.md", "report.html", "report.png"))
    assert "MTM, Low against Plain, Frechet distance, random embedding: higher by 1 (25%): worse" in result.output
    first = ledger_of(table)
    assert [entry["status"] for entry in first] == ["done", "done"]
    (whole,) = ledger_of(table, "call")
    assert whole["rows"] == {"plain": "done", "low": "done"}
    assert whole["wall_s"] > 0
    assert whole["peak_rss_bytes"] > 10_000_000
    stamp = (out / "rows/low/final.pt").stat().st_mtime_ns
    again = call(table)
    assert again.exit_code == 0
    assert "2 of 2 rows are finished already" in again.output
    assert ledger_of(table) == first
    assert (out / "rows/low/final.pt").stat().st_mtime_ns == stamp


def test_nothing_in_the_outputs_names_a_place_on_this_machine(table):
    assert call(table).exit_code == 0
    for name in ("ledger.jsonl", "report.md", "report.html"):
        text = (table.parent / "out" / name).read_text()
        assert str(table.parent) not in text
        assert str(ROOT) not in text
        assert sys.executable not in text


def test_only_the_chosen_row_runs_and_the_others_can_follow(table, no_report):
    assert call(table, "--row", "low").exit_code == 0
    assert [entry["row"] for entry in ledger_of(table)] == ["low"]
    assert call(table).exit_code == 0
    assert [entry["row"] for entry in ledger_of(table)] == ["low", "plain"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_resumes_to_the_uninterrupted_result(table, start, no_report, number, code):
    edit(table, "seed = 7", "seed = 7\ntick-s = 0.05")
    edit(table, "kimg = 5", "kimg = 25")
    process = start(table)
    wait_for(lambda: ticks(table, "low", 3) and ticks(table, "plain", 3))
    os.killpg(process.pid, number)  # to the whole group, as a terminal does
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code
    assert "Run the same command again to go on" in errors
    assert [entry["status"] for entry in ledger_of(table)] == ["interrupted", "interrupted"]
    log = (table.parent / "out/logs/low.txt").read_text()
    assert log.count(f"stopped by [{number.value}]") == 1
    result = call(table)
    assert result.exit_code == 0, result.output
    resumed = ledger_of(table)[2:]
    assert all(entry["status"] == "done" and entry["resumed_from_kimg"] >= 3 for entry in resumed)
    broken_off = {row: final(table, row) for row in ("plain", "low")}
    edit(table, "tick-s = 0.05", "tick-s = 0.0")
    straight = CliRunner().invoke(run_module.main, [*arguments(table), "--out", str(table.parent / "straight")])
    assert straight.exit_code == 0
    for row, chain in broken_off.items():
        assert (table.parent / "straight/rows" / row / "final.pt").read_text() == chain


def test_a_second_interrupt_ends_trainers_that_do_not_listen(table, start):
    edit(table, "seed = 7", 'seed = 7\nmode = "deaf"\ntick-s = 0.05')
    edit(table, "kimg = 5", "kimg = 2000")
    process = start(table)
    wait_for(lambda: ticks(table, "low", 2) and ticks(table, "plain", 2))
    process.send_signal(signal.SIGINT)
    time.sleep(0.6)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130


def test_a_crash_shows_its_last_lines_and_the_other_row_goes_on(table, no_report):
    edit(table, 'id = "low"', 'id = "low"\noptions = { mode = "crash-once" }')
    result = call(table)
    assert result.exit_code == 1
    assert "row low: train ended with exit code 1" in result.output
    assert "RuntimeError: the loss must be finite; got nan" in result.output
    assert "logs/low.txt" in result.output
    assert {entry["row"]: entry["status"] for entry in ledger_of(table)} == {"low": "failed", "plain": "done"}
    assert call(table).exit_code == 0
    last = ledger_of(table)[-1]
    assert (last["row"], last["status"], last["resumed_from_kimg"]) == ("low", "done", 3)


def test_an_evaluation_that_failed_is_repeated_without_training_again(table, no_report):
    edit(table, 'id = "low"', 'id = "low"\noptions = { mode = "evaluation-fails-once" }')
    assert call(table).exit_code == 1
    assert [entry["failed_step"] for entry in ledger_of(table) if entry["row"] == "low"] == ["evaluate"]
    stamp = (table.parent / "out/rows/low/final.pt").stat().st_mtime_ns
    assert call(table).exit_code == 0
    assert (table.parent / "out/rows/low/final.pt").stat().st_mtime_ns == stamp
    assert ledger_of(table)[-1]["metrics"]["frechet"] == 5.0


def test_an_interrupt_while_data_is_made_leaves_nothing_half_written(table, start):
    edit(table, "count = 4", 'count = 4, mode = "slow"')
    process = start(table)
    wait_for((table.parent / "cache").exists)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "stopped; nothing half-written was left" in errors
    assert list((table.parent / "cache").iterdir()) == []
    assert not (table.parent / "out" / "rows").exists()


def test_a_trainer_that_cannot_be_started_fails_its_row_only(table, no_report):
    edit(table, 'train = ["python"', 'train = ["no-such-program"')
    result = call(table)
    assert result.exit_code == 1
    assert "exit code 127" in result.output
    assert "no-such-program" in result.output


def test_a_killed_runner_leaves_no_trainer_behind_and_the_next_run_goes_on(table, start, no_report):
    edit(table, "seed = 7", "seed = 7\ntick-s = 0.4")
    process = start(table)
    wait_for(lambda: ticks(table, "low", 2) and ticks(table, "plain", 2))
    process.kill()
    process.wait()
    assert "still uses" in call(table).output

    def finished() -> bool:
        result = call(table)
        assert result.exit_code == 0 or "still uses" in result.output, result.output
        return result.exit_code == 0

    wait_for(finished)
    assert all(entry["resumed_from_kimg"] >= 2 for entry in ledger_of(table))


def test_a_folder_in_use_is_refused_with_the_holders_pid(table):
    with run_module.locked(table.parent / "out"):
        result = call(table)
    assert result.exit_code == 1
    assert f"process {os.getpid()} (or its trainers) still uses" in result.output
    assert "OUT=" in result.output


def test_another_run_in_the_same_folder_is_refused_and_told_what_differs(table, no_report):
    assert call(table).exit_code == 0
    before = ledger_of(table)
    edit(table, "kimg = 5", "kimg = 6")
    result = call(table)
    assert result.exit_code == 1
    assert "rows.plain.options.kimg: there 5, here 6" in result.output
    assert "OUT=" in result.output
    assert call(table, "--preset", "smoke").exit_code == 1
    assert ledger_of(table) == before


def test_titles_and_parallel_may_change_between_calls(table, no_report):
    assert call(table).exit_code == 0
    edit(table, "parallel = 2", "parallel = 1")
    edit(table, 'title = "Plain"', 'title = "Plain StyleGAN2"')
    assert call(table).exit_code == 0


def test_other_data_in_the_same_folder_is_refused(table, no_report, tmp_path):
    from PIL import Image

    pictures = tmp_path / "mine"
    pictures.mkdir()
    for i in range(3):
        Image.new("RGB", (20, 10), (0, i, 0)).save(pictures / f"{i}.png")
    assert call(table, "--data", str(pictures)).exit_code == 0
    entry = ledger_of(table)[0]
    assert entry["dataset"]["nimg"] == 3
    assert str(tmp_path) not in json.dumps(entry)
    Image.new("RGB", (20, 10), (0, 99, 0)).save(pictures / "1.png")
    result = call(table, "--data", str(pictures))
    assert result.exit_code == 1
    assert "data.user: there" in result.output


def test_a_folder_with_other_files_is_refused(table):
    out = table.parent / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("precious")
    result = call(table)
    assert result.exit_code == 1
    assert "thesis.tex" in result.output
    assert (out / "thesis.tex").read_text() == "precious"


def test_data_is_made_once_for_several_runs(table, no_report):
    assert call(table).exit_code == 0
    made = {path: path.stat().st_mtime_ns for path in (table.parent / "cache").glob("*.zip")}
    assert len(made) == 1
    assert CliRunner().invoke(run_module.main, [*arguments(table), "--out", str(table.parent / "b")]).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in (table.parent / "cache").glob("*.zip")} == made


def test_data_that_cannot_be_made_stops_the_run_and_leaves_no_ledger(table, tmp_path):
    result = call(table, "--data", str(tmp_path / "nowhere"))
    assert result.exit_code == 1
    assert "expected a path that exists" in result.output
    assert not (tmp_path / "out").exists()


def test_too_little_disk_is_said_before_anything_is_written(table, monkeypatch):
    monkeypatch.setattr(run_module, "free_bytes", lambda path: 10)
    result = call(table)
    assert result.exit_code == 1
    assert "the disk of out must have room; expected 0.001 GB" in result.output
    assert not (table.parent / "out").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('about = "For tests."', 'abuot = "x"', "expected some of name, title, about, .* got abuot"),
        ('title = "Plain"', 'title = "Plain"\nkimgs = 3', r"rows\[0\] must have known keys only; .* got kimgs"),
        ('about = "For tests."', "", "must have the keys about"),
        ("parallel = 2", 'parallel = "two"', "parallel must have the right type; expected int, got 'two'"),
        ("parallel = 2", "parallel = true", "expected int, got True"),
        ("kimg = 5", "kimg = [5]", r"options\.kimg must have the right type"),
        ('host = "fake"', 'host = "fjord"', r"host must name something that exists; expected one of fake, got 'fjord'"),
        ('baseline = "plain"', 'baseline = "plane"', "baseline must name .* expected one of plain, got 'plane'"),
        ('metrics = ["frechet"]', 'metrics = ["fid"]', "expected one of frechet, got 'fid'"),
        ('id = "low"', 'id = "plain"', "rows must have distinct ids"),
        ('id = "low"', 'id = "../low"', "id must be of a-z, 0-9 and -"),
        ("seed = 7", "seed = = 7", "must be valid TOML"),
    ],
)
def test_a_mistake_in_a_table_is_named(table, old, new, message):
    edit(table, old, new)
    with pytest.raises(UserError, match=message):
        load_table(str(table))


def test_names_that_do_not_exist_list_those_that_do(table):
    with pytest.raises(UserError, match=r"expected one of .*quickstart"):
        load_table("quickstrat")
    with pytest.raises(UserError, match=r"preset must name .* expected one of full, smoke, got 'medium'"):
        load_table(str(table), "medium")
    assert "expected one of plain, low, got 'mid'" in call(table, "--row", "mid").output


@pytest.mark.parametrize("preset", ["full", "smoke"])
def test_the_quickstart_trains_both_rows_with_the_same_options_except_mtm(preset):
    table = load_table("quickstart", preset)
    plain, low = ({**row.options, "mtm": None} for row in table.rows)
    assert plain == low
    assert [row.options["mtm"] for row in table.rows] == ["none", "low"]
    assert table.meaningless == (preset == "smoke")
    assert "CC BY-SA 4.0" in table.datasets["openmoji"].credit


def test_lines_give_speed_and_time_left_and_do_not_flood(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("experiments.progress.time.monotonic", lambda: now[0])
    stream = io.StringIO()
    progress = LineProgress(["a"], stream, every_s=30.0)
    for kimg in range(11):
        now[0] = kimg * 10.0
        progress.tick("a", 5 + kimg, 20)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 4
    assert "8/20 kimg (40%), 10.0 s/kimg, 2 min 00 s left" in lines[1]


def test_the_bar_of_a_resumed_row_does_not_count_the_old_part_as_speed():
    stream = io.StringIO()
    progress = BarProgress(["a"], stream)
    progress.tick("a", 900, 1000)
    bar = progress._bars["a"]
    assert (bar.n, bar.initial, bar.total) == (900, 900, 1000)
    progress.close()


@pytest.mark.parametrize(("seconds", "text"), [(41.6, "42 s"), (185, "3 min 05 s"), (7620, "2 h 07 min")])
def test_durations_are_words(seconds, text):
    assert duration_text(seconds) == text
