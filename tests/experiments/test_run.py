"""experiments.run with real child processes: resuming, interrupts, crashes, locks, and mistakes in tables."""

import errno
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fake_trainer
import psutil
import pytest
from click.testing import CliRunner, Result

from experiments import data, jobs
from experiments import run as run_module
from experiments.datasets import RECIPES
from experiments.files import UserError
from experiments.folder import in_use
from experiments.ledger import Attempt, Call, read_entries
from experiments.metrics import METRICS
from experiments.progress import BarProgress, LineProgress, duration_text
from experiments.row import Work, hold
from experiments.table import load_table
from experiments.trainers import TRAINERS
from experiments.trainers.contract import ROOT, Step, load_run

TABLE = """
name = "tiny"
title = "A tiny table"
about = "For tests."
trainer = "fake"
dataset = "shapes"
metrics = ["frechet"]
seeds = [7]
parallel = 2
samples_nimg = 50

[datasets.shapes]
options = { resolution = 8, count = 4 }

[options]
kimg = 5

[presets.full.cost]
hours = 0.1
machine = "2 CPU cores"
memory_gb = 1
disk_gb = 0.001

[presets.smoke]
meaningless = true
options = { kimg = 2 }
cost = { hours = 0.1, machine = "2 CPU cores", memory_gb = 1, disk_gb = 0.001 }

[[rows]]
id = "plain"
title = "Plain"
mtm = "none"

[[rows]]
id = "low"
title = "MTM, Low"
mtm = "low"
baseline = "plain"
"""


@pytest.fixture(autouse=True)
def _fake(monkeypatch: pytest.MonkeyPatch) -> None:
    for registry in (TRAINERS, METRICS, RECIPES):  # remove at the end what `register` adds
        for name in ("fake", "recall", "shapes"):
            monkeypatch.setitem(registry, name, None)  # type: ignore[arg-type]
            del registry[name]  # type: ignore[arg-type]
    monkeypatch.setattr(jobs, "ROW", jobs.ROW)
    monkeypatch.setattr(data, "TOOL", data.TOOL)
    fake_trainer.register()


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(TABLE)
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
    """Start the runner in its own process. Processes that a failing test leaves behind are killed."""
    started: list[subprocess.Popen[str]] = []

    def start_runner(table: Path, *more: str) -> subprocess.Popen[str]:
        command = [sys.executable, fake_trainer.FILE, "run", *arguments(table, *more)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        # Background jobs of a shell ignore SIGINT, and so do tests they start. A user's terminal does not.
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


def attempts(table: Path) -> list[Attempt]:
    entries, problems = read_entries(table.parent / "out" / "ledger.jsonl")
    assert not problems
    return [entry for entry in entries if isinstance(entry, Attempt)]


def extra(entry: Attempt, name: str):
    """A value in an entry that the report does not read."""
    return (entry.model_extra or {})[name]


def folder(table: Path, row: str, seed: int = 7, out: str = "out") -> Path:
    (found,) = (table.parent / out / "runs" / row).glob(f"{seed}-*")
    return found


def log_of(table: Path, row: str) -> str:
    """What a run's commands have printed so far; empty if the run has no folder yet."""
    return "".join(path.read_text() for path in (table.parent / "out" / "runs" / row).glob("7-*/log.txt"))


def final(table: Path, row: str, out: str = "out") -> str:
    return (folder(table, row, out=out) / "train/final.pt").read_text()


def wait_for(condition, seconds: float = 20.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if result := condition():
            return result
        time.sleep(0.02)
    raise AssertionError(f"{condition} did not come true in {seconds} s")


def ticks(table: Path, row: str, at_least: int) -> bool:
    found = list((table.parent / "out" / "runs" / row).glob("*/train/stats.jsonl"))
    return bool(found) and len(found[0].read_text().splitlines()) >= at_least


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or a zombie whose parent (a container's init) never reaps it."""
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def files_below(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*")}


def test_a_dry_run_prints_every_command_and_writes_nothing(table):
    before = files_below(table.parent)
    result = call(table, "--dry-run")
    assert result.exit_code == 0, result.output
    commands = re.findall(r"^(?:\w+=\S+ )?python .*fake_\w+\.py (\w+) ", result.output, re.MULTILINE)
    assert commands == ["data", *["train", "measure", "draw"] * 2]
    assert "--mtm=low --kimg=5 --seed=7" in result.output
    assert "cost: about 6 min 00 s on 2 CPU cores" in result.output
    assert files_below(table.parent) == before


def test_a_dry_run_says_which_folders_are_not_known_yet(table, no_report):
    note = "# not made yet; once it is, the runs below get other folders"
    assert note in call(table, "--dry-run").output
    assert call(table).exit_code == 0
    assert note not in call(table, "--dry-run").output


@pytest.mark.parametrize("option", ["--out", "--data"])
def test_a_path_that_is_not_utf_8_is_refused_by_its_bytes(table, option):
    result = call(table, option, "/tmp/\udcff")
    assert result.exit_code == 1
    assert r"run: out and --data must be UTF-8; got b'/tmp/\xff'" in result.output


def test_a_run_makes_rows_ledger_and_report_and_is_not_repeated(table):
    result = call(table)
    assert result.exit_code == 0, result.output
    out = table.parent / "out"
    assert all((out / name).stat().st_size > 0 for name in ("report.md", "report.html", "report.png"))
    assert "MTM, Low against Plain, Fréchet distance, random embedding: higher by 1 (25%): worse" in result.output
    first = attempts(table)
    assert [entry.status for entry in first] == ["done", "done"]
    assert [extra(entry, "s_per_kimg") for entry in first] == [2.0, 2.0]
    entries, _ = read_entries(out / "ledger.jsonl")
    (whole,) = [entry for entry in entries if isinstance(entry, Call)]
    assert whole.model_extra is not None
    assert whole.model_extra["runs"] == {"plain/7": "done", "low/7": "done"}
    assert whole.wall_s > 0
    assert whole.peak_rss_bytes > 10_000_000
    stamp = (folder(table, "low") / "train/final.pt").stat().st_mtime_ns
    again = call(table)
    assert again.exit_code == 0
    assert "2 of 2 runs are finished already" in again.output
    assert attempts(table) == first
    assert (folder(table, "low") / "train/final.pt").stat().st_mtime_ns == stamp


def test_nothing_in_the_outputs_names_a_place_on_this_machine(table):
    assert call(table).exit_code == 0
    for name in ("ledger.jsonl", "report.md", "report.html", "table.json"):
        text = (
            (table.parent / "out" / name).read_text().replace(fake_trainer.COMMANDS, "").replace(fake_trainer.FILE, "")
        )
        assert str(table.parent) not in text
        assert str(ROOT) not in text
        assert sys.executable not in text
    assert str(table.parent) not in (folder(table, "low") / "run.json").read_text()


def test_only_the_chosen_row_runs_and_the_others_can_follow(table, no_report):
    assert call(table, "--row", "low").exit_code == 0
    assert [entry.row for entry in attempts(table)] == ["low"]
    assert call(table).exit_code == 0
    assert [entry.row for entry in attempts(table)] == ["low", "plain"]


def test_a_run_that_had_saved_nothing_says_so_when_it_is_stopped(table, start, no_report):
    edit(table, "kimg = 5", 'kimg = 2500\ntick-s = 0.05\nmode = "saves-nothing"')
    process = start(table, "--row", "low")
    wait_for(lambda: "pid " in log_of(table, "low"))
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert "stopped; saved: low/7 nothing yet. Run the same command again to resume" in errors
    (attempt,) = attempts(table)
    assert attempt.status == "interrupted"
    assert attempt.message == "it was stopped before it had saved anything new (saved: 0 kimg)."


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_resumes_to_the_uninterrupted_result(table, start, no_report, number, code):
    edit(table, "kimg = 5", "kimg = 25\ntick-s = 0.05")
    process = start(table)
    wait_for(lambda: ticks(table, "low", 3) and ticks(table, "plain", 3))
    os.killpg(process.pid, number)  # to the whole group, as a terminal does
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code, errors
    saved = re.search(r"stopped; saved: (.*)\. Run the same command again to resume", errors)[1]
    assert set(saved.split(", ")) == {f"{entry.row}/7 up to {entry.kimg:g} kimg" for entry in attempts(table)}
    assert [entry.status for entry in attempts(table)] == ["interrupted", "interrupted"]
    log = (folder(table, "low") / "log.txt").read_text()
    assert log.count(f"stopped by [{number.value}]") == 1
    result = call(table)
    assert result.exit_code == 0, result.output
    resumed = attempts(table)[2:]
    assert all(entry.status == "done" and extra(entry, "resumed_from_kimg") >= 3 for entry in resumed)
    broken_off = {row: final(table, row) for row in ("plain", "low")}
    edit(table, "tick-s = 0.05", "tick-s = 0.0")
    straight = CliRunner().invoke(run_module.main, [*arguments(table), "--out", str(table.parent / "straight")])
    assert straight.exit_code == 0
    assert {row: final(table, row, out="straight") for row in broken_off} == broken_off


def test_a_signal_reaches_the_trainers_workers(table, start):
    edit(table, "kimg = 5", 'kimg = 2000\nmode = "worker"\ntick-s = 0.05')
    process = start(table, "--row", "low")
    wait_for(lambda: ticks(table, "low", 2))
    (worker,) = re.findall(r"^worker (\d+)$", (folder(table, "low") / "log.txt").read_text(), re.MULTILINE)
    assert psutil.pid_exists(int(worker))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    wait_for(lambda: has_ended(int(worker)))


def test_a_second_interrupt_ends_trainers_that_do_not_listen(table, start):
    edit(table, "kimg = 5", 'kimg = 2000\nmode = "deaf"\ntick-s = 0.05')
    process = start(table)
    wait_for(lambda: ticks(table, "low", 2) and ticks(table, "plain", 2))
    process.send_signal(signal.SIGINT)
    time.sleep(0.6)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert [entry.status for entry in attempts(table)] == ["interrupted", "interrupted"]


def test_a_crash_shows_its_last_lines_and_the_other_row_goes_on(table, no_report):
    edit(table, 'id = "low"', 'id = "low"\noptions = { mode = "crash-once" }')
    result = call(table)
    assert result.exit_code == 1
    assert "row low/7 failed: train ended with exit code 1" in result.output
    assert "RuntimeError: the loss must be finite; got nan" in result.output
    assert f"The whole output: {folder(table, 'low') / 'log.txt'}" in result.output
    assert {entry.row: entry.status for entry in attempts(table)} == {"low": "failed", "plain": "done"}
    assert call(table).exit_code == 0
    last = attempts(table)[-1]
    assert (last.row, last.status, extra(last, "resumed_from_kimg")) == ("low", "done", 3)


def test_metrics_that_failed_are_repeated_without_training_again(table, no_report):
    edit(table, 'id = "low"', 'id = "low"\noptions = { mode = "measuring-fails-once" }')
    assert call(table).exit_code == 1
    assert [extra(entry, "failed_step") for entry in attempts(table) if entry.row == "low"] == ["metrics"]
    stamp = (folder(table, "low") / "train/final.pt").stat().st_mtime_ns
    assert call(table).exit_code == 0
    assert (folder(table, "low") / "train/final.pt").stat().st_mtime_ns == stamp
    assert attempts(table)[-1].metrics["frechet"].value == 5.0


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("nan", "frechet must be finite; got NaN or infinity"),
        ("text", "frechet.json: value must have the right type; expected a number, got 'abc'"),
        ("list", r"frechet.json: value must have the right type; expected a number, got \[1\]"),
        ("null-kimg", "low/7: stats.jsonl: kimg must have the right type; expected a number, got None"),
        ("no-result", "train ended with exit code 0, but its output is missing or incomplete"),
    ],
)
def test_what_a_trainer_writes_wrong_fails_its_row_alone(table, no_report, mode, message):
    edit(table, 'id = "low"', f'id = "low"\noptions = {{ mode = "{mode}" }}')
    result = call(table)
    assert result.exit_code == 1
    assert re.search(message, result.output), result.output
    assert {entry.row: entry.status for entry in attempts(table)} == {"low": "failed", "plain": "done"}
    assert "not compared, because MTM, Low is failed" in result.output
    assert call(table).exit_code == 1  # no traceback, and nothing to delete by hand
    assert [entry.row for entry in attempts(table)].count("plain") == 1


def test_a_row_with_numbers_that_are_none_is_noted_and_reported(table):
    edit(table, 'id = "low"', 'id = "low"\noptions = { mode = "nan" }')
    call(table)
    assert next(entry for entry in attempts(table) if entry.row == "low").trainer["not_finite"] is None
    row = "| MTM, Low | low | failed | Fréchet distance, random embedding | – |"
    assert row in re.sub(" +", " ", (table.parent / "out/report.md").read_text())


def test_a_metric_that_was_asked_for_and_is_absent_is_an_error_of_that_run(table, no_report):
    edit(table, 'metrics = ["frechet"]', 'metrics = ["frechet", "recall"]')
    edit(table, 'id = "low"', 'id = "low"\noptions = { mode = "no-recall" }')
    result = call(table)
    assert result.exit_code == 1
    assert "metrics ended with exit code 0, but did not write recall, which the row asks for" in result.output
    assert "not both rows have finished" not in result.output


def test_several_metrics_stand_in_ledger_report_and_verdicts(table):
    edit(table, 'metrics = ["frechet"]', 'metrics = ["frechet", "recall"]')
    result = call(table)
    assert result.exit_code == 0
    (low,) = [attempt for attempt in attempts(table) if attempt.row == "low"]  # the rows may end in any order
    assert {name: m.value for name, m in low.metrics.items()} == {"frechet": 5.0, "recall": 0.5}
    assert "MTM, Low against Plain, Recall: a tie (equal)" in result.output
    report = re.sub(" +", " ", (table.parent / "out/report.md").read_text())
    assert "| MTM, Low | low | done | Fréchet distance, random embedding | 5.000 |" in report
    assert "| | | | Recall | 0.5000 | a tie (equal) |" in report


def test_rows_of_different_fingerprints_are_not_compared(table):
    edit(table, 'id = "low"', 'id = "low"\noptions = { mode = "other-way" }')
    result = call(table)
    assert result.exit_code == 0
    assert "not compared, because their fingerprints differ in ddof: there 0, here 1" in result.output
    for text in (result.output, (table.parent / "out/report.md").read_text()):
        assert not re.search(r": (better|worse)", text)


def test_a_new_metric_or_row_repeats_no_training(table, no_report):
    assert call(table).exit_code == 0
    stamps = {row: (folder(table, row) / "train/final.pt").stat().st_mtime_ns for row in ("plain", "low")}
    edit(table, 'metrics = ["frechet"]', 'metrics = ["frechet", "recall"]')
    table.write_text(table.read_text() + '\n[[rows]]\nid = "mid"\ntitle = "MTM, Mid"\nmtm = "mid"\n')
    result = call(table)
    assert result.exit_code == 0, result.output
    assert {row: (folder(table, row) / "train/final.pt").stat().st_mtime_ns for row in stamps} == stamps
    latest = {entry.row: set(entry.metrics) for entry in attempts(table)}
    assert latest == {row: {"frechet", "recall"} for row in ("plain", "low", "mid")}


def test_seeds_make_a_group_with_mean_and_spread(table, no_report):
    edit(table, "seeds = [7]", "seeds = [7, 8]")
    result = call(table)
    assert result.exit_code == 0, result.output
    assert len({final_chain.read_text() for final_chain in table.parent.glob("out/runs/low/*/train/final.pt")}) == 1
    assert {folder(table, "low", seed).name[0] for seed in (7, 8)} == {"7", "8"}
    assert "5.000 ± 0" in result.output
    assert "higher by 1 (25%): worse (mean of 2 seeds)" in result.output
    assert "One seed per row" not in result.output


def test_an_interrupt_while_data_is_made_leaves_nothing_half_written(table, start):
    edit(table, "count = 4", "count = 4, slow = true")
    process = start(table)
    wait_for((table.parent / "cache").exists)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "stopped; no partial file was left" in errors
    assert list((table.parent / "cache").iterdir()) == []
    assert not (table.parent / "out" / "runs").exists()


def test_a_trainer_that_cannot_be_started_fails_its_row_only(table, no_report, monkeypatch, tmp_path):
    monkeypatch.setenv("FAKE_COMMAND", "no-such-program")
    result = call(table)
    assert result.exit_code == 1
    assert "train cannot be started: no-such-program: No such file or directory" in result.output


def test_rows_outlive_a_killed_runner_and_the_next_one_follows_them(table, start, no_report):
    edit(table, "kimg = 5", "kimg = 30\ntick-s = 0.1")
    process = start(table)
    wait_for(lambda: ticks(table, "low", 2) and ticks(table, "plain", 2))
    process.kill()
    process.wait()
    seen = len((folder(table, "low") / "train/stats.jsonl").read_text().splitlines())
    wait_for(lambda: ticks(table, "low", seen + 2))
    result = call(table)
    assert result.exit_code == 0, result.output
    assert "already running; following it" in result.output
    assert sorted((entry.row, entry.status) for entry in attempts(table)) == [("low", "done"), ("plain", "done")]
    assert (folder(table, "low") / "log.txt").read_text().count("pid ") == 1  # trained without a restart


def test_a_closed_terminal_leaves_the_rows_working(table, start, no_report):
    edit(table, "kimg = 5", "kimg = 60\ntick-s = 0.1")
    process = start(table)
    wait_for(lambda: ticks(table, "low", 2) and ticks(table, "plain", 2))
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=30)
    assert process.returncode == 129
    assert in_use(folder(table, "low"))
    assert call(table).exit_code == 0
    assert {entry.status for entry in attempts(table)} == {"done"}
    assert (folder(table, "low") / "log.txt").read_text().count("pid ") == 1  # trained without a restart


def test_a_trainer_that_outlived_its_row_is_waited_for_and_gone_on_with(table, start, no_report):
    edit(table, "kimg = 5", "kimg = 30\ntick-s = 0.1")
    process = start(table)
    wait_for(lambda: ticks(table, "low", 2) and ticks(table, "plain", 2))
    state = json.loads((folder(table, "low") / "state.json").read_text())
    os.kill(state["pid"], signal.SIGKILL)
    process.kill()
    process.wait()
    result = call(table)
    assert result.exit_code == 0, result.output
    assert {entry.row: entry.status for entry in attempts(table)} == {"low": "done", "plain": "done"}
    assert has_ended(state["child_pid"])


def test_a_row_that_is_killed_alone_goes_on_when_its_trainer_has_ended(table, start, no_report):
    edit(table, "kimg = 5", "kimg = 30\ntick-s = 0.1")
    process = start(table)
    wait_for(lambda: ticks(table, "low", 2))
    os.kill(json.loads((folder(table, "low") / "state.json").read_text())["pid"], signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert {entry.row: entry.status for entry in attempts(table)} == {"low": "done", "plain": "done"}
    assert (folder(table, "low") / "log.txt").read_text().count("pid ") == 1  # trained without a restart


def test_a_row_whose_process_is_killed_is_told_and_noted_and_the_other_goes_on(table, start, no_report):
    edit(table, "kimg = 5", "kimg = 20\ntick-s = 0.1")
    process = start(table)
    wait_for(lambda: ticks(table, "low", 2) and ticks(table, "plain", 2))
    state = json.loads((folder(table, "low") / "state.json").read_text())
    os.kill(state["pid"], signal.SIGKILL)
    os.killpg(state["child_pid"], signal.SIGKILL)
    _, errors = process.communicate(timeout=30)
    assert "row low/7 failed: its process ended with SIGKILL (was it out of memory?) and gave no reason" in errors
    assert {entry.row: entry.status for entry in attempts(table)} == {"low": "failed", "plain": "done"}


def test_a_trainer_that_is_killed_fails_its_row_and_the_next_call_goes_on(table, start, no_report):
    edit(table, "kimg = 5", "kimg = 30\ntick-s = 0.1")
    process = start(table, "--row", "low")
    wait_for(lambda: ticks(table, "low", 3))
    os.kill(json.loads((folder(table, "low") / "state.json").read_text())["child_pid"], signal.SIGKILL)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "row low/7 failed: train ended with SIGKILL (was it out of memory?)" in errors
    assert call(table, "--row", "low").exit_code == 0
    first, second = attempts(table)
    assert (first.status, second.status) == ("failed", "done")
    assert extra(second, "resumed_from_kimg") >= 3
    assert call(table, "--row", "low", "--out", str(table.parent / "straight")).exit_code == 0
    assert final(table, "low") == final(table, "low", out="straight")


def test_prepared_runs_can_be_started_by_hand_and_followed(table, no_report):
    edit(table, "kimg = 5", "kimg = 40\ntick-s = 0.1")
    prepared = CliRunner().invoke(run_module.main, arguments(table, "--prepare"))
    assert prepared.exit_code == 0, prepared.output
    commands = [shlex.split(line) for line in prepared.stdout.splitlines()]
    assert len(commands) == 2
    by_hand = subprocess.Popen(commands[1], start_new_session=True)
    wait_for(lambda: ticks(table, "low", 2))
    result = call(table)
    assert result.exit_code == 0, result.output
    assert "low/7    already running; following it" in result.output
    assert by_hand.wait() == 0
    assert {entry.row: entry.status for entry in attempts(table)} == {"low": "done", "plain": "done"}


def test_a_run_of_another_machine_is_followed_and_its_pids_are_left_alone(table, start, no_report):
    edit(table, "kimg = 5", "kimg = 400\ntick-s = 0.1")
    prepared = CliRunner().invoke(run_module.main, arguments(table, "--row", "low", "--prepare"))
    by_hand = subprocess.Popen(shlex.split(prepared.stdout), start_new_session=True)
    wait_for(lambda: ticks(table, "low", 2))
    path = folder(table, "low") / "state.json"
    state = json.loads(path.read_text())
    path.write_text(json.dumps(state | {"machine": "another"}))  # a process here may have the same id
    runner = start(table, "--row", "low")
    assert runner.stderr is not None
    wait_for(lambda: "following" in runner.stderr.readline())
    runner.send_signal(signal.SIGINT)
    _, errors = runner.communicate(timeout=20)
    assert "runs on another machine, and keeps running" in errors
    time.sleep(0.5)
    assert by_hand.poll() is None
    assert in_use(folder(table, "low"))
    by_hand.terminate()
    by_hand.wait()


def test_a_full_disk_under_one_run_leaves_the_others_alone(table, no_report, monkeypatch):
    monkeypatch.setenv("FAKE_FULL_DISK", "low")
    result = call(table)
    assert result.exit_code == 1
    assert "the disk is full" in result.output
    assert {entry.row: entry.status for entry in attempts(table)}["plain"] == "done"


def test_why_a_run_failed_is_said_even_where_the_call_cannot_be_noted(table, no_report, monkeypatch):
    edit(table, "kimg = 5", 'kimg = 5\nmode = "crash-once"')

    def full(*_: object) -> None:
        raise UserError("ledger.jsonl: the disk is full")

    monkeypatch.setattr("experiments.ledger.append_entry", full)
    result = call(table, "--row", "low")
    assert result.exit_code == 1
    assert "RuntimeError: the loss must be finite" in result.output
    assert "Error: ledger.jsonl: the disk is full" in result.output


def test_a_step_whose_state_cannot_be_written_is_stopped(table, no_report, monkeypatch):
    (command,) = CliRunner().invoke(run_module.main, arguments(table, "--row", "low", "--prepare")).stdout.splitlines()
    run = load_run(Path(shlex.split(command)[-3]))
    work = Work(run, TRAINERS["fake"], table.parent / "out", hold(run.folder))
    started = []

    def full(*_: object) -> None:
        started.append(work.child)
        raise UserError("state.json: the disk is full")

    monkeypatch.setattr(work, "write_state", full)
    with pytest.raises(UserError, match="disk is full"):
        work._do_step(Step(name="train", argv=["sleep", "100"]))
    assert started[0].poll() == -signal.SIGTERM
    os.close(work.lock)


def test_a_file_system_without_locks_is_refused(table, monkeypatch):
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("experiments.folder.fcntl.flock", no_locks)
    result = call(table)
    assert result.exit_code == 1
    assert "out must be on a file system with file locks" in result.output


def test_rows_get_gpus_of_their_own_and_wait_for_them(table, no_report, monkeypatch):
    monkeypatch.setattr(jobs, "visible_gpus", lambda: ["3", "5"])
    edit(table, "kimg = 5", "kimg = 5\ngpus = 1\ntick-s = 0.1")
    assert call(table).exit_code == 0
    assert sorted(entry.trainer["gpus"] for entry in attempts(table)) == ["3", "5"]
    assert [extra(entry, "world_size") for entry in attempts(table)] == [1, 1]
    edit(table, "gpus = 1", "gpus = 2")
    assert call(table).exit_code == 0
    assert [entry.trainer["gpus"] for entry in attempts(table)[2:]] == ["3,5", "3,5"]
    edit(table, "gpus = 2", "gpus = 3")
    assert "it needs 3 GPUs; this machine has 2" in call(table).output


def test_a_run_is_worked_on_by_one_process(table, tmp_path):
    (tmp_path / "run").mkdir()
    lock = hold(tmp_path / "run")
    assert in_use(tmp_path / "run")
    with pytest.raises(UserError, match="by one process at a time"):
        hold(tmp_path / "run", patience_s=0.1)
    os.close(lock)
    assert not in_use(tmp_path / "run")


def test_a_folder_in_use_is_refused_with_the_holders_pid(table):
    with run_module.locked(table.parent / "out"):
        result = call(table)
    assert result.exit_code == 1
    assert f"process {os.getpid()} still uses" in result.output
    assert "OUT=" in result.output


def test_a_changed_option_makes_a_new_run_and_keeps_the_old_one(table, no_report):
    assert call(table).exit_code == 0
    before, old = attempts(table), folder(table, "low")
    damaged = old.with_name("7-damaged")
    damaged.mkdir()
    (damaged / "run.json").write_text("garbage")
    edit(table, "kimg = 5", "kimg = 6")
    result = call(table)
    assert result.exit_code == 0
    assert f"{old.name} is kept: options.kimg: there 5, here 6" in result.output
    assert re.search(r"7-damaged is kept: .*run.json: expected JSON", result.output)
    assert len(list((table.parent / "out/runs/low").iterdir())) == 3
    assert attempts(table)[:2] == before
    assert len(attempts(table)) == 4
    edit(table, "kimg = 6", "kimg = 5")
    assert "2 of 2 runs are finished already" in call(table).output


def test_a_result_of_other_options_is_not_shown(table):
    assert call(table).exit_code == 0
    edit(table, "kimg = 5", "kimg = 6")
    assert call(table, "--row", "low").exit_code == 0
    markdown = re.sub(" +", " ", (table.parent / "out/report.md").read_text())
    assert "| Plain | none | not run |" in markdown
    assert "has other options and is not shown: options.kimg: there 5, here 6" in markdown


def test_another_preset_or_table_in_the_same_folder_is_refused(table, no_report):
    assert call(table).exit_code == 0
    before = attempts(table)
    result = call(table, "--preset", "smoke")
    assert result.exit_code == 1
    assert "expected tiny smoke, got" in result.output
    assert "OUT=" in result.output
    assert attempts(table) == before


def test_titles_and_parallel_may_change_between_calls(table, no_report):
    assert call(table).exit_code == 0
    edit(table, "parallel = 2", "parallel = 1")
    edit(table, 'title = "Plain"', 'title = "Plain StyleGAN2"')
    result = call(table)
    assert result.exit_code == 0
    assert "2 of 2 runs are finished already" in result.output


def own_images(folder: Path) -> Path:
    from PIL import Image

    folder.mkdir()
    for i in range(64):
        Image.new("RGB", (20, 10), (0, i, 0)).save(folder / f"{i}.png")
    return folder


def test_other_data_makes_other_runs(table, no_report, tmp_path):
    from PIL import Image

    images = own_images(tmp_path / "my $HOME images")
    assert call(table, "--data", str(images)).exit_code == 0
    entry = attempts(table)[0]
    assert entry.dataset["nimg"] == 64
    assert str(tmp_path) not in entry.model_dump_json()
    assert "'.../my $HOME images'" in entry.commands[0]
    Image.new("RGB", (20, 10), (0, 199, 0)).save(images / "1.png")
    result = call(table, "--data", f"shapes={images}")
    assert result.exit_code == 0
    assert "is kept: data: there" in result.output
    assert len(attempts(table)) == 4


def test_data_by_name_moves_only_the_rows_that_use_it(table, no_report, tmp_path):
    images = own_images(tmp_path / "mine")
    dots = '[datasets.dots]\nrecipe = "shapes"\noptions = { resolution = 8, count = 5 }\n\n[options]'
    edit(table, "[options]", dots)
    edit(table, 'id = "low"', 'id = "low"\ndataset = "dots"')
    assert call(table, "--data", f"dots={images}").exit_code == 0
    assert {entry.row: entry.dataset["nimg"] for entry in attempts(table)} == {"plain": 4, "low": 64}
    result = call(table, "--data", str(images))
    assert result.exit_code == 1
    assert "expected NAME=PATH with a name of shapes, dots" in result.output


def test_a_folder_with_other_files_is_refused(table):
    out = table.parent / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("precious")
    result = call(table)
    assert result.exit_code == 1
    assert "thesis.tex" in result.output
    assert (out / "thesis.tex").read_text() == "precious"


def test_a_path_that_a_shell_would_change_reaches_the_command_through_make(tmp_path):
    images = own_images(tmp_path / 'my "$HOME" $(x) images')
    words = {"DATA": str(images), "OUT": str(tmp_path / "o $$ut"), "DRY_RUN": "1"}
    venv = Path(sys.executable).parents[1]
    make = ["make", "-s", "-o", f"{venv}/.ready", "quickstart", f"VENV={venv}"]  # -o: skip the setup
    clean = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "OUT", "DATA")}
    for more, env in (([f"{key}={value}" for key, value in words.items()], clean), ([], clean | words)):
        done = subprocess.run([*make, *more], cwd=ROOT, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"tools.data images '{images}'" in done.stdout
        assert f"'--outdir={tmp_path}/o $$ut/runs/plain" in done.stdout


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


def test_missing_weights_are_listed_before_anything_is_trained(table, monkeypatch, tmp_path):
    monkeypatch.setenv("MTM_WEIGHTS", str(tmp_path / "none"))
    edit(table, 'metrics = ["frechet"]', 'metrics = ["frechet", "fid", "fd_dinov2"]')
    result = call(table, "--dry-run")
    assert "# cannot run yet:" in result.output
    assert "#   inception-2015-12-05: missing" in result.output
    assert "#   dinov2-vit-l-14: missing" in result.output
    result = call(table)
    assert result.exit_code == 1
    assert "2 missing or wrong" in result.output
    assert not list(tmp_path.rglob("log.txt"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('about = "For tests."', 'abuot = "x"', "expected some of name, title, about, .* got abuot"),
        ('title = "Plain"', 'title = "Plain"\nkimgs = 3', r"rows\[0\] must have known keys only; .* got kimgs"),
        ('about = "For tests."', "", "must have the keys about"),
        ("parallel = 2", 'parallel = "two"', "parallel must have the right type; expected int, got 'two'"),
        ("parallel = 2", "parallel = true", "expected int, got True"),
        ("kimg = 5", "kimg = [5]", r"options\.kimg must have the right type"),
        ('trainer = "fake"', 'trainer = "fjord"', "trainer must be one of mini, .*fake; got 'fjord'"),
        ("seeds = [7]", "seeds = [7, 7]", "seeds must be distinct"),
        ('baseline = "plain"', 'baseline = "plane"', "baseline must be one of plain; got 'plane'"),
        ('metrics = ["frechet"]', 'metrics = ["fdi"]', "metrics must be one of frechet, .*; got 'fdi'"),
        ('id = "low"', 'id = "plain"', "rows must have distinct ids"),
        ('id = "low"', 'id = "../low"', "id must be of a-z, 0-9 and -"),
        (
            'id = "low"',
            'id = "low"\nsetting = "tiny"',
            r"rows\.low\.setting must be one of none; got 'tiny'",
        ),
        ("seeds = [7]", "seeds = = 7", "must be valid TOML"),
    ],
)
def test_a_mistake_in_a_table_is_named(table, old, new, message):
    edit(table, old, new)
    with pytest.raises(UserError, match=message):
        load_table(str(table))


def test_rows_share_a_setting_between_the_tables_options_and_their_own(table):
    edit(table, 'id = "low"', 'id = "low"\nsetting = "tiny"\noptions = { batch = 9 }')
    with table.open("a") as file:
        file.write("[settings.tiny]\noptions = { batch = 8, kimg = 1, cmax = 4 }\n")
    plain, low = load_table(str(table)).rows
    assert low.options == {**plain.options, "mtm": "low", "batch": 9, "kimg": 1, "cmax": 4}
    assert (low.trainer, low.dataset, low.metrics) == (plain.trainer, plain.dataset, plain.metrics)


def test_names_that_do_not_exist_list_those_that_do(table):
    with pytest.raises(UserError, match=r"name must be one of .*quickstart.*; got 'quickstrat'"):
        load_table("quickstrat")
    with pytest.raises(UserError, match="preset must be one of full, smoke; got 'medium'"):
        load_table(str(table), "medium")
    assert "row must be one of plain, low; got 'mid'" in call(table, "--row", "mid").output


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
