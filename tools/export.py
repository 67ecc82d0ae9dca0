"""Export a trained generator to ONNX, or with torch.export, and check the file: docs/export.md.

    python -m tools.export runs/low/final.pt model.onnx
    python -m tools.export network-snapshot-000000.pkl model.onnx --torch-export model.pt2

A file is written only after its images have been compared with torch's, on random latents.
"""

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor
from torch._dynamo.exc import UserError as TraceError
from torch.export import Dim, ExportedProgram

from experiments.files import UserError, atomic_output
from experiments.snapshots import HOSTS, TRUST, open_here
from mtm_ops.onnx import LEAST_OPSET, translation_table
from tools.exportable import NOISES, Exportable

BATCHES = (1, 2, 5)  # batch sizes with which a file with a dynamic batch is checked
TRUNCATIONS = (1.0, 0.7, 0.3)
Run = Callable[[dict[str, Any]], Tensor]


def trace(network: Exportable, batch: int | None) -> tuple[ExportedProgram, int | None]:
    """The network as a graph, and its batch size; None for a dynamic one.

    Args:
        batch: None requests a dynamic batch. If the network's code needs the number, it becomes 1.

    Raises:
        UserError: if torch.export cannot trace the network.
    """
    given = network.inputs(batch or 2, 1.0, seed=0)  # 2, because torch would treat a size of 1 as a constant
    shapes = {name: _batch_axis(value) for name, value in given.items()} if batch is None else None
    try:
        with torch.no_grad():
            return torch.export.export(network, (), given, dynamic_shapes=shapes, strict=False), batch
    except TraceError as error:
        if batch is None and "batch" in str(error):
            click.echo("batch: 1, as the network's code needs the number; --batch N for another")
            return trace(network, 1)
        raise _untraceable(error) from error
    except Exception as error:  # the network's code can raise anything
        raise _untraceable(error) from error


def _batch_axis(value: Any) -> Any:
    """The dynamic_shapes of torch.export for an argument: axis 0 is the batch, except for the truncation."""
    if isinstance(value, tuple):
        return tuple(_batch_axis(v) for v in value)
    return {0: Dim("batch")} if value.ndim else None


def _untraceable(error: Exception) -> UserError:
    return UserError(
        f"export: torch.export cannot trace this network: {type(error).__name__}: {str(error).strip()[:600]}\n"
        "Its Python code depends on the values of tensors, or calls something that torch.export does not support. "
        "Nothing was written."
    )


def largest_difference(run: Run, network: Exportable, batch: int | None) -> tuple[float, float]:
    """(largest difference between run's images and the network's, largest magnitude of these), on random arguments."""
    difference = scale = 0.0
    sizes = BATCHES if batch is None else (batch,) * len(TRUNCATIONS)
    for seed, (size, truncation) in enumerate(zip(sizes, TRUNCATIONS, strict=True)):
        given = network.inputs(size, truncation, seed)
        with torch.no_grad():
            image = network(**given)
            found = run(given)
        if found.shape != image.shape:
            raise UserError(f"export: the image must be {list(image.shape)}; the file gives {list(found.shape)}.")
        # A NaN counts as a difference, too.
        difference = max(difference, (found - image).abs().nan_to_num(nan=torch.inf).max().item())
        scale = max(scale, image.abs().max().item())
    return difference, scale


def write_checked(
    path: Path,
    write: Callable[[Path], str],
    load: Callable[[Path], Run],
    network: Exportable,
    batch: int | None,
    tolerance: float,
) -> None:
    """Writes a file and prints its difference from torch; `path` is replaced only if it is within the tolerance.

    Args:
        write: writes the file and returns a remark about it.
        load: returns the function that runs the file.
        tolerance: largest difference for images of magnitude 1 or less; for larger ones it grows in proportion.

    Raises:
        UserError: if the difference is larger, or the file cannot be written.
    """
    with atomic_output(path) as partial:
        about = write(partial)
        difference, scale = largest_difference(load(partial), network, batch)
        limit = tolerance * max(1.0, scale)
        if not difference <= limit:
            raise UserError(
                f"export: {path} must give torch's images within {limit:.1e}; the largest difference is "
                f"{difference:.1e}, of images up to {scale:.2g}. It was not written. Please report this network; "
                "--tolerance changes the limit."
            )
        size_mb = partial.stat().st_size / 1e6
    click.echo(
        f"{path}: {size_mb:.1f} MB, {about}; largest difference from torch {difference:.1e} "
        f"(limit {limit:.1e}, images up to {scale:.2g})"
    )


def to_onnx(program: ExportedProgram, opset: int, path: Path) -> str:
    inputs = len(program.graph_signature.user_inputs)
    names = ({0: "batch"}, *[None] * (inputs - 1))  # the first names the axis for all
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns that torchvision is not installed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # raised by torch about its own code
        try:
            model = torch.onnx.export(
                program,
                dynamo=True,
                custom_translation_table=translation_table(),
                opset_version=opset,
                dynamic_shapes=names,
                output_names=["image"],
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise UserError(f"export: torch.onnx.export failed: {str(error).strip()[:600]}") from error
    assert model is not None
    model.save(path, external_data=False)
    count = sum(node.op_type == "DeformConv" for node in model.model.graph)
    return f"opset {opset}, {count} DeformConv"


def onnx_runner(path: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]

    def run(given: dict[str, Any]) -> Tensor:
        noise = {f"noise_{i}": t for i, t in enumerate(given.get("noise", ()))}
        feed = {name: tensor.numpy() for name, tensor in {**given, **noise}.items() if name in names}
        return torch.from_numpy(session.run(None, feed)[0])

    return run


def to_pt2(program: ExportedProgram, path: Path) -> str:
    with path.open("wb") as file:  # given a path, torch.export.save requires the suffix .pt2
        torch.export.save(program, file)
    return "torch.export; import mtm_ops before torch.export.load"


def pt2_runner(path: Path) -> Run:
    with path.open("rb") as file:
        network = torch.export.load(file).module()
    return lambda given: network(**given)


@click.command()
@click.argument("snapshot", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("onnx", metavar="[MODEL.onnx]", required=False, type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--torch-export",
    metavar="MODEL.pt2",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write torch.export's format to this file.",
)
@click.option("--noise", type=click.Choice(NOISES), help="Per-layer noise: none, the network's constants, or inputs.")
@click.option(
    "--batch", type=click.IntRange(min=1), help="A fixed batch size.  [default: dynamic, if the network allows it]"
)
@click.option("--opset", type=click.IntRange(min=LEAST_OPSET), default=20, show_default=True, help="ONNX opset.")
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    default=1e-5,
    show_default=True,
    help="Largest accepted difference from torch.",
)
@click.option("--host", type=click.Choice(list(HOSTS)), help="The pickle's codebase, if the file does not show it.")
def main(
    snapshot: Path,
    onnx: Path | None,
    torch_export: Path | None,
    noise: str | None,
    batch: int | None,
    opset: int,
    tolerance: float,
    host: str | None,
) -> None:
    """Export the averaged generator of SNAPSHOT, and check each file against torch before writing it: to ONNX as
    MODEL.onnx, and with --torch-export to torch's own format.

    Inputs of the model: z, truncation, and, if the network has them, label and noise. Output: image.
    """
    if onnx is None and torch_export is None:
        raise click.UsageError("Name a file to write: MODEL.onnx, or --torch-export MODEL.pt2.")
    if snapshot.suffix == ".pkl":
        click.echo(TRUST, err=True)
    try:
        network = Exportable(open_here(snapshot, host).network, noise)
        click.echo(f"{network.kind} generator, MTM in {network.mtm_layers()} layers, noise {network.noise}")
        program, batch = trace(network, batch)
        check = (network, batch, tolerance)
        if torch_export is not None:
            write_checked(torch_export, lambda path: to_pt2(program, path), pt2_runner, *check)
        if onnx is not None:
            write_checked(onnx, lambda path: to_onnx(program, opset, path), onnx_runner, *check)
    except (UserError, ModuleNotFoundError) as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
