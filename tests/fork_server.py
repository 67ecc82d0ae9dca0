"""A process that has torch imported and forks for every command, because the import takes longer than most commands.

Run as: fork_server.py SOCKET. A client (forked.py) opens one connection per command and sends one line of JSON. The
answer is a line with the process id and, once the command has ended, a line with its exit code. The server ends when
its client does, because the client holds the other end of its standard input.
"""

import atexit
import contextlib
import json
import multiprocessing.process
import os
import runpy
import select
import signal
import socket
import sys
import tempfile
import threading
import traceback
import types
import warnings

import numpy
import torch._dynamo  # noqa: F401 - an optimiser's first step would import it


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the answering processes
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{sys.argv[1]}.new")
        server.listen()
        os.rename(f"{sys.argv[1]}.new", sys.argv[1])  # clients wait for this name and connect at once
        while sys.stdin not in (ready := select.select([server, sys.stdin], [], [])[0]):
            assert ready == [server]
            connection, _ = server.accept()
            if os.fork() == 0:
                server.close()
                answer(connection)
            connection.close()


def answer(connection: socket.socket) -> None:
    """Run the command in its own process and report how it ended. Does not return."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with connection.makefile("rw") as lines:
        command = json.loads(lines.readline())
        child = os.fork()
        if child == 0:
            os.setpgrp()
            run(**command)
        with contextlib.suppress(PermissionError):  # the child called setpgrp first
            os.setpgid(child, child)
        with contextlib.suppress(BrokenPipeError):  # the client may be gone
            print(child, file=lines, flush=True)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=lines, flush=True)
    os._exit(0)


def run(words: list[str], cwd: str, env: dict[str, str], files: list[str]) -> None:
    """Run the command as if it had been started directly. Does not return."""
    for number, path in enumerate(files):
        file = os.open(path, os.O_WRONLY if number else os.O_RDONLY)
        os.dup2(file, number)
        os.close(file)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    multiprocessing.process.ORIGINAL_DIR = cwd
    tempfile.tempdir = None
    numpy.random.seed()
    sys.stdin, sys.stdout, sys.stderr = sys.__stdin__, sys.__stdout__, sys.__stderr__ = (
        open(0, closefd=False),  # noqa: SIM115
        open(1, "w", closefd=False),  # noqa: SIM115
        open(2, "w", buffering=1, errors="backslashreplace", closefd=False),  # noqa: SIM115
    )
    code = 1
    try:
        interpret(words)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if not isinstance(error.code, int | None):
            print(error.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        threading._shutdown()
        atexit._run_exitfuncs()  # e.g. data loaders end their workers
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os._exit(code)


def interpret(words: list[str]) -> None:
    """Do what `python *words` does: -W ACTION, then -c CODE, -m MODULE or a file, then arguments."""
    while words[0] == "-W":
        warnings.simplefilter(words[1])
        words = words[2:]
    home = sys.path[1:]  # without this file's own folder
    python_path = [os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    if words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        sys.path[:] = ["", *python_path, *home]
        program = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(words[1], "<string>", "exec"), program.__dict__)
    elif words[0] == "-m":
        sys.argv = words[1:]
        sys.path[:] = [os.getcwd(), *python_path, *home]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        sys.path[:] = [os.path.dirname(os.path.abspath(words[0])), *python_path, *home]
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    main()
