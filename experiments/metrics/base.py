"""What a metric is, and the images that it is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Images:
    """Real or generated images. `batches()` starts anew at every call and gives uint8 tensors [B, 3, H, W], the same
    images each time; `facts` says which images they are, for the fingerprint."""

    nimg: int
    batches: Callable[[], Iterator[Tensor]]
    facts: dict[str, Any]


@dataclass(frozen=True)
class Metric:
    """`compute(real, generated)` gives value and fingerprint; None where the host's calc_metrics.py computes it, under
    the same name. Both may raise UserError."""

    name: str
    title: str
    compute: Callable[[Images, Images], tuple[float, dict[str, Any]]] | None
    lower_is_better: bool = True
    unit: str = ""
