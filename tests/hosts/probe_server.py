"""A process that has imported torch and forks for every probe: importing takes longer than most probes do.

Run as: probe_server.py <host>_probe.py, in a checkout. It reads lines of JSON, [arguments of the probe, log file], and
answers each with the probe's exit code.
"""

import atexit
import json
import os
import runpy
import sys
import traceback


def main():
    import numpy  # noqa: F401
    import torch._dynamo  # noqa: F401 - an optimiser's first step would import it

    probe = sys.argv[1]
    for line in sys.stdin:
        arguments, log = json.loads(line)
        child = os.fork()
        if child == 0:
            run(probe, arguments, log)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def run(probe, arguments, log):
    """The probe, as if it had been started by itself; does not return."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    code = 1
    try:
        sys.argv = [probe, *arguments]
        runpy.run_path(probe, run_name="__main__")
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        print(error.code, file=sys.__stderr__)
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
    finally:
        atexit._run_exitfuncs()  # data loaders end their workers
        sys.__stdout__.flush()
        sys.__stderr__.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
