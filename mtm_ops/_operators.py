"""Registers with torch an operator that has one kernel for every device."""

from collections.abc import Callable
from typing import Any

import torch


def define(
    lib: torch.library.Library,
    schema: str,
    kernel: Callable[..., Any],
    fake: Callable,
    backward: Callable,
    setup: Callable,
) -> None:
    """Defines in `lib` the operator that `schema` ("name(arguments) -> results") describes, with its derivative."""
    name = schema.partition("(")[0]
    lib.define(schema, tags=torch.Tag.pt2_compliant_tag)
    for key in ("CPU", "CUDA"):
        lib.impl(name, kernel, key)
    torch.library.register_fake(f"{lib.ns}::{name}", fake, lib=lib)
    torch.library.register_autograd(f"{lib.ns}::{name}", backward, setup_context=setup, lib=lib)
