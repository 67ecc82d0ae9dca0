"""Runs Python commands in processes that have torch imported (fork_server.py), 3 seconds faster than an interpreter.

Use it for commands that need torch. Tests of imports or of the interpreter's options must start a real interpreter.
"""

import atexit
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path


class Forked:
    """A running command, with the part of subprocess.Popen's interface that tests need."""

    def __init__(self, words: list[str], cwd: str, env: Mapping[str, str], input: str) -> None:
        self.args, self.returncode, self._said = words, None, None
        self._folder = Path(tempfile.mkdtemp(dir=_server().parent))
        files = {name: str(self._folder / name) for name in ("in", "out", "err")}
        for path in files.values():
            Path(path).write_text(input if path == files["in"] else "")
        request = {"words": words, "cwd": cwd, "env": dict(env), "files": list(files.values())}
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(_server()))
            connection.sendall(json.dumps(request).encode() + b"\n")
            self._lines = connection.makefile("rb", buffering=0)
        self.pid = int(self._lines.readline())

    def wait(self, timeout: float | None = None) -> int:
        """The exit code. Raises subprocess.TimeoutExpired, in which case the command keeps running."""
        if self.returncode is None:
            if not select.select([self._lines], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout)
            line = self._lines.readline()
            self._lines.close()
            assert line, f"{self.args}: the fork server has ended"
            self.returncode = int(line)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.wait(timeout)
        if self._said is None:
            self._said = tuple((self._folder / name).read_text() for name in ("out", "err"))
            shutil.rmtree(self._folder)
        return self._said

    def kill(self) -> None:
        """Kill the command and everything that it started in its process group."""
        os.killpg(self.pid, signal.SIGKILL)
        self.wait()


def start(*words: str, cwd: str | Path | None = None, env: Mapping[str, str] | None = None, input: str = "") -> Forked:
    """Start `python *words` in its own process group. words: [-W ACTION], -c CODE or -m MODULE or a file, arguments."""
    return Forked(list(map(str, words)), str(cwd or os.getcwd()), os.environ if env is None else env, input)


def run(*words: str, timeout: float = 300, **how) -> subprocess.CompletedProcess[str]:
    """Run the command to its end. On a timeout, kills it and raises subprocess.TimeoutExpired."""
    process = start(*words, **how)
    try:
        out, err = process.communicate(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return subprocess.CompletedProcess([sys.executable, *words], process.returncode, out, err)


@cache
def _server() -> Path:
    """The socket of this process's fork server, which the first call starts."""
    folder = Path(tempfile.mkdtemp(prefix="fork-server-"))
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH" and not k.startswith("MTM_")}
    env |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "THP_MEM_ALLOC_ENABLE": "1"}  # torch reads these once
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("fork_server.py")), str(folder / "socket")],
        cwd=folder, env=env, stdin=subprocess.PIPE,
    )  # fmt: skip
    atexit.register(shutil.rmtree, folder)
    atexit.register(server.kill)
    while not (folder / "socket").exists():
        assert server.poll() is None, "the fork server did not start"
        time.sleep(0.02)
    return folder / "socket"
