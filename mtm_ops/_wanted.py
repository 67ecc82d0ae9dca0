"""Which gradients the backward pass that is running will use."""

import torch


def will_run(node) -> bool:
    """Whether autograd's engine is to run this node: torch.autograd.grad(y, inputs) uses the gradients of few."""
    try:
        return torch._C._will_engine_execute_node(node)
    except RuntimeError:  # a leaf that autograd.grad was asked for
        return True
