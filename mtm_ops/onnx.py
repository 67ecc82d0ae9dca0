"""Export to ONNX: the registered op as ONNX's DeformConv. Import it where you export; it needs onnxscript.

    torch.onnx.export(network, (z,), "model.onnx", dynamo=True, custom_translation_table=translation_table())

Modulation and demodulation are plain torch around the op, so a modulated layer becomes Mul, DeformConv, Mul.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from . import _library  # registers the op that is translated

LEAST_OPSET = 19  # the first with DeformConv
_NAME = f"{_library.NAMESPACE}::deform_conv2d"


def translation_table() -> dict[Callable, Callable]:
    """The `custom_translation_table` for `torch.onnx.export` with dynamo=True.

    Any network that calls `modulated_deform_conv2d` (impl "auto" or "native") can be exported with it, without a
    compiler. A dynamic batch, height and width stay dynamic. Offsets have the same layout in ONNX as here.

    Precision: DeformConv has one dtype for all its inputs. x and weight in half types are cast to the offsets'
        float32, and the result is cast back.
    Non-finite offsets: ONNX does not define what they sample. onnxruntime 1.32 samples 0 on the CPU, as this op does.
    Opset: 19 or later (the exporter's default is 20).

    Raises:
        ModuleNotFoundError: if onnxscript is not installed.
    Raised by the exporter, as the cause of its own error:
        ValueError: for an opset before 19.

    Examples:
        >>> class Layer(torch.nn.Module):
        ...     def forward(self, x, weight, offset):
        ...         return modulated_deform_conv2d(x, weight, offset, padding=1)
        >>> inputs = torch.randn(1, 4, 8, 8), torch.randn(6, 4, 3, 3), torch.randn(1, 18, 8, 8)
        >>> table = translation_table()
        >>> program = torch.onnx.export(
        ...     Layer().eval(), inputs, dynamo=True, custom_translation_table=table, verbose=False
        ... )
        >>> [node.op_type for node in program.model.graph]
        ['DeformConv']
    """
    try:
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"translation_table: export to ONNX needs {error.name}, which is not installed. "
            "Run: pip install onnx onnxscript",
            name=error.name,
        ) from error
    return {torch.ops.mtm_ops.deform_conv2d.default: _deform_conv}


def _deform_conv(
    x: Any,
    weight: Any,
    offset: Any,
    mask: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Any:
    """Records DeformConv for one call of the op; all arguments except the geometry are symbolic values."""
    from onnxscript import evaluator, values

    # The opset that the exporter uses: an operator of a later opset would make the file invalid.
    recorder: Any = evaluator.default()
    version = recorder.opset.version
    if version < LEAST_OPSET:
        raise ValueError(
            f"torch.onnx.export: opset_version must be at least {LEAST_OPSET}, the first with DeformConv; got "
            f"{version}."
        )
    opset = values.Opset("", version)
    kernel = [_static("weight", weight, 2), _static("weight", weight, 3)]
    taps = kernel[0] * kernel[1]
    cast = x.dtype != offset.dtype
    y = opset.DeformConv(
        opset.CastLike(x, offset) if cast else x,
        opset.CastLike(weight, offset) if cast else weight,
        offset,
        None,  # no bias
        mask,
        kernel_shape=kernel,
        strides=list(stride),
        pads=[*padding, *padding],  # before, then after; each (y, x)
        dilations=list(dilation),
        group=_static("x", x, 1) // _static("weight", weight, 1),
        offset_group=_static("offset", offset, 1) // (2 * taps),
    )
    return opset.CastLike(y, x) if cast else y


def _static(name: str, value: Any, axis: int) -> int:
    """A size that DeformConv needs as an attribute, so it must be known."""
    size = value.shape[axis]
    if not isinstance(size, int):
        raise ValueError(
            f"torch.onnx.export: axis {axis} of {name} must be static for {_NAME}; got {size}. "
            "Leave it out of dynamic_shapes."
        )
    return size
