"""BlazePose's landmark network (Bazarevsky et al. 2020, arXiv 2006.10204), the "full" model that MediaPipe publishes:
whether an image shows a person, and where the joints are.

MediaPipe first crops the person with a detector and tracks it over a video. Here the network sees the whole image,
which suits data with one person in the middle. A stand-in is a TorchScript module with the same input and outputs.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.files import UserError
from experiments.metrics.extractors import Extractor, bicubic

POSE = "pose"
LANDMARKS = 33
ROWS = 39  # of the network's output: 33 landmarks, then six points that only MediaPipe's cropping needs
FIELDS = 5  # x, y, z in px; visibility and presence before the sigmoid
TFLITE_MAGIC = b"TFL3"  # from byte 4 on
# The landmarks that make up a pose, by their number among the 33.
JOINTS = {
    "nose": 0,
    "left shoulder": 11,
    "right shoulder": 12,
    "left elbow": 13,
    "right elbow": 14,
    "left wrist": 15,
    "right wrist": 16,
    "left hip": 23,
    "right hip": 24,
    "left knee": 25,
    "right knee": 26,
    "left ankle": 27,
    "right ankle": 28,
}


class BlazePose(Extractor):
    """Tap `pose`, 67 numbers: the probability that there is a person, then x and y of the 33 landmarks, in image sides
    from the upper left corner. Runs on the CPU, one image at a time, in one thread."""

    taps = {POSE: 1 + 2 * LANDMARKS}
    size_px = 256
    resize_filter = "antialiased bicubic (torch), clipped, not rounded"
    backbone = "BlazePose full (MediaPipe 0.5.1675469404), of the whole image"

    def build(self, path: Path) -> None:
        with path.open("rb") as file:
            self._interpreter = _litert(path) if file.read(8)[4:] == TFLITE_MAGIC else None
        if self._interpreter is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # from torch.jit, the format of stand-ins
                self.network = torch.jit.load(str(path), map_location="cpu")

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def resize(self, images: Tensor) -> Tensor:
        return bicubic(images.cpu(), self.size_px).div_(255).clamp_(0, 1).permute(0, 2, 3, 1).contiguous()

    def run(self, resized: Tensor, taps: Iterable[str]) -> dict[str, Tensor]:
        rows = [self._one(image) for image in resized.split(1)]
        return {POSE: torch.cat(rows) if rows else torch.zeros(0, self.taps[POSE])}

    def _one(self, image: Tensor) -> Tensor:
        """Features [1, 67] of an image [1, 256, 256, 3] in [0, 1]."""
        if self._interpreter is None:
            landmarks, presence = self.network(image)
        else:
            landmarks, presence = (torch.from_numpy(array) for array in _invoke(self._interpreter, image.numpy()))
        places = landmarks.view(ROWS, FIELDS)[:LANDMARKS, :2] / self.size_px
        return torch.cat([presence.view(1, 1), places.reshape(1, -1)], dim=1)


def _litert(path: Path) -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ModuleNotFoundError as error:
        raise UserError(
            f"{path.name}: the package ai-edge-litert must be installed to read it; got {error}. Run make setup."
        ) from error
    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    return interpreter


def _invoke(interpreter: Any, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks [1, 195] and presence [1, 1]. The outputs in the file have no names, so their shapes identify them."""
    by_shape = {tuple(one["shape"]): one["index"] for one in interpreter.get_output_details()}
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
    interpreter.invoke()
    return interpreter.get_tensor(by_shape[1, ROWS * FIELDS]), interpreter.get_tensor(by_shape[1, 1])


EXTRACTOR = BlazePose
