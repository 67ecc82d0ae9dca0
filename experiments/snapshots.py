"""Opens a trained generator of any trainer and provides one interface to it.

    with open_snapshot(Path("runs/low/final.pt")) as snapshot:
        images = snapshot.generate(torch.randn(4, snapshot.facts.z_dim))  # uint8 [4, 3, R, R]

The compact generator's final.pt and snapshot.pt hold tensors only and are opened here. The official codebases write
pickles. Opening a pickle runs the code in it: only open files that you trust. The host's own loader opens it, with the
host's folder on the path, in a separate process, because the codebases share module names. Both patched and unpatched
checkouts work.
"""

from __future__ import annotations

import importlib
import io
import mmap
import multiprocessing
import os
import pickle
import sys
import traceback
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from experiments import generators
from experiments.files import UserError
from experiments.generators import Facts, Generator, Layer

ROOT = Path(__file__).resolve().parents[1]
TRUST = "Opening a pickle runs the code in it: only open files that you trust."


@dataclass(frozen=True)
class Host:
    """How the pickles of an official codebase are recognised and opened.

    `marks`: text that only its network code contains (a pickle carries its source code); `paths`: what its own scripts
    put on sys.path, relative to vendor/<name>; `loader`: the file of its legacy module, which exists if the host is
    fetched.
    """

    marks: tuple[bytes, ...]
    kind: type[Generator]
    loader: str = "legacy.py"
    paths: tuple[str, ...] = (".",)


# The order matters: pickles of EG3D and of the video hosts also contain the marks of StyleGAN3's.
HOSTS = {
    "eg3d": Host((b"class TriPlaneGenerator",), generators.EG3D, "eg3d/legacy.py", ("eg3d",)),
    "stylesv": Host((b"class SynthesisNetwork3v",), generators.StyleSV, "src/legacy.py", (".", "src")),
    "stylegan-v": Host((b"class MotionMappingNetwork",), generators.StyleGANV, "src/legacy.py", (".", "src")),
    "stylegan3": Host((b"class SynthesisNetwork", b"dnnlib.tflib.network"), generators.Official),
}


class Snapshot(ABC):
    """A trained generator. It may run in a separate process: to end that, call `close` or use a `with` block."""

    path: Path
    facts: Facts

    @abstractmethod
    def _call(self, name: str, *arguments: Any, **options: Any) -> Any:
        """Calls the Generator's method of that name and returns its result."""

    def generate(
        self,
        z: Tensor,
        c: Tensor | None = None,
        frames: Sequence[float] | None = None,
        *,
        strength: float = 1.0,
        truncation: float = 1.0,
        noise: bool = False,
    ) -> Tensor:
        """Images of latents.

        Args:
            z: [N, z_dim].
            c: labels [N, c_dim]: classes, or EG3D's cameras; if None, those of `labels`.
            frames: times of a video's frames, for networks that generate videos; if None, one image at time 0.
            strength: factor of the offsets (mtm_ops.offsets_scaled).
            truncation: psi; 1 for no truncation.
            noise: draw all other random inputs (noise per pixel, motion, ray positions) from torch's global random
                stream, which advances. Otherwise they are the same at every call.

        Returns:
            uint8 [N, 3, R, R], or [N, T, 3, R, R] with `frames`, on the CPU.

        Raises:
            ValueError: for wrong shapes, or a strength for a network without deformable layers.
            UserError: if the process that runs the network has ended.
        """
        return self._call(
            "generate",
            z,
            c,
            None if frames is None else list(frames),
            strength=strength,
            truncation=truncation,
            noise=noise,
        )

    def offsets(
        self, z: Tensor, c: Tensor | None = None, frames: Sequence[float] | None = None
    ) -> tuple[Tensor, dict[Layer, Tensor]]:
        """Images as in `generate`, and for each deformable layer its offsets [N, taps, 2 (dy, dx), h, w] in px of that
        layer; with `frames` N * T of them, frame after frame."""
        return self._call("offsets", z, c, None if frames is None else list(frames))

    def labels(self, count: int) -> Tensor:
        """The default labels c [count, c_dim]: the classes in turn; for EG3D the camera in front; c_dim 0 for
        unconditional networks."""
        return self._call("labels", count)

    def close(self) -> None:  # noqa: B027 - there may be nothing to close
        """Ends the process that runs the network, if there is one."""

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class LocalSnapshot(Snapshot):
    """A network in this process, accessible as `generator.network`."""

    def __init__(self, path: Path, generator: Generator) -> None:
        self.path, self.generator, self.facts = path, generator, generator.facts()

    def _call(self, name: str, *arguments: Any, **options: Any) -> Any:
        return getattr(self.generator, name)(*arguments, **options)


class HostSnapshot(Snapshot):
    """A host's pickle, in a separate process that ends when this object is closed or this process ends."""

    def __init__(self, path: Path, host: str, folder: Path, device: str) -> None:
        self.path, self.host = path, host
        context = multiprocessing.get_context("spawn")  # fork would copy this process's modules and locks
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, host, str(folder)), daemon=True)
        self._process.start()
        theirs.close()
        try:
            self.facts = self._ask("open", str(path), device)
        except BaseException:
            self.close()
            raise

    def _call(self, name: str, *arguments: Any, **options: Any) -> Any:
        return self._ask("call", name, arguments, options)

    def _ask(self, *request: Any) -> Any:
        """Sends a request and returns the answer. Passes the state of torch's global random stream there and back, so
        that random numbers are drawn as if in this process."""
        try:
            self._pipe.send_bytes(pickle.dumps((torch.get_rng_state(), *request)))
            error, answer, stream = pickle.loads(self._pipe.recv_bytes())
        except (EOFError, OSError) as lost:
            self._process.join(5)
            raise UserError(
                f"{self.path}: the process that ran {self.host}'s network ended (exit {self._process.exitcode}). "
                "Its last output says why; if there is none, it may have run out of memory."
            ) from lost
        torch.set_rng_state(stream)
        if error is not None:
            raise error
        return answer

    def close(self) -> None:
        self._pipe.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def open_snapshot(
    path: Path, device: str | None = None, host: str | None = None, vendor: Path = ROOT / "vendor"
) -> Snapshot:
    """Opens a trained generator: mini's final.pt or snapshot.pt, or a pickle of an official codebase.

    Opening a pickle runs the code in it: only open files that you trust. No other file is opened.

    Args:
        path: the file of the generator.
        device: torch device; if None, a GPU if there is one.
        host: the codebase of the pickle; if None, it is recognised by the source code in the pickle.
        vendor: the folder of the hosts' checkouts, each under its name.

    Raises:
        UserError: if the file is missing, empty, truncated or not a snapshot, or if its host is unknown or not fetched.
            The message is one line that names the file.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    name = _recognise(path, host, vendor)
    if name is None:
        return LocalSnapshot(path, _open_mini(path, device))
    return HostSnapshot(path, name, vendor / name, device)


def open_here(path: Path, host: str | None = None, vendor: Path = ROOT / "vendor") -> Generator:
    """Opens the generator of a snapshot on the CPU, in this process. For a pickle, its host stays on sys.path, so open
    only one per process. Arguments, trust and errors are as for `open_snapshot`."""
    name = _recognise(path, host, vendor)
    if name is None:
        return _open_mini(path, "cpu")
    return _open_pickle(path, name, vendor / name, "cpu")


def _recognise(path: Path, host: str | None, vendor: Path) -> str | None:
    """The host of a pickle; None for mini's snapshot. Raises UserError if the file is neither or cannot be opened."""
    start = _first_bytes(path)
    if start.startswith(b"PK"):  # torch.save's zip
        return None
    if not start.startswith((b"\x80", b"(", b"c")):
        raise UserError(f"{path}: is neither a snapshot of experiments/mini nor a pickle. Give a trained generator.")
    _check_whole(path)
    name = host or host_of(path)
    if name not in HOSTS:
        raise UserError(f"open_snapshot: host must be one of {', '.join(HOSTS)}; got {name!r}.")
    if not (vendor / name / HOSTS[name].loader).is_file():
        raise UserError(f"{path}: its host {name} is not fetched: vendor/{name} is empty. Run: make patch HOST={name}")
    return name


def host_of(path: Path) -> str:
    """The host of a pickle, recognised by the network's source code in it. Nothing in the pickle is executed."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for name, host in HOSTS.items():
            if any(data.find(mark) >= 0 for mark in host.marks):
                return name
    raise UserError(
        f"{path}: no generator of {', '.join(HOSTS)} was found in this pickle. If it is from one of them, name it: "
        "--host NAME."
    )


def _first_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). Give a trained generator.") from error
    if not start:
        raise UserError(f"{path}: is empty. Give an earlier snapshot.")
    return start


def _check_whole(path: Path) -> None:
    """Raises UserError if the pickle does not end with the stop opcode."""
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        if file.read(1) != pickle.STOP:
            raise UserError(
                f"{path}: is truncated: a complete pickle ends with its stop code. Give an earlier snapshot."
            )


def _open_mini(path: Path, device: str) -> Generator:
    from experiments.mini.trainer import Options, build_generator

    try:
        # weights_only: nothing in the file can run. Read into memory first, because torch would keep the file open.
        content = torch.load(io.BytesIO(path.read_bytes()), weights_only=True, map_location="cpu")
    except (RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise UserError(
            f"{path}: is truncated, damaged or not a snapshot of experiments/mini ({_first_line(error)}). "
            "Give an earlier snapshot."
        ) from error
    state = None
    if isinstance(content, dict) and "options" in content:
        state = content.get("generator", content.get("G_ema"))
    if state is None:
        raise UserError(f"{path}: is not a snapshot of experiments/mini. Give its final.pt or snapshot.pt.")
    try:
        network = build_generator(Options(**content["options"]))
        network.load_state_dict(state)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{path}: is of another version of experiments/mini ({_first_line(error)}). Train it again."
        ) from error
    return generators.Mini(network, device)


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")


def serve(pipe: Connection, host: str, folder: str) -> NoReturn:
    """Answers requests until the pipe closes, which also happens when the other process ends."""
    os.dup2(2, 1)  # the hosts print to stdout, which belongs to the output of our command
    generator: Generator | None = None
    while True:
        try:
            stream, kind, *request = pickle.loads(pipe.recv_bytes())
        except EOFError:
            os._exit(0)  # skips the clean-up of the host's imports, which can take seconds
        torch.set_rng_state(stream)
        answer: Any = None
        error: Exception | None = None
        try:
            if kind == "open":
                generator = _open_pickle(Path(request[0]), host, Path(folder), request[1])
                answer = generator.facts()
            else:
                name, arguments, options = request
                answer = getattr(generator, name)(*arguments, **options)
        except (UserError, ValueError) as expected:
            error = expected
        except Exception as unexpected:
            traceback.print_exc()
            error = RuntimeError(f"{host}: {type(unexpected).__name__}: {_first_line(unexpected)}")
        pipe.send_bytes(pickle.dumps((error, answer, torch.get_rng_state())))


def _open_pickle(path: Path, host: str, folder: Path, device: str) -> Generator:
    import mtm_hosts.compat  # noqa: F401 - makes unpatched checkouts work with current libraries

    sys.path[:0] = [os.path.normpath(folder / part) for part in HOSTS[host].paths]
    try:
        legacy: Any = importlib.import_module("legacy")
    except ImportError as error:
        raise UserError(
            f"{path}: vendor/{host} cannot be imported ({_first_line(error)}). Install what it needs: make setup"
        ) from error
    try:
        with path.open("rb") as file:
            network = legacy.load_network_pkl(file)["G_ema"]
        return HOSTS[host].kind(network, device)
    except Exception as error:  # a foreign file may cause any error
        raise UserError(
            f"{path}: {host}'s loader cannot open it ({type(error).__name__}: {_first_line(error)}). "
            "Give a whole snapshot of that codebase, or its --host."
        ) from error
