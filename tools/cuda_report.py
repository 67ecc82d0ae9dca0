"""make cuda-report: the compiler's result for every CUDA kernel: registers, stack, spills, instructions.

Registers are those that ptxas reports, for every architecture; instructions are counted if cuobjdump is found. Needs
nvcc, no GPU. A spill is a value kept in memory because the registers do not suffice; the tests allow none.
"""

import re
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import click

from mtm_ops import _build
from tools import cuda_sass

ARCHITECTURES = "7.5 8.0 9.0 12.0"  # Turing, A100, H100, consumer Blackwell
TYPES = {"d": "float64", "f": "float32", "6__half": "float16", "13__nv_bfloat16": "bfloat16"}  # as in mangled names
TYPES |= {"t": "16 bits", "j": "32 bits", "m": "64 bits"}
REGISTERS = 64 * 1024  # per multiprocessor, on all of these
THREADS = {"sm_75": 1024, "sm_80": 2048, "sm_90": 2048, "sm_120": 1536}  # maximum threads that a multiprocessor holds
BLOCK = 256  # kThreadsPerBlock

_SYMBOL = r"\w*?\d([a-z_]+_kernel)I(13__nv_bfloat16|6__half|[fdtjm])[fd]?(\w*?)EEv\w+"
_ENTRY = re.compile(rf"Compiling entry function '{_SYMBOL}' for '(\w+)'")
_MEMORY = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_REGISTERS = re.compile(r"Used (\d+) registers")


@dataclass(frozen=True)
class Kernel:
    """One instantiation on one architecture."""

    name: str
    storage: str  # dtype of x and the columns
    variant: tuple[int, ...]  # (vector, team), and for gradient kernels 1 for second order, 0 for first
    architecture: str
    registers: int
    stack_bytes: int
    spill_bytes: int

    def occupancy(self) -> float:
        """The share of a multiprocessor's threads for which its registers suffice."""
        per_warp = -(-self.registers * 32 // 256) * 256  # allocated 256 at a time
        blocks = REGISTERS // (per_warp * (BLOCK // 32))
        return min(1.0, blocks * BLOCK / THREADS.get(self.architecture, 2048))


@dataclass(frozen=True)
class Build:
    """One run of nvcc."""

    library: Path
    kernels: list[Kernel]
    seconds: float
    log: str


def parse(log: str) -> list[Kernel]:
    """The kernels in a log of `nvcc -Xptxas -v`."""
    kernels = []
    entry, memory = None, None
    for line in log.splitlines():
        entry = _ENTRY.search(line) or entry
        memory = _MEMORY.search(line) or memory
        if (used := _REGISTERS.search(line)) and entry and memory:
            variant = _numbers(entry[3])
            stack, stores, loads = map(int, memory.groups())
            kernels.append(Kernel(entry[1], TYPES[entry[2]], variant, entry[4], int(used[1]), stack, stores + loads))
            entry, memory = None, None
    return kernels


def _numbers(mangled: str) -> tuple[int, ...]:
    """The numbers among the template arguments of a mangled name."""
    return tuple(int(n) for n in re.findall(r"L[ib](\d+)E?", mangled))


def compile_all(target: Path, architectures: str = ARCHITECTURES) -> Build:
    """Compiles cuda.cu as the JIT build does, for all architectures at once. Raises BuildError."""
    nvcc = _build.find_nvcc()
    if nvcc is None:
        raise _build.BuildError("no nvcc found: looked in $CUDA_HOME/bin, on PATH and in /usr/local/cuda/bin.")
    flags = [*_build._CUDA_FLAGS, *_build.arch_flags(architectures), "-Xptxas", "-v"]
    start_s = time.monotonic()
    command = [nvcc, *flags, str(_build.CSRC / "cuda.cu"), "-o", str(target)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise _build.BuildError(f"nvcc failed:\n{done.stdout}")
    return Build(target, parse(done.stdout), time.monotonic() - start_s, done.stdout)


def table(kernels: list[Kernel], every_variant: bool) -> list[str]:
    """Rows of kernels, columns of architectures: registers, then share of threads resident, then spills if any."""
    architectures = list(dict.fromkeys(k.architecture for k in sorted(kernels, key=lambda k: int(k.architecture[3:]))))
    rows: dict[tuple[str, str, str], dict[str, Kernel]] = {}
    for k in kernels:
        shown = _text(k.variant, every_variant)
        cells = rows.setdefault((k.name.removesuffix("_kernel"), k.storage, shown), {})
        before = cells.get(k.architecture)
        if before is None or (k.spill_bytes, k.registers) > (before.spill_bytes, before.registers):
            cells[k.architecture] = k
    lines = [f"{'kernel':24}{'storage':10}{'variant':24}" + "".join(f"{a:>14}" for a in architectures)]
    for (name, storage, variant), found in sorted(rows.items()):
        cells_shown = "".join(f"{_cell(found[a]) if a in found else '':>14}" for a in architectures)
        lines.append(f"{name:24}{storage:10}{variant:24}{cells_shown}")
    return lines


def _text(variant: tuple[int, ...], every: bool) -> str:
    """(vector, team) and, for gradient kernels, the order, as text."""
    if not variant:
        return ""
    team = f", team {variant[1]}" if every and len(variant) > 1 else ""
    return f"vector {variant[0]}{team}" + (", second order" if variant[2:] == (1,) else "")


def _cell(k: Kernel) -> str:
    spilt = f" !{k.spill_bytes}B" if k.spill_bytes else ""
    return f"{k.registers} {k.occupancy():.0%}{spilt}"


def sass_table(built: Build, architecture: str) -> list[str]:
    """Rows of kernels, with the widest team: instructions, those in the loop over channels, 16-byte stores, atomics."""
    rows = {}
    for code in cuda_sass.disassemble(built.library, architecture):
        name, storage, arguments = re.search(_SYMBOL, code.symbol).groups()  # type: ignore[union-attr]
        variant = _numbers(arguments)
        loop = code.loop("LDG.E.128")
        counts = (len(code.lines), len(loop.lines) if loop else "-", code.count("STG.E.128"), code.count("RED."))
        if len(variant) < 2 or variant[1] == 32:
            rows[name.removesuffix("_kernel"), TYPES[storage], _text(variant, False)] = counts
    heading = f"{'kernel, ' + architecture:24}{'storage':10}{'variant':24}"
    lines = [heading + "".join(f"{c:>15}" for c in ("instructions", "channel loop", "16-byte stores", "atomics"))]
    for (name, storage, shown), counts in sorted(rows.items()):
        lines.append(f"{name:24}{storage:10}{shown:24}" + "".join(f"{c:>15}" for c in counts))
    return lines


@click.command()
@click.option("--architectures", default=ARCHITECTURES, show_default=True, help="As in TORCH_CUDA_ARCH_LIST.")
@click.option("--all", "every", is_flag=True, help="List every team size; default: the one with most registers.")
def main(architectures: str, every: bool) -> None:
    """Registers per thread, share of a multiprocessor's threads that this allows, and bytes spilled (!)."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            built = compile_all(Path(folder) / "cuda.so", architectures)
            sass = None
            if cuda_sass.find_cuobjdump():
                sass = sass_table(built, "sm_90" if "9.0" in architectures else built.kernels[0].architecture)
        except _build.BuildError as error:
            raise SystemExit(f"cuda-report: {error}") from error
    click.echo("\n".join(table(built.kernels, every)))
    spilling = sum(k.spill_bytes > 0 for k in built.kernels)
    stack = max((k.stack_bytes for k in built.kernels), default=0)
    click.echo(
        f"\n{len(built.kernels)} kernels on {architectures}: {spilling} spill, largest stack {stack} bytes; "
        f"built in {built.seconds:.0f} s.\n"
    )
    click.echo("\n".join(sass or ["machine code: not counted, there is no cuobjdump (tools/cuda_sass.py)"]))


if __name__ == "__main__":
    main()
