"""make gpu-page: writes what GPU sessions measured to docs/results-cuda.md, between two marks. Do not edit it by hand.

Steps that no session ran are listed as not run. If several sessions ran a step, the last one counts.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from experiments.files import UserError, atomic_output
from tools import bench, bench_table4
from tools.gpu_steps import STEPS, read_steps

PAGE = Path(__file__).resolve().parents[1] / "docs" / "results-cuda.md"
BEGIN, END = "<!-- measured: written by make gpu-page -->", "<!-- measured end -->"
NOT_RUN = "not run"
SHOWN_KERNELS = 8
Result = dict[str, Any]


def read_sessions(folders: Sequence[Path]) -> dict[str, Result]:
    """The result of each step, by name. Raises UserError for a folder without a session, and for one without a GPU."""
    found: dict[str, Result] = {}
    for folder in folders:
        path = folder / "session.json"
        if not path.exists():
            raise UserError(f"gpu-page: FROM must hold session.json; got none in {folder}. Run: make gpu-session")
        try:
            steps = read_steps(folder)
        except ValueError as error:
            raise UserError(f"gpu-page: {error}") from None
        ran = {name: step for name, step in steps.items() if step["state"] != NOT_RUN}
        if foreign := [name for name, step in ran.items() if not step["where"].get("gpu") or step["preset"] == "smoke"]:
            raise UserError(
                f"gpu-page: {folder} must be of a session on a GPU; got {', '.join(foreign)} without one. "
                "A rehearsal on a CPU has no numbers to show."
            )
        found |= ran
    return found


def page_lines(steps: dict[str, Result]) -> Iterator[str]:
    """The sections, as Markdown."""
    yield "### Steps\n"
    yield from step_lines(steps)
    yield "\n### One layer, [B, C, H, H], 3x3, offsets of 2 px, against plain cuDNN convolution\n"
    yield from layer_lines(_numbers(steps, "bench"))
    yield "\n### A training iteration of StyleGAN2, 128 px, lazy regularisation, TF32 off\n"
    yield from table4_lines(_numbers(steps, "table4"))
    yield "\n### Training at 64 px: the table `gpu`\n"
    yield from training_lines(steps)
    yield "\n### Kernels of a layer\n"
    yield from kernel_lines(_numbers(steps, "profile"))


def _numbers(steps: dict[str, Result], name: str) -> Result:
    return steps.get(name, {}).get("numbers", {})


def _row(*cells: object) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def _head(*titles: str) -> str:
    return f"{_row(*titles)}\n{'|---' * len(titles)}|"


def step_lines(steps: dict[str, Result]) -> Iterator[str]:
    yield _head("step", "state", "s", "figure", "machine", "date", "commit")
    for step in STEPS:
        result = steps.get(step.name)
        if result is None:
            yield _row(step.name, NOT_RUN, "", "", "", "", "")
            continue
        where = result["where"]
        figure = " ".join(str(result["figure"]).split()).replace("|", "/")
        machine = f"{where['gpu']}, torch {where['torch']}, CUDA {where['cuda']}"
        commit = (where.get("commit") or "not known")[:7]
        yield _row(step.name, result["state"], f"{result['seconds']:.0f}", figure, machine, where["date"], commit)


def layer_lines(numbers: Result) -> Iterator[str]:
    suite, layers = bench.SUITES["cuda"], numbers.get("layers", [])
    times = "plain ms", "ours ms", "torchvision ms", "roofline ms", "ours/plain"
    yield _head("B, C, H", "dtype", "layout", "pass", *times, "target")
    for layer in layers:
        yield from _passes(layer)
    done = {(_shape(layer), layer["kind"], layer["layout"]) for layer in layers}
    for shape in suite.shapes:
        missing = [(k, x) for k in suite.kinds for x in suite.layouts if (shape, k, x) not in done]
        limit = suite.most_times_plain.get(shape)
        target = f"forward+backward {limit}" if limit else ""
        for kind in dict.fromkeys(kind for kind, _ in missing):
            layouts = ", ".join(x for k, x in missing if k == kind)
            yield _row(_text(shape), kind, layouts, "all", *[NOT_RUN] * len(times), target)
    if layers:
        yield "\nPeak memory of forward+backward above the inputs, MiB:\n"
        yield _head("B, C, H", "dtype", "layout", "plain", "ours", "torchvision", "ours/plain")
        yield from map(_memory, layers)


def _shape(layer: Result) -> bench.Shape:
    return layer["batch"], layer["channels"], layer["side"]


def _text(shape: bench.Shape) -> str:
    return ", ".join(map(str, shape))


def _memory(layer: Result) -> str:
    peak = layer["peak_mib"]
    cells = [f"{peak[name]:.0f}" if name in peak else "-" for name in ("plain", "ours", "torchvision")]
    ratio = f"{peak['ours'] / peak['plain']:.2f}" if peak.get("plain") and "ours" in peak else "-"
    return _row(_text(_shape(layer)), layer["kind"], layer["layout"], *cells, ratio)


def _passes(layer: Result) -> Iterator[str]:
    limit = bench.SUITES["cuda"].most_times_plain.get(_shape(layer))
    for what, ms in layer["ms"].items():
        cells = [f"{ms[name]:.3f}" if name in ms else "-" for name in ("plain", "ours", "torchvision")]
        roofline = layer["roofline_ms"].get(what)
        cells += ["-" if roofline is None else f"{roofline:.3f}", f"{ms['ours'] / ms['plain']:.2f}"]
        target = limit if limit and what == "forward+backward" else ""
        yield _row(_text(_shape(layer)), layer["kind"], layer["layout"], what, *cells, target)


def table4_lines(numbers: Result) -> Iterator[str]:
    yield _head("MTM", "ms/iteration", "training", "paper", "target", "inference", "paper")
    for name, paper in bench_table4.PAPER_TRAINING.items():
        target = bench_table4.TARGETS.get(name, 1.0)
        found = numbers.get("settings", {}).get(name)
        if found is None:
            yield _row(name, NOT_RUN, NOT_RUN, paper, target, NOT_RUN, bench_table4.PAPER_INFERENCE)
            continue
        cells = f"{found['iteration_s'] * 1e3:.2f}", f"{found['training_ratio']:.2f}", paper, target
        yield _row(name, *cells, f"{found['inference_ratio']:.2f}", bench_table4.PAPER_INFERENCE)


def training_lines(steps: dict[str, Result]) -> Iterator[str]:
    yield _head("row", "state", "kimg", "s/kimg", "Fréchet distance, random embedding")
    for step in STEPS:
        if not step.row:
            continue
        result = steps.get(step.name, {"state": NOT_RUN, "numbers": {}})
        entry = result["numbers"]
        value = entry.get("metrics", {}).get("frechet", {}).get("value")
        cells = [entry.get("kimg"), entry.get("s_per_kimg"), value]
        yield _row(step.row, result["state"], *["" if cell is None else f"{cell:.4g}" for cell in cells])


def kernel_lines(numbers: Result) -> Iterator[str]:
    if not numbers:
        yield "Not run."
        return
    yield f"Microseconds a call of the pass, the {SHOWN_KERNELS} longest; the whole list is the session's.\n"
    yield _head("layer and pass", "kernel", "launches", "us")
    for what, kernels in numbers.items():
        for kernel in kernels[:SHOWN_KERNELS]:
            name = kernel["name"].replace("|", "/")[:60]
            yield _row(what, f"`{name}`", f"{kernel['launches']:.3g}", f"{kernel['us']:.1f}")


def write_page(page: Path, steps: dict[str, Result]) -> None:
    """Writes the results to the page. Raises UserError if it lacks the marks."""
    text = page.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise UserError(f"gpu-page: {page} must hold the lines {BEGIN} and {END}. Put them back (git checkout).")
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    lines = "\n".join(page_lines(steps))
    with atomic_output(page) as partial:
        partial.write_text(f"{before}{BEGIN}\n\n{lines}\n\n{END}{after}", encoding="utf-8")


@click.command()
@click.argument("folders", nargs=-1, type=click.Path(path_type=Path))
@click.option("--page", type=click.Path(path_type=Path), default=PAGE, help="[default: docs/results-cuda.md]")
def main(folders: tuple[Path, ...], page: Path) -> None:
    """Write what sessions (the OUT of each, oldest first) measured to the page; without any, all count as not run."""
    try:
        write_page(page, read_sessions(folders))
    except UserError as error:
        raise click.ClickException(str(error)) from None


if __name__ == "__main__":
    main()
