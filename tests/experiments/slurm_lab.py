"""Two Slurm clusters for tests, both on this machine.

StandIn has four commands and no daemon. Real runs Debian's slurm-wlm with two nodes. Run as a script, this file is a
command of the stand-in: `slurm_lab.py sbatch|squeue|scancel|scontrol ...`, with its jobs in LAB_JOBS.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol")
CONFIGURATION = """
ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=10
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
SlurmctldPort={ports[0]}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
KillWait=5
SchedulerParameters=bf_interval=2,sched_interval=2
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs={cpus} State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs={cpus} State=UNKNOWN
PartitionName=lab Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class StandIn:
    """A cluster's commands on the PATH. They start jobs at once, as processes."""

    partition = "lab"

    def __init__(self, folder: Path) -> None:
        self.jobs, commands = folder / "jobs", folder / "bin"
        self.jobs.mkdir(parents=True)
        commands.mkdir()
        for name in ("sbatch", "squeue", "scancel", "scontrol"):
            script = f'#!/bin/sh\nexec {sys.executable} {Path(__file__).resolve()} {name} "$@"\n'
            (commands / name).write_text(script)
            (commands / name).chmod(0o755)
        self.environment = {"LAB_JOBS": str(self.jobs), "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}"}

    def stop(self) -> None:
        for path in self.jobs.glob("*.json"):
            end(noted(path)["pid"])


class Real:
    """slurmctld and two slurmd on this machine, with their files in `folder`."""

    partition = "lab"

    def __init__(self, folder: Path) -> None:
        (folder / "state").mkdir(parents=True)
        folder.chmod(0o755)
        configuration = folder / "slurm.conf"
        values = {"host": socket.gethostname(), "folder": folder, "cpus": os.cpu_count(), "ports": free_ports(3)}
        configuration.write_text(CONFIGURATION.format(**values))
        self.environment = {"SLURM_CONF": str(configuration)}
        key = folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        where = [f"--socket={folder}/munge.socket", f"--pid-file={folder}/munge.pid"]
        files = [f"--log-file={folder}/munge.log", f"--seed-file={folder}/munge.seed", f"--key-file={key}"]
        self.daemons = [self.start("munged", "--foreground", "--force", *where, *files)]
        wait_for(lambda: (folder / "munge.socket").exists())
        self.daemons.append(self.start("slurmctld", "-D"))
        for node in ("n1", "n2"):
            (folder / f"spool.{node}").mkdir()
            self.daemons.append(self.start("slurmd", "-D", "-N", node))
        wait_for(lambda: self.run("sinfo", "--noheader", "--format=%D %t").split() == ["2", "idle"], 60)

    def start(self, *command: str) -> "subprocess.Popen[bytes]":
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
        return subprocess.Popen(command, env={**os.environ, **self.environment}, **quiet)

    def run(self, *command: str) -> str:
        environment = {**os.environ, **self.environment}
        return subprocess.run(command, env=environment, capture_output=True, text=True).stdout

    def stop(self) -> None:
        self.run("scancel", "--me")
        wait_for(lambda: not self.run("squeue", "--noheader"), 30)
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in self.daemons:
            daemon.wait(timeout=30)


def lacks() -> str:
    """Why a real cluster cannot start here; empty if it can."""
    if absent := [name for name in NEEDED if shutil.which(name) is None]:
        return f"no {', '.join(absent)} (apt-get install slurm-wlm munge)"
    return "" if os.geteuid() == 0 else "slurmd must run as root"


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def wait_for(condition, seconds: float = 20.0) -> None:
    end_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end_s, f"{condition} did not come true in {seconds} s"
        time.sleep(0.1)


# Commands of the stand-in.


def sbatch(words: list[str], jobs: Path) -> None:
    script = next(i for i, word in enumerate(words) if not word.startswith("--"))
    options = dict(word[2:].split("=", 1) for word in words[:script] if "=" in word)
    if options.get("partition") != "lab":
        sys.exit(f"sbatch: error: invalid partition specified: {options.get('partition')}")
    path = jobs / f"{len(list(jobs.glob('*.json'))) + 1}.json"
    note(path, words=words[script:], name=options["job-name"], folder=options["chdir"], state="RUNNING")
    pattern = options["output"]
    plain = pattern.replace("\\\\", "\\") if "\\" in pattern else pattern.replace("%%", "%")
    with open(plain, "ab") as log:
        command = [sys.executable, __file__, "control", str(path)]
        subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    print(path.stem)


def control(words: list[str], _jobs: Path) -> None:
    """Do what slurmctld and slurmd do for one job, until it ends."""
    path = Path(words[0])
    while True:
        job = noted(path)
        process = subprocess.Popen(job["words"], cwd=job["folder"], env={**os.environ, "SLURM_JOB_ID": path.stem})
        note(path, pid=process.pid)
        while process.poll() is None and noted(path)["state"] == "RUNNING":
            time.sleep(0.05)
        end(process.pid)
        code, state = process.wait(), noted(path)["state"]
        if state == "RUNNING":
            note(path, state="FAILED" if code else "COMPLETED")
        if state != "PENDING":
            return
        time.sleep(1)
        note(path, state="RUNNING")


def end(pid: int) -> None:
    """End every process of a job, even in other sessions."""
    try:
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        _, processes = psutil.wait_procs(processes, timeout=10)


def note(path: Path, **values: object) -> None:
    job = {**(noted(path) if path.exists() else {}), **values}
    path.with_suffix(".new").write_text(json.dumps(job))
    path.with_suffix(".new").replace(path)


def noted(path: Path) -> dict:
    return json.loads(path.read_text())


def scancel(words: list[str], jobs: Path) -> None:
    path = jobs / f"{words[-1]}.json"
    if words[:-1] == ["--batch", "--signal=USR1"]:
        os.kill(noted(path)["pid"], signal.SIGUSR1)
    else:
        assert len(words) == 1, words
        note(path, state="CANCELLED")


def scontrol(words: list[str], jobs: Path) -> None:
    assert words[0] == "requeue", words
    note(jobs / f"{words[1]}.json", state="PENDING")


def squeue(_words: list[str], jobs: Path) -> None:
    for path in jobs.glob("*.json"):
        print(path.stem, noted(path)["state"], noted(path)["name"])


if __name__ == "__main__":
    globals()[sys.argv[1]](sys.argv[2:], Path(os.environ["LAB_JOBS"]))
