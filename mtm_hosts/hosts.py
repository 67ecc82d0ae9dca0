"""The table of what differs between the hosts (the codebases under vendor/), and their modules by one name."""

import importlib
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


def module(name: str) -> ModuleType:
    """The module `name` of the host that runs in this process, such as "legacy" (src.legacy in the video hosts)."""
    package = next((host.package for host in HOSTS.values() if f"{host.package}dnnlib" in sys.modules), "")
    return importlib.import_module(package + name)


def fail(message: str) -> NoReturn:
    """End the program with one line, whether click or Hydra reads its options."""
    raise SystemExit(f"Error: {message}")
