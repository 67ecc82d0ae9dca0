"""What torch's FlopCounterMode counts for the registered ops: their matrix products, as for torch's own operators.

The functions receive shapes instead of tensors.
"""

import math


def _product(weight, offset) -> int:
    """FLOPs of one product of all columns with the weight: two per multiply-add."""
    B, _, Ho, Wo = offset
    return 2 * B * Ho * Wo * math.prod(weight)


def forward(x, weight, offset, *_, **__) -> int:
    return _product(weight, offset)


def backward(grad_y, x, weight, offset, mask, stride, padding, dilation, needs, **_) -> int:
    return (1 + needs[1]) * _product(weight, offset)


def double_backward(
    gg_x, gg_weight, gg_offset, gg_mask, grad_y, x, weight, offset, mask, stride, padding, dilation, needs, **_
) -> int:
    through_weight = 0 if gg_weight is None else 1 + needs[0]
    return (1 + needs[0] + needs[2] + through_weight) * _product(weight, offset)
