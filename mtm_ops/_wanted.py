"""Which gradients the current backward pass will use."""

import torch


def will_run(node) -> bool:
    """Whether autograd's engine will run this node: torch.autograd.grad(y, inputs) needs only some gradients."""
    try:
        return torch._C._will_engine_execute_node(node)
    except RuntimeError:  # a leaf for which autograd.grad was called
        return True
