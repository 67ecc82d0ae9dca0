"""Redirects the hosts' calls of torch.device(...): to the CPU without a GPU, or to torchrun's local rank.

The hosts write torch.device('cuda', rank) in about twenty places. Replacing the name once needs fewer inserted lines.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch

_Answer = Callable[[torch.device], torch.device]
_real = torch.device
_answers: list[_Answer] = []


class _StandIn(type):
    """Calls return real devices, and isinstance accepts them, so that only the call differs."""

    def __call__(cls, *arguments: Any, **options: Any) -> torch.device:
        chosen = _real(*arguments, **options)
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if caller == "torch" or caller.startswith("torch."):  # torch's own calls are not redirected
            return chosen
        for answer in _answers:
            chosen = answer(chosen)
        return chosen

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, _real)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, _real)

    # torch.export and torch.compile: torch.fx checks whether a type is torch.device before it writes a device into a
    # graph's code.
    def __eq__(cls, other: object) -> bool:
        return other is cls or other is _real

    def __hash__(cls) -> int:
        return hash(_real)


def redirect(answer: _Answer) -> None:
    """From now on, every torch.device(...) call outside torch returns `answer` of the device."""
    if not _answers:
        # Named as torch's own class: pickled devices look up their constructor there.
        module: Any = torch
        module.device = _StandIn("device", (), {"__module__": "torch", "__doc__": _real.__doc__})
    _answers.append(answer)
