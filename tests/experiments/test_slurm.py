"""CLUSTER=slurm with real child processes: on a stand-in for Slurm's commands, and on real Slurm if installed."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fake_trainer
import pytest
import slurm_lab
from test_run import TABLE, attempts, edit, final, folder, log_of, ticks, wait_for

from experiments import slurm
from experiments.trainers.contract import ROOT

# These tests depend on Slurm's own behaviour and run on both clusters. The others test our runner, on the stand-in.
WITH_SLURM = (
    "test_every_run_is_a_job_and_the_runner_reports",
    "test_a_requeued_job_goes_on_to_the_uninterrupted_result",
    "test_shortly_before_the_time_limit_a_run_stops_and_is_requeued",
    "test_a_killed_runner_leaves_the_jobs_and_the_next_one_follows_them",
    "test_a_job_whose_number_was_not_noted_is_found_and_not_submitted_twice",
    "test_a_limit_of_jobs_keeps_the_rest_waiting",
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "cluster" in metafunc.fixturenames:
        slurm_too = [pytest.param("slurm", marks=pytest.mark.slow)] * (metafunc.function.__name__ in WITH_SLURM)
        metafunc.parametrize("cluster", ["stand-in", *slurm_too], indirect=True, scope="module")


@pytest.fixture(scope="module")
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    place = tmp_path_factory.mktemp("cluster")
    if request.param == "slurm" and (reason := slurm_lab.lacks()):
        pytest.skip(reason)
    made = slurm_lab.Real(place / "lab") if request.param == "slurm" else slurm_lab.StandIn(place / "lab")
    yield made
    made.stop()


@pytest.fixture
def table(tmp_path: Path, cluster, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in {**cluster.environment, "PYTHONPATH": str(ROOT)}.items():
        monkeypatch.setenv(name, value)
    path = tmp_path / "tiny.toml"
    path.write_text(TABLE)
    return path


@pytest.fixture
def start() -> Iterator[Callable[[Path], "subprocess.Popen[str]"]]:
    started = []

    def start_runner(table: Path, *more: str) -> "subprocess.Popen[str]":
        command = [sys.executable, fake_trainer.FILE, "run", *words(table), *more]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        started.append(subprocess.Popen(command, cwd=ROOT, text=True, start_new_session=True, **pipes))
        return started[-1]

    yield start_runner
    for process in started:
        process.kill()
        process.communicate()


def words(table: Path) -> list[str]:
    to = ["--out", str(table.parent / "out"), "--cache", str(table.parent / "cache")]
    return [str(table), *to, "--cluster", "slurm", "--partition", "lab"]


def number(table: Path, row: str) -> str:
    return (folder(table, row) / "slurm-job").read_text().strip()


def output(process: "subprocess.Popen[str]") -> str:
    printed, _ = process.communicate(timeout=120)
    return printed


def test_every_run_is_a_job_and_the_runner_reports(table, start):
    process = start(table)
    printed = output(process)
    assert process.returncode == 0, printed
    assert {entry.row: entry.status for entry in attempts(table)} == {"low": "done", "plain": "done"}
    assert f"low/7    job {number(table, 'low')}" in printed
    assert number(table, "low") != number(table, "plain")
    assert "report.html" in printed
    assert "2 of 2 runs are finished already" in output(start(table))


def test_a_requeued_job_goes_on_to_the_uninterrupted_result(table, start):
    edit(table, "kimg = 5", "kimg = 30\ntick-s = 0.1")
    process = start(table, "--row", "low")
    wait_for(lambda: ticks(table, "low", 3), 60)
    subprocess.run(["scontrol", "requeue", number(table, "low")], check=True)
    printed = output(process)
    assert process.returncode == 0, printed
    assert [(entry.row, entry.status) for entry in attempts(table)] == [("low", "interrupted"), ("low", "done")]
    assert (folder(table, "low") / "log.txt").read_text().count("pid ") == 2  # trained with one restart
    assert final(table, "low") == straight(table)


def straight(table: Path) -> str:
    """The result of the row low, without a cluster and without an interruption."""
    command = [sys.executable, fake_trainer.FILE, "run", str(table), "--out", str(table.parent / "straight")]
    command += ["--cache", str(table.parent / "cache"), "--row", "low"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return final(table, "low", out="straight")


def test_shortly_before_the_time_limit_a_run_stops_and_is_requeued(table, start):
    edit(table, "kimg = 5", "kimg = 30\ntick-s = 0.1")
    process = start(table, "--row", "low")
    wait_for(lambda: ticks(table, "low", 3), 60)
    subprocess.run(["scancel", "--batch", "--signal=USR1", number(table, "low")], check=True)
    printed = output(process)
    assert process.returncode == 0, printed
    assert [(entry.row, entry.status) for entry in attempts(table)] == [("low", "interrupted"), ("low", "done")]


def test_a_run_that_saves_nothing_in_its_time_is_not_requeued(table, start):
    edit(table, "kimg = 5", 'kimg = 2500\ntick-s = 0.1\nmode = "saves-nothing"')
    process = start(table, "--row", "low")
    wait_for(lambda: "pid " in log_of(table, "low"), 60)
    subprocess.run(["scancel", "--batch", "--signal=USR1", number(table, "low")], check=True)
    printed = output(process)
    assert process.returncode == 1, printed
    assert "is no longer in the queue. it was stopped before it had saved anything new (saved: 0 kimg)." in printed
    assert [(entry.row, entry.status) for entry in attempts(table)] == [("low", "interrupted")]


def test_a_killed_runner_leaves_the_jobs_and_the_next_one_follows_them(table, start):
    edit(table, "kimg = 5", "kimg = 40\ntick-s = 0.1")
    process = start(table)
    wait_for(lambda: ticks(table, "low", 2) and ticks(table, "plain", 2), 60)
    process.kill()
    process.wait()
    before = number(table, "low")
    printed = output(start(table))
    assert f"already in the queue as job {before}; following it" in printed
    assert {entry.row: entry.status for entry in attempts(table)} == {"low": "done", "plain": "done"}
    assert (folder(table, "low") / "log.txt").read_text().count("pid ") == 1  # trained without a restart


def test_an_interrupted_runner_says_how_to_follow_and_how_to_cancel(table, start):
    edit(table, "kimg = 5", "kimg = 400\ntick-s = 0.1")
    process = start(table, "--row", "low")
    wait_for(lambda: ticks(table, "low", 2), 60)
    process.send_signal(signal.SIGTERM)
    printed = output(process)
    assert process.returncode == 128 + signal.SIGTERM
    assert "1 jobs stay in the queue" in printed
    (cancel,) = re.findall("scancel .*", printed)
    following = start(table, "--row", "low")
    time.sleep(2)
    subprocess.run(cancel.split(), check=True)
    printed = output(following)
    assert following.returncode == 1
    assert f"row low/7 was interrupted: its Slurm job {number(table, 'low')} was cancelled." in printed
    assert {entry.status for entry in attempts(table)} == {"interrupted"}


def test_a_run_that_fails_keeps_its_reason_and_the_next_call_submits_it_again(table, start):
    edit(table, "kimg = 5", 'kimg = 5\nmode = "crash-once"')
    printed = output(start(table, "--row", "low"))
    before = number(table, "low")
    assert "RuntimeError: the loss must be finite" in printed
    printed = output(start(table, "--row", "low"))
    assert {entry.row: entry.status for entry in attempts(table)} == {"low": "done"}, printed
    assert number(table, "low") != before


def test_what_slurm_refuses_is_said_with_the_command(table, start):
    printed = output(start(table, "--partition", "absent", "--row", "low"))
    assert re.search("sbatch refused the job: .*invalid partition", printed)
    assert "It was: sbatch --parsable --requeue" in printed
    assert not attempts(table)


def test_a_job_whose_number_was_not_noted_is_found_and_not_submitted_twice(table, start):
    edit(table, "kimg = 5", "kimg = 40\ntick-s = 0.1")
    process = start(table, "--row", "low")
    wait_for(lambda: ticks(table, "low", 2), 60)
    process.kill()
    process.wait()
    before = number(table, "low")
    (folder(table, "low") / "slurm-job").unlink()  # as if killed just after sbatch
    assert f"already in the queue as job {before}; following it" in output(start(table, "--row", "low"))
    assert number(table, "low") == before
    assert [(entry.row, entry.status) for entry in attempts(table)] == [("low", "done")]


def test_a_number_that_another_run_has_now_is_not_followed(table, start):
    edit(table, "kimg = 5", "kimg = 30\ntick-s = 0.1")
    process = start(table, "--row", "plain")
    wait_for(lambda: ticks(table, "plain", 1), 60)
    hold = folder(table, "plain") / "train" / "hold"
    hold.touch()
    process.kill()
    process.wait()
    other = number(table, "plain")
    run_folder = prepared(table, "low")
    (run_folder / "slurm-job").write_text(f"{other}\n")  # from an older cluster, or from a copied folder
    process = start(table)
    wait_for(lambda: number(table, "low") != other, 60)
    hold.unlink()
    printed = output(process)
    assert f"plain/7  already in the queue as job {other}; following it" in printed
    assert number(table, "low") != other
    assert {entry.row: entry.status for entry in attempts(table)} == {"low": "done", "plain": "done"}


def prepared(table: Path, row: str) -> Path:
    command = [sys.executable, fake_trainer.FILE, "run", str(table), "--out", str(table.parent / "out"), "--prepare"]
    subprocess.run([*command, "--cache", str(table.parent / "cache")], cwd=ROOT, check=True, capture_output=True)
    return folder(table, row)


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Makes commands that run a line of shell. They take precedence over the cluster's."""
    place = tmp_path / "before"
    place.mkdir()
    monkeypatch.setenv("PATH", f"{place}{os.pathsep}{os.environ['PATH']}")

    def make(name: str, line: str) -> None:
        (place / name).write_text(f"#!/bin/sh\n{line}\n")
        (place / name).chmod(0o755)

    return make


@pytest.mark.parametrize("printed", ["123", "123;cluster", "Welcome to 7 nodes.\n123;cluster\nnote: 2 hours"])
def test_the_number_is_found_in_what_sbatch_prints(commands, printed):
    commands("sbatch", f"echo '{printed}'")
    assert slurm.submit(["sbatch"]) == "123"


def test_an_sbatch_that_prints_no_number_is_an_error(commands):
    commands("sbatch", "echo maintenance")
    with pytest.raises(slurm.UserError, match="sbatch must print the number of the job; got 'maintenance'"):
        slurm.submit(["sbatch"])


def test_of_several_jobs_of_a_name_the_one_that_has_not_ended_counts(commands):
    lines = ["12 PENDING a", "9 FAILED a", "30 CANCELLED a", "4_[1-9] PENDING a", "5 PENDING other", "CLUSTER: far"]
    commands("squeue", f"printf '%s\\n' {' '.join(repr(line) for line in lines)}")
    assert slurm.queue(["a", "b"]) == {"a": ("12", "PENDING")}
    commands("squeue", "exit 1")
    assert slurm.queue(["a"]) is None


def test_a_job_that_the_queue_does_not_show_at_once_is_waited_for(table, commands, start):
    edit(table, "kimg = 5", "kimg = 30\ntick-s = 0.1")
    real, count = shutil.which("squeue"), table.parent / "count"
    commands("squeue", f'echo >> {count}; [ "$(wc -l < {count})" -le 3 ] || exec {real} "$@"')
    printed = output(start(table, "--row", "low"))
    assert {entry.row: entry.status for entry in attempts(table)} == {"low": "done"}, printed


@pytest.mark.parametrize("name", ["a %j 'q' $x é", "b %j \\n é"])
def test_the_log_is_found_whatever_characters_are_in_its_path(table, start, name):
    out = table.parent / name
    printed = output(start(table, "--row", "low", "--out", str(out)))
    (log,) = out.glob("runs/low/*/log.txt")
    assert "pid " in log.read_text(), printed
    assert [path.name for path in table.parent.iterdir()].count(name) == 1


def test_a_limit_of_jobs_keeps_the_rest_waiting(table, commands, start):
    real, count = shutil.which("sbatch"), table.parent / "count"
    refusal = 'echo "sbatch: error: QOSMaxSubmitJobPerUserLimit" >&2; exit 1'
    commands("sbatch", f'echo >> {count}; [ "$(wc -l < {count})" -ne 2 ] || {{ {refusal}; }}; exec {real} "$@"')
    process = start(table)
    printed = output(process)
    assert process.returncode == 0, printed
    assert "will be tried again when a job ends: slurm: sbatch refused the job: sbatch: error: QOSMax" in printed
    assert {entry.row: entry.status for entry in attempts(table)} == {"low": "done", "plain": "done"}


def test_without_slurm_the_error_says_so(table, monkeypatch):
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable))
    with pytest.raises(slurm.UserError, match="sbatch must be on the PATH"):
        slurm.submit(["sbatch"])


def test_options_of_a_cluster_need_one():
    with pytest.raises(slurm.UserError, match="must come with a cluster; got 'gpu' without one"):
        slurm.chosen_slurm(None, "gpu", "")


def test_options_of_sbatch_that_no_shell_could_read_or_that_hide_the_jobs_are_refused():
    assert slurm.chosen_slurm("slurm", "", "--comment='two words' --exclude=a").more
    with pytest.raises(slurm.UserError, match=r"SLURM_ARGS must be words of a shell; .*No closing quotation"):
        slurm.chosen_slurm("slurm", "", "--comment='a")
    for word in ("--job-name=x", "-J x", "-Jx", "--array=1-3", "-Mother"):
        with pytest.raises(slurm.UserError, match="must not have the options by which the runner finds its jobs"):
            slurm.chosen_slurm("slurm", "", f"--time=1 {word}")
