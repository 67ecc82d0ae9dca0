"""The CUDA kernels' machine code, counted: instructions, those in the loop over channels, 16-byte accesses, atomics.

Needs nvcc, cuobjdump and nvdisasm, no GPU. The last two come with the CUDA toolkit, or separately from
`pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm`; put them on PATH. The counts show what the compiler generated
for a kernel, not how long it takes.
"""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from mtm_ops import _build

_FUNCTION = re.compile(r"Function : (\w+)")
_LINE = re.compile(r"/\*([0-9a-f]{4,})\*/\s+([^;]+);")
_BRANCH = re.compile(r"\bBRA(?:\.\w+)*\s+(?:!?U?P\w+,\s*)?(0x[0-9a-f]+)")


@dataclass(frozen=True)
class Code:
    """One kernel's instructions, (address, text) each."""

    symbol: str
    lines: tuple[tuple[int, str], ...]

    def count(self, what: str) -> int:
        """The number of instructions in which a word begins with `what`."""
        pattern = re.compile(rf"(?<!\w){re.escape(what)}")
        return sum(bool(pattern.search(text)) for _, text in self.lines)

    def loop(self, what: str) -> "Code | None":
        """The shortest loop that contains an instruction with `what`; None if there is none."""
        jumps = [(int(m[1], 16), address) for address, text in self.lines if (m := _BRANCH.search(text))]
        bodies = [
            Code(self.symbol, tuple(line for line in self.lines if to <= line[0] <= at)) for to, at in jumps if to < at
        ]
        return min((b for b in bodies if b.count(what)), key=lambda b: len(b.lines), default=None)


def find_cuobjdump() -> str | None:
    """Path of cuobjdump: in $CUDA_HOME, on PATH, or in the toolkit's default folder; None if not found."""
    places = [os.path.join(os.environ.get("CUDA_HOME", "/usr/local/cuda"), "bin", "cuobjdump"), "cuobjdump"]
    return next((path for place in places if (path := shutil.which(place))), None)


def disassemble(library: Path, architecture: str) -> list[Code]:
    """The kernels of a library for one architecture ("sm_90"). Raises BuildError."""
    cuobjdump = find_cuobjdump()
    if cuobjdump is None:
        raise _build.BuildError("no cuobjdump found: looked in $CUDA_HOME/bin and on PATH.")
    command = [cuobjdump, "-sass", "-arch", architecture, str(library)]
    path = os.pathsep.join((os.path.dirname(cuobjdump), os.environ.get("PATH", "")))  # for nvdisasm
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": path})
    if done.returncode:
        raise _build.BuildError(f"cuobjdump failed:\n{done.stderr}")
    return parse(done.stdout)


def parse(listing: str) -> list[Code]:
    """The kernels in a listing of `cuobjdump -sass`."""
    found, symbol, lines = [], "", []  # type: ignore[var-annotated]
    for line in [*listing.splitlines(), "Function : end"]:
        if function := _FUNCTION.search(line):
            if lines:
                found.append(Code(symbol, tuple(lines)))
            symbol, lines = function[1], []
        elif instruction := _LINE.search(line):
            text = instruction[2].strip()
            if not text.startswith("NOP"):
                lines.append((int(instruction[1], 16), text))
    return found
