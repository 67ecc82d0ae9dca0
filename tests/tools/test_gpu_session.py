"""A GPU session, run on the CPU with small steps: which steps run, what it says about the rest, and what it keeps."""

import importlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile

import pytest
import torch

from experiments.table import load_table
from tools import gpu, gpu_session
from tools.gpu_session import Session, chosen, main, run_for, source_sha256
from tools.gpu_steps import NOT_HERE, STEPS, Step, read_counters

PRINT = ("PYTHON", "-c")


def small(name: str, code: str, limit_s: int = 60, needs_gpu: bool = False, row: str = "") -> Step:
    return Step(
        name, (*PRINT, code, "JSON"), limit_s, lambda log, numbers: str(numbers.get("value", "")), row, needs_gpu
    )


STEPS_HERE = (
    small("good", "import json, sys; json.dump({'value': 7}, open(sys.argv[1], 'w')); print('fine')"),
    small("bad", "print('it broke'); raise SystemExit(3)"),
    small("long", "import time; print('begun', flush=True); time.sleep(60)", limit_s=2),
    small("absent", f"print('there is no such tool'); raise SystemExit({NOT_HERE})"),
    small("gpu", "print('on a GPU')", needs_gpu=True),
)


@pytest.fixture
def steps(monkeypatch):
    monkeypatch.setattr(gpu_session, "STEPS", STEPS_HERE)
    monkeypatch.setattr(gpu_session, "GRACE_S", 1.0)
    look = json.dumps({"why": "none here", "gpu": None, "torch": "2", "cuda": "13"})
    monkeypatch.setattr(gpu_session, "LOOK", f"print({look!r})")


def call(tmp_path, *words: str) -> int:
    return main(["--out", str(tmp_path / "out"), "--work", str(tmp_path / "work"), *words, "--bundle", str(tmp_path)])


def states(tmp_path) -> dict[str, str]:
    written = json.loads((tmp_path / "out" / "session.json").read_text())
    return {name: result["state"] for name, result in written["steps"].items()}


def test_no_step_stops_another_and_each_says_what_came_of_it(steps, tmp_path):
    assert call(tmp_path) == 1
    want = {"good": "done", "bad": "failed", "long": "timed out", "absent": "not run", "gpu": "not run"}
    assert states(tmp_path) == want
    lines = (tmp_path / "out" / "summary.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["step", *want]
    assert lines[1].endswith(" 7")
    assert lines[2].endswith("it broke")
    assert lines[4].endswith("there is no such tool")
    assert lines[5].endswith("no GPU: none here")


def test_named_steps_are_added_to_what_is_there(steps, tmp_path):
    assert call(tmp_path, "--steps", "bad") == 1
    assert call(tmp_path, "--steps", "good") == 0
    assert states(tmp_path) == {"bad": "failed", "good": "done"}


def test_a_step_that_is_none_is_named(steps, tmp_path, capsys):
    assert call(tmp_path, "--steps", "good best") == 2
    assert "steps must be of good, bad, long, absent, gpu; got best." in capsys.readouterr().err


def test_what_has_no_time_left_is_not_run(steps, tmp_path):
    assert call(tmp_path, "--steps", "good", "--limit-s", "5") == 0
    assert states(tmp_path) == {"good": "not run"}


def test_no_snapshot_and_no_place_of_the_machine_is_kept(steps, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_session, "MOST_BYTES", 2000)
    train = tmp_path / "work" / "train"
    train.mkdir(parents=True)
    for name, size in (("ledger.jsonl", 10), ("a.pkl", 10), ("state.pt", 10), ("large.png", 5000)):
        (train / name).write_bytes(b"x" * size)
    monkeypatch.setattr(gpu_session, "STEPS", (small("bad", f"raise SystemExit({str(tmp_path / 'work')!r})"),))
    call(tmp_path)
    with tarfile.open(tmp_path / "out" / "files.tar.gz") as tar:
        assert sorted(tar.getnames()) == ["logs/bad.log", "train/ledger.jsonl"]
    text = (tmp_path / "out" / "session.json").read_text()
    assert json.loads(text)["left_out"] == ["train/large.png"]
    assert str(tmp_path) not in text
    assert '"figure": "WORK"' in text


def test_a_command_is_asked_to_stop_before_it_is_killed(tmp_path, monkeypatch):
    saves = "import sys, time\ntry:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    print('saved')\n"
    with (tmp_path / "log").open("wb") as log:
        assert run_for([sys.executable, "-c", saves], 2, {}, log) is None
    assert (tmp_path / "log").read_text() == "saved\n"
    monkeypatch.setattr(gpu_session, "GRACE_S", 0.2)
    monkeypatch.setattr(gpu_session, "KILL_S", 0.2)
    stubborn = "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\ntime.sleep(60)"
    begun_s = time.monotonic()
    with (tmp_path / "log").open("wb") as log:
        assert run_for([sys.executable, "-c", stubborn], 1, {}, log) is None
        assert run_for([sys.executable, "-c", "raise SystemExit(5)"], 60, {}, log) == 5
    assert time.monotonic() - begun_s < 30


def ended(marker: str) -> bool:
    """Whether no process has this word in its command line. A process that was just killed may take a moment to end."""
    for _ in range(50):
        found = subprocess.run(["ps", "-eo", "stat,args"], capture_output=True, text=True, check=True).stdout
        if not any(marker in line and not line.startswith("Z") for line in found.splitlines()):
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize(("last", "limit_s", "code"), [("exit 4", 60, 4), ("sleep 60", 1, None)])
def test_what_a_command_started_ends_with_it(tmp_path, monkeypatch, last, limit_s, code):
    """sh makes its background commands ignore SIGINT."""
    monkeypatch.setattr(gpu_session, "GRACE_S", 1.0)
    marker = f"61.{time.time_ns()}"
    with (tmp_path / "log").open("wb") as log:
        assert run_for(["sh", "-c", f"sleep {marker} & {last}"], limit_s, dict(os.environ), log) == code
    assert ended(marker)


SESSION = """
import json, runpy, sys
from tools import gpu_steps
gpu_steps.STEPS = (gpu_steps.Step("long", ("sleep", "MARKER"), 60, lambda *_: "", needs_gpu=False),)
sys.argv = ["gpu-session", "--out", "OUT", "--work", "OUT/work", "--bundle", "OUT"]
runpy.run_module("tools.gpu_session", run_name="__main__")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_session_that_is_ended_ends_its_step(tmp_path, number):
    marker = f"62.{time.time_ns()}"
    code = SESSION.replace("MARKER", marker).replace("OUT", str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", code], cwd=gpu_session.ROOT, stderr=subprocess.PIPE) as process:
        while not (tmp_path / "work" / "logs" / "long.log").exists():
            assert process.poll() is None
            time.sleep(0.1)
        time.sleep(0.5)
        process.send_signal(number)
        assert process.communicate(timeout=30)[1] == b"interrupted. Name the steps that are left to go on.\n"
    assert process.returncode == 130
    assert ended(marker)
    assert (tmp_path / "files.tar.gz").exists()


@pytest.mark.parametrize("text", ['{"steps": ', "[]", "{}", "null", '{"steps": {"good": {"state": "done"}}}', "\xff"])
def test_a_damaged_session_is_refused_with_its_name(steps, tmp_path, capsys, text):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "session.json").write_bytes(text.encode("latin-1"))
    assert call(tmp_path, "--steps", "good") == 2
    assert "session.json must be as gpu-session wrote it; got " in capsys.readouterr().err
    assert (tmp_path / "out" / "session.json").read_bytes() == text.encode("latin-1")


def test_results_that_could_not_be_written_come_with_the_next(steps, tmp_path, monkeypatch, capsys):
    """The disk is full for a while."""
    inner, calls = gpu_session._replace, []

    def replace_after_one_failure(path, data) -> None:
        calls.append(path)
        if len(calls) == 1:
            raise OSError(28, "No space left on device")
        inner(path, data)

    monkeypatch.setattr(gpu_session, "_replace", replace_after_one_failure)
    assert call(tmp_path, "--steps", "good absent") == 0
    assert states(tmp_path) == {"good": "done", "absent": "not run"}
    assert "could not be written: [Errno 28] No space left on device." in capsys.readouterr().err
    calls.clear()
    assert call(tmp_path, "--steps", "good") == 1


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import time; time.sleep(60)", "torch did not say within 1 s whether there is one"),
        ("raise SystemExit('a broken driver')", "a broken driver"),
        ("import os; os.write(1, bytes([255, 10])); print('{\"why\": \"none\"}'); print('later')", "none"),
    ],
)
def test_a_gpu_that_cannot_be_looked_for_is_none(steps, tmp_path, monkeypatch, code, why):
    monkeypatch.setattr(gpu_session, "LOOK", code)
    monkeypatch.setattr(gpu_session, "LOOK_S", 1.0 if "sleep" in code else 60.0)
    session = Session(tmp_path / "out", tmp_path / "work", tmp_path, "full")
    session.look_for_gpu()
    assert session.no_gpu == why


@pytest.mark.parametrize(("code", "kimg"), [(0, 48), (3, None)])
def test_numbers_of_an_earlier_attempt_are_shown_only_of_a_training_that_is_done(steps, tmp_path, code, kimg):
    session = Session(tmp_path / "out", tmp_path / "work", tmp_path, "smoke")
    session.train.mkdir()
    (session.train / "ledger.jsonl").write_text('{"row": "plain", "kimg": 48}\n')
    session.do(small("train", f"raise SystemExit({code})", row="plain"), 60)
    assert session.results["train"]["numbers"].get("kimg") == kimg


def wheel(path, name: str) -> None:
    info = f"{name}-1.dist-info"
    with zipfile.ZipFile(path / f"{name}-1-py3-none-any.whl", "w") as file:
        file.writestr(f"{name}.py", "value = 5\n")
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "")


def archive(path, name: str) -> None:
    with tarfile.open(path, "w:gz") as tar:
        entry = tarfile.TarInfo(name)
        entry.size = 3
        tar.addfile(entry, io.BytesIO(b"abc"))


@pytest.mark.parametrize("edited", [False, True])
def test_a_bundle_is_unpacked_and_its_commit_holds_for_unchanged_files(tmp_path, monkeypatch, edited):
    root, bundle = tmp_path / "root", tmp_path / "bundle"
    (root / "tools").mkdir(parents=True)
    (root / "tools" / "a.py").write_text("a = 1\n")
    monkeypatch.setattr(gpu_session, "ROOT", root)
    (bundle / "wheels").mkdir(parents=True)
    wheel(bundle / "wheels", "mtmtestwheel")
    archive(bundle / gpu_session.HOST, "train.py")
    archive(bundle / gpu_session.DATA, "faces.zip")
    source = {"commit": "c" * 40, "dirty": False, "sha256": source_sha256(root)}
    (bundle / gpu_session.NOTE).write_text(json.dumps({"source": source, "packages": {}, "data": "faces.zip"}))
    if edited:
        (root / "tools" / "a.py").write_text("a = 2\n")
    session = Session(tmp_path / "out", tmp_path / "work", bundle, "full")
    session.unpack()
    assert (session.site / "mtmtestwheel.py").exists()
    assert (root / "vendor" / "stylegan3" / "train.py").read_text() == "abc"
    assert (tmp_path / "work" / "data" / "faces.zip").exists()
    assert session.env.get("MTM_COMMIT") == (None if edited else "c" * 40)
    (session.site / "mtmtestwheel.py").unlink()
    Session(tmp_path / "out", tmp_path / "work", bundle, "full").unpack()
    assert not (session.site / "mtmtestwheel.py").exists(), "what is installed is not installed again"


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_every_step_is_a_command_that_exists_with_these_options(step):
    assert step.argv[:2] == ("PYTHON", "-m")
    module = importlib.import_module(step.argv[2])
    if step.argv[2] != "pytest":
        module.main.make_context("step", list(step.argv[3:]))


def test_the_steps_are_taken_in_their_order():
    assert [step.name for step in chosen("bench probe")] == ["probe", "bench"]
    assert chosen("") == list(STEPS)


def test_what_is_trained_are_pairs_that_differ_in_mtm_alone():
    table = load_table("gpu")
    assert [step.row for step in STEPS if step.row] == [row.id for row in table.rows]
    for plain, mtm in zip(table.rows[::2], table.rows[1::2], strict=True):
        assert (plain.mtm, mtm.mtm, mtm.baseline) == ("none", "low", plain.id)
        assert {**plain.options, "mtm": "low"} == mtm.options
    assert not table.meaningless
    assert load_table("gpu", "smoke").meaningless
    assert load_table("gpu", "long").row("stylegan2").options["kimg"] > table.row("stylegan2").options["kimg"]


NCU = """\
==PROF== Connected to process 7
"ID","Kernel Name","Context","dram__bytes_read.sum","gpu__time_duration.sum","sm__throughput"
"","","","Mbyte","{unit}","%"
"0","void gather_kernel<float, float>(a)","1","1,234.5","{time}","35.5"
"1","transpose_kernel","1","1","{time}","n/a"
"""


@pytest.mark.parametrize(("unit", "time"), [("ns", "41,000"), ("us", "41"), ("usecond", "41"), ("msecond", "0.041")])
def test_counters_are_read_in_whatever_unit(unit, time):
    gather, transpose = read_counters(NCU.format(unit=unit, time=time))
    assert gather["name"] == "void gather_kernel<float, float>(a)"
    assert gather["us"] == pytest.approx(41)
    assert gather["dram__bytes_read.sum"] == 1234.5
    assert transpose["sm__throughput"] is None


def test_the_gpu_is_looked_for_with_torch(tmp_path):
    session = Session(tmp_path / "out", tmp_path / "work", tmp_path, "full")
    session.look_for_gpu()
    assert session.no_gpu == gpu.why_no_gpu()
    assert session.where["torch"] == torch.__version__


def test_counters_of_nothing():
    assert read_counters("==ERROR== ERR_NVGPUCTRPERM\n") == []
