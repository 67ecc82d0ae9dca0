"""Modulated deformable convolution for GANs: fast, and differentiable twice. Importing it builds nothing."""

from ._library import no_weight_gradients
from .functional import modulated_deform_conv2d
from .module import ModulatedTransformation, offsets_disabled, offsets_scaled

__all__ = [
    "ModulatedTransformation",
    "modulated_deform_conv2d",
    "no_weight_gradients",
    "offsets_disabled",
    "offsets_scaled",
]
__version__ = "0.1.0"
