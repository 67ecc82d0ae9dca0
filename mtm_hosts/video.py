"""Stand-ins for what the two video hosts import besides torch, if it is missing or broken.

These are torchvision, OpenCV and TensorBoard. A stand-in does only what the hosts' training, generation and metrics
need. A library that works is not changed, except for torchvision.io.write_video, which newer versions removed. imageio
encodes the videos.
"""

import importlib
import importlib.util
import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mtm_hosts.compat import provide


def write_video(
    filename: Any, video_array: Any, fps: float, video_codec: str = "libx264", options: Any = None, **_audio: Any
) -> None:
    """torchvision.io.write_video: uint8 [T, H, W, 3] to a file. An odd height or width repeats the last line.

    Args:
        options: the codec's options, such as {"crf": "10"}.
    """
    frames = torch.as_tensor(video_array).to(torch.uint8)
    height, width = frames.shape[1:3]
    rows, columns = (torch.arange(n + n % 2).clamp(max=n - 1) for n in (height, width))  # h264 halves the chroma size
    codec = {"h264": "libx264"}.get(video_codec, video_codec)
    words = [word for key, value in (options or {}).items() for word in (f"-{key}", str(value))]
    with _writer(filename, fps, codec, words) as writer:
        for frame in frames:
            writer.append_data(frame[rows][:, columns].numpy())


def _writer(filename: Any, fps: float, codec: str, words: Sequence[str] = ()) -> Any:
    try:
        import imageio
        import imageio_ffmpeg  # noqa: F401 - imageio's own message does not name it
    except ImportError as error:
        raise ImportError(
            f"write_video: imageio and imageio-ffmpeg must be installed to encode videos; got {error}. Run: pip "
            "install imageio imageio-ffmpeg"
        ) from None
    return imageio.get_writer(str(filename), fps=fps, codec=codec, macro_block_size=1, output_params=list(words))


def make_grid(images: Any, nrow: int = 8, padding: int = 2, pad_value: float = 0.0) -> Tensor:
    """torchvision.utils.make_grid: images [N, C, H, W], or a list of them, as one image with `nrow` in a row."""
    images = torch.stack(list(images)) if isinstance(images, list | tuple) else images
    images = images.unsqueeze(0) if images.ndim == 3 else images
    images = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
    count, channels, height, width = images.shape
    if count == 1:
        return images[0]
    columns = min(nrow, count)
    rows = math.ceil(count / columns)
    height, width = height + padding, width + padding
    grid = images.new_full((channels, height * rows + padding, width * columns + padding), pad_value)
    for i, image in enumerate(images):
        y, x = i // columns * height + padding, i % columns * width + padding
        grid[:, y : y + height - padding, x : x + width - padding] = image
    return grid


def to_pil_image(image: Any) -> Any:
    """torchvision.transforms.functional.to_pil_image: [C, H, W], floats in 0..1 or uint8, or an array [H, W, C], to a
    PIL image."""
    from PIL import Image

    if isinstance(image, Tensor):
        image = image.mul(255) if image.is_floating_point() else image
        image = image.byte().permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)


def to_tensor(image: Any) -> Tensor:
    """torchvision.transforms.functional.to_tensor: a PIL image, or an array [H, W, C], to float [C, H, W]; uint8 is
    scaled to 0..1."""
    array = np.array(image)
    array = array[:, :, None] if array.ndim == 2 else array
    tensor = torch.from_numpy(array).permute(2, 0, 1).contiguous()
    return tensor.float() / 255 if tensor.dtype == torch.uint8 else tensor


def save_image(images: Any, path: Any, nrow: int = 8, padding: int = 2, **_format: Any) -> None:
    """torchvision.utils.save_image: writes the grid of images in 0..1 to an image file."""
    to_pil_image(make_grid(images, nrow, padding).mul(255).add(0.5).clamp(0, 255).to(torch.uint8)).save(path)


def provide_torchvision() -> None:
    """All of it if it cannot be imported (its wheel on PyPI needs a CUDA build of torch), else only write_video."""
    try:
        torchvision: Any = importlib.import_module("torchvision")
        io = importlib.import_module("torchvision.io")
    except (ImportError, RuntimeError, OSError, AttributeError):
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]  # what a failed import left behind
        functional = provide("torchvision.transforms.functional", to_pil_image=to_pil_image, to_tensor=to_tensor)
        members: dict[str, Any] = {
            "transforms": provide("torchvision.transforms", functional=functional, __path__=[]),
            "utils": provide("torchvision.utils", make_grid=make_grid, save_image=save_image),
            "io": provide("torchvision.io", write_video=write_video),
        }
        provide("torchvision", __path__=[], __version__="0", **members)
        return
    if not hasattr(io, "write_video"):
        io.write_video = torchvision.io.write_video = write_video  # type: ignore[attr-defined]


class VideoWriter:
    """cv2.VideoWriter for mp4 files. Frames are uint8 [H, W, 3], channels BGR."""

    def __init__(self, filename: Any, fourcc: int, fps: float, frameSize: tuple[int, int]) -> None:
        self._writer = _writer(filename, fps, "mpeg4", ["-q:v", "2"])

    def write(self, frame: np.ndarray) -> None:
        self._writer.append_data(np.ascontiguousarray(frame[:, :, ::-1]))

    def release(self) -> None:
        self._writer.close()


CUBIC, RGB2BGR = 2, 4  # OpenCV's constants


def resize(image: np.ndarray, dsize: tuple[int, int], interpolation: int = CUBIC) -> np.ndarray:
    """cv2.resize of uint8 [H, W, C] to dsize (width, height), bicubic: torch uses the same kernel as OpenCV, without
    antialiasing."""
    if interpolation != CUBIC:
        raise ValueError(
            f"resize: interpolation must be INTER_CUBIC in the stand-in for OpenCV; got {interpolation}. Run: pip "
            "install opencv-python-headless"
        )
    x = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
    y = torch.nn.functional.interpolate(x, size=dsize[::-1], mode="bicubic", align_corners=False)
    return y[0].round().clamp(0, 255).byte().permute(1, 2, 0).numpy()


def swap_colours(image: np.ndarray, code: int) -> np.ndarray:
    """cv2.cvtColor between RGB and BGR."""
    if code != RGB2BGR:
        raise ValueError(
            f"cvtColor: code must be COLOR_RGB2BGR in the stand-in for OpenCV; got {code}. Run: pip install "
            "opencv-python-headless"
        )
    return np.ascontiguousarray(image[:, :, ::-1])


def provide_opencv() -> None:
    """cv2, if it cannot be imported."""
    try:
        importlib.import_module("cv2")
    except (ImportError, OSError):
        sys.modules.pop("cv2", None)
        numbers = {"INTER_CUBIC": CUBIC, "COLOR_RGB2BGR": RGB2BGR, "COLOR_BGR2RGB": RGB2BGR}
        provide(
            "cv2",
            **numbers,
            VideoWriter=VideoWriter,
            VideoWriter_fourcc=lambda *letters: 0,
            resize=resize,
            cvtColor=swap_colours,
        )


class SummaryWriter:
    """Replaces torch.utils.tensorboard's without TensorBoard: raises an error, after which StyleGAN-V goes on."""

    def __init__(self, *_where: Any, **_options: Any) -> None:
        raise ImportError(
            "TensorBoard is not installed; stats.jsonl has the same numbers. Run: pip install tensorboard"
        )


def provide_tensorboard() -> None:
    """torch.utils.tensorboard, if TensorBoard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        provide("torch.utils.tensorboard", SummaryWriter=SummaryWriter)


def install() -> None:
    provide_torchvision()
    provide_opencv()
    provide_tensorboard()


install()
