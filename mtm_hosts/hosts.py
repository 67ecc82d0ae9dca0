"""The table of differences between the hosts (the codebases under vendor/), and uniform access to their modules."""

import importlib
import re
import sys
from types import ModuleType
from typing import NamedTuple, NoReturn


class Host(NamedTuple):
    """Facts about one host.

    code: the folder in vendor/<host> in which its scripts run and from which they import.
    package: the prefix of its modules' names.
    """

    code: str
    package: str


HOSTS = {
    "stylegan3": Host(code=".", package=""),
    "eg3d": Host(code="eg3d", package=""),
    "stylegan-v": Host(code=".", package="src."),
    "stylesv": Host(code=".", package="src."),
}


def package() -> str:
    """The prefix of the module names of the host that runs in this process."""
    # Longest first: a video host's scripts also have its folder src on the path.
    packages = sorted({host.package for host in HOSTS.values()}, key=len, reverse=True)
    return next((package for package in packages if f"{package}dnnlib" in sys.modules), "")


def module(name: str) -> ModuleType:
    """The module `name` of the host that runs in this process, such as "legacy" (src.legacy in the video hosts)."""
    return importlib.import_module(package() + name)


def fail(message: str) -> NoReturn:
    """Exits with a one-line message, in which options are spelled for the host's parser, click or Hydra."""
    raise SystemExit(f"Error: {as_hydra(message) if package() else message}")


def reason(error: Exception) -> str:
    """An error's message on one line, without a full stop."""
    return f"{type(error).__name__}: {(str(error) or 'no reason given').splitlines()[0].rstrip('. ')}"


def as_hydra(message: str) -> str:
    """Rewrites options in a message to the video hosts' syntax: lists have brackets, and quotes for the shell.

    >>> as_hydra("--resume: --mtm must be low; pass --mtm low --mtm-head offset, or --gpus=2.")
    'training.resume: mtm must be low; pass mtm=low mtm_head=offset, or num_gpus=2.'
    >>> as_hydra("pass --mtm low,mid")
    "pass 'mtm=[low,mid]'"
    """
    for ours, theirs in (("resume", "training.resume"), ("gpus", "num_gpus"), ("batch", "training.batch_size")):
        message = message.replace(f"--{ours}", theirs)
    message = re.sub(r"--mtm (\w+(?:,\w+)+)", r"'mtm=[\1]'", message)
    message = re.sub(r"--mtm(-head)? (?=none|low|mid|high|\d|offset)", lambda m: f"mtm{m[1] or ''}=", message)
    return re.sub(r"(--)?mtm-head", "mtm_head", message).replace("--mtm", "mtm")
