"""Decodes an item to square RGB frames: one for an image, all for a video."""

import io
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from experiments.datasets.images import decode_rgb
from experiments.datasets.items import FILE, Item, read_item
from experiments.datasets.listing import VIDEO_SUFFIXES
from experiments.datasets.paths import suffix_of
from experiments.files import UserError

MAX_MPX = 100.0


def center(image: Image.Image, resolution_px: int) -> Image.Image:
    """The central square, with the length of the shorter side, resized with Lanczos. An odd pixel is cut off at the
    right or the bottom, as in StyleGAN's dataset_tool."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    if image.size != (side, side):  # cropped first, so that no pixel outside the square contributes
        image = image.crop((left, top, left + side, top + side))
    return squash(image, resolution_px)


def squash(image: Image.Image, resolution_px: int) -> Image.Image:
    """The whole image resized to a square with Lanczos; the aspect ratio is lost."""
    if image.size != (resolution_px, resolution_px):
        image = image.resize((resolution_px, resolution_px), Image.Resampling.LANCZOS)
    return image


def whole(image: Image.Image, resolution_px: int) -> Image.Image:
    """A square image, resized with Lanczos. Raises ValueError if it is not square."""
    if image.width != image.height:
        raise ValueError(f"{image.width} x {image.height} px, which is not square")
    return squash(image, resolution_px)


CROPS: dict[str, Callable[[Image.Image, int], Image.Image]] = {"center": center, "squash": squash, "whole": whole}


@dataclass(frozen=True)
class Decoder:
    """Decodes items to frames, uint8 [resolution_px, resolution_px, 3]. Can be pickled and used in any process."""

    resolution_px: int
    crop: str

    def __call__(self, item: Item) -> Iterator[np.ndarray]:
        """Yields the frames. Raises ValueError or OSError, with a readable reason, for a broken item; for a video
        perhaps after some frames."""
        frames = _video(item) if suffix_of(item.name) in VIDEO_SUFFIXES else iter([_image(item)])
        for frame in frames:
            yield np.asarray(CROPS[self.crop](frame, self.resolution_px), dtype=np.uint8)


def _image(item: Item) -> Image.Image:
    return decode_rgb(read_item(item), MAX_MPX, upright=False)  # the hosts' tools ignore the orientation


def _video(item: Item) -> Iterator[Image.Image]:
    yield from video_frames(item.file if item.kind == FILE else io.BytesIO(read_item(item)))


def video_frames(file: str | io.BytesIO, upright: bool = False) -> Generator[Image.Image, None, None]:
    """Every frame as stored, with none dropped or repeated for a frame rate; if `upright`, rotated as the file says.

    Uses PyAV, because it decodes in this process, reports corrupt frames, and gives exactly the frames of the file.
    Raises ValueError if the video cannot be decoded, perhaps after some frames, and UserError if PyAV is not installed.
    """
    with _opened(file) as (container, stream):
        yield from _frames(container, stream, upright)


def count_frames(file: str | io.BytesIO) -> int:
    """The number of a video's frames that are shown, from its packets, without decoding. Raises as `video_frames`."""
    with _opened(file) as (container, stream):
        return sum(1 for packet in container.demux(stream) if packet.size and not packet.is_discard)


@contextmanager
def _opened(file: str | io.BytesIO) -> Iterator[tuple[Any, Any]]:
    """A video's container and its first video stream."""
    try:
        import av
    except ImportError as error:
        raise UserError("Reading videos needs PyAV: pip install -r requirements-dev.txt") from error
    try:
        with closing(av.open(file)) as container:
            if not container.streams.video:
                raise ValueError("no video in it")
            stream = container.streams.video[0]
            if stream.codec_context is None:  # decoding would crash the process: PyAV issue 2344
                raise ValueError("not a video that can be read (no codec)")
            yield container, stream
    except av.error.FFmpegError as error:
        raise ValueError(f"not a video that can be read ({error.strerror or error})") from error


def _frames(container: Any, stream: Any, upright: bool) -> Iterator[Image.Image]:
    stream.thread_type, stream.codec_context.thread_count = "NONE", 1  # each core decodes a video of its own
    stream.codec_context.options = {"err_detect": "explode"}  # else the decoder would conceal damage
    count = 0
    for frame in container.decode(stream):
        if frame.is_corrupt:
            raise ValueError(f"frame {count} is corrupt")
        image = frame.to_image()
        yield image.rotate(frame.rotation, expand=True) if upright and frame.rotation else image
        count += 1
    if not count or count < stream.frames:  # the number in the header; 0 if there is none
        raise ValueError(f"ends after {count} of {stream.frames or 'an unknown number of'} frames")
