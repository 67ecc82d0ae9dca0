"""A command started through forked.py behaves like a separate Python process."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import forked
import pytest

SAY = """
import os, sys, warnings
print(sys.argv[1:], os.getcwd(), os.environ.get("GIVEN"), __name__, sys.path[0])
warnings.warn("seen")
print(os.environ.get("HOME"), "mtm_ops" in sys.modules, file=sys.stderr)
"""


@pytest.mark.parametrize("how", ["-c", "-m", "file"])
def test_a_command_runs_as_in_an_interpreter_of_its_own(how: str, tmp_path: Path) -> None:
    (tmp_path / "said.py").write_text(SAY)
    words = {"-c": ("-c", SAY), "-m": ("-m", "said"), "file": (str(tmp_path / "said.py"),)}[how]
    env = {"PATH": os.environ["PATH"], "GIVEN": "ü", "PYTHONPATH": str(tmp_path)}
    ours = forked.run("-W", "always", *words, "a b", cwd=tmp_path, env=env)
    command = [sys.executable, "-W", "always", *words, "a b"]
    theirs = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert (ours.returncode, ours.stdout) == (0, theirs.stdout)
    shown = [line for line in theirs.stderr.splitlines() if not line.startswith("  ")]  # Python 3.13 quotes -c code
    assert [line for line in ours.stderr.splitlines() if not line.startswith("  ")] == shown


SPAWN = """
import multiprocessing

def work(number):
    print(number, __name__, flush=True)

if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=work, args=(5,))
    process.start()
    process.join()
"""


def test_processes_that_a_command_spawns_find_its_file(tmp_path: Path) -> None:
    (tmp_path / "spawn.py").write_text(SPAWN)
    done = forked.run("spawn.py", cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("5 __mp_main__\n", "")


@pytest.mark.parametrize(
    ("code", "exit_code", "said"),
    [
        ("raise SystemExit(3)", 3, ""),
        ("import sys; sys.exit('no')", 1, "no\n"),
        ("raise SystemExit", 0, ""),
        ("import atexit; atexit.register(print, 'late'); print('early')", 0, ""),
        ("import os; os.kill(os.getpid(), 15)", -signal.SIGTERM, ""),
        ("import os; os._exit(4)", 4, ""),
    ],
)
def test_exit_codes_and_messages(code: str, exit_code: int, said: str) -> None:
    done = forked.run("-c", code)
    assert (done.returncode, done.stderr) == (exit_code, said)
    assert done.stdout == ("early\nlate\n" if "late" in code else "")


def test_an_error_shows_its_traceback() -> None:
    done = forked.run("-c", "1 / 0")
    assert done.returncode == 1
    assert done.stderr.endswith("ZeroDivisionError: division by zero\n")


def test_a_command_that_takes_too_long_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    code = "import subprocess, sys; print(subprocess.Popen(['sleep', '60']).pid, file=open(sys.argv[1], 'w'))\n"
    code += "import time; open(sys.argv[1] + '.done', 'w'); time.sleep(60)"
    process = forked.start("-c", code, str(tmp_path / "pid"))
    while not (tmp_path / "pid.done").exists():
        time.sleep(0.01)
    with pytest.raises(subprocess.TimeoutExpired):
        process.communicate(timeout=0.1)
    process.kill()
    assert process.returncode == -signal.SIGKILL
    end = time.monotonic() + 10
    while Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}/cmdline").exists() and time.monotonic() < end:
        time.sleep(0.01)
    assert time.monotonic() < end


def test_a_command_starts_with_torch_and_without_our_packages() -> None:
    code = "import sys; print('torch' in sys.modules, [m for m in sys.modules if m.startswith(('mtm', 'experiments'))])"
    assert forked.run("-c", code).stdout == "True []\n"
