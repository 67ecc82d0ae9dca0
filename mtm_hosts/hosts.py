"""The table of what differs between the hosts (the codebases under vendor/), and their modules by one name."""

import importlib
import re
import sys
from types import ModuleType
from typing import NamedTuple, NoReturn


class Host(NamedTuple):
    """Facts about one host.

    code: the folder in vendor/<host> that its scripts run in and import from.
    package: what the names of its modules begin with.
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
    """What the names of the modules of the host that runs in this process begin with."""
    # The longest: a video host's scripts have its folder src on the path, too.
    packages = sorted({host.package for host in HOSTS.values()}, key=len, reverse=True)
    return next((package for package in packages if f"{package}dnnlib" in sys.modules), "")


def module(name: str) -> ModuleType:
    """The module `name` of the host that runs in this process, such as "legacy" (src.legacy in the video hosts)."""
    return importlib.import_module(package() + name)


def fail(message: str) -> NoReturn:
    """Ends the program with one line, in which options are spelt as the host reads them: by click or by Hydra."""
    raise SystemExit(f"Error: {as_hydra(message) if package() else message}")


def reason(error: Exception) -> str:
    """The text of an error, in one line without a full stop."""
    return f"{type(error).__name__}: {(str(error) or 'no reason given').splitlines()[0].rstrip('. ')}"


def as_hydra(message: str) -> str:
    """Options in a message as the video hosts spell them: a list has brackets, and quotes for the shell.

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
