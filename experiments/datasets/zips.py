"""The formats of a data set.

Images are in the format of StyleGAN's dataset_tool: an uncompressed zip of square RGB PNGs whose side is a power of
two, named 00000/img00000000.png and so on, with dataset.json. Every host and experiments.mini read it. Clips are in
StyleGAN-V's format: each clip's frames are in a folder of its own, clips/00000/000000.png and so on, and each folder
has an entry in the zip.
"""

import hashlib
import io
import json
import struct
import zipfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from experiments.datasets.images import Source, decode_rgb, open_source, printable
from experiments.files import UserError

CLIPS = "clips/"  # the folder in a zip of clips that holds everything; the video hosts accept no file beside it
LISTED = 10
MAX_MPX = 100.0


@dataclass(frozen=True)
class DatasetInfo:
    """The description of a data set. `nimg` is the number of images, for clips that of all frames. `content_sha256`
    covers the decoded pixels in order, the beginnings of clips, and the labels."""

    nimg: int
    resolution_px: int
    content_sha256: str
    skipped: int = 0
    clips: int = 0
    notes: dict[str, Any] = field(
        default_factory=dict, compare=False
    )  # further facts in the manifest about how it was made


@dataclass(frozen=True)
class Encoded:
    """An image encoded for a zip: its PNG, and the digest of its pixels. `facts` (JSON) are labels from a recipe that
    renders; they are not stored with the image."""

    png: bytes
    digest: bytes
    facts: Any = None


def encode(pixels: np.ndarray) -> Encoded:
    """Encodes uint8 [H, W, 3]. The same pixels give the same bytes (with the same version of Pillow)."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="png", compress_level=0)  # as in the hosts' own tool: fast to read
    return Encoded(buffer.getvalue(), pixels_digest(pixels))


def pixels_digest(pixels: np.ndarray) -> bytes:
    """sha256 over shape and bytes of one image, uint8 [H, W, 3], independent of the file's encoding."""
    return hashlib.sha256(struct.pack("<3I", *pixels.shape) + pixels.tobytes()).digest()


class ContentHash:
    """sha256 over the digests of the images, in order. The digests may be computed in any process."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256(b"mtm-dataset-2")

    def add(self, pixels: np.ndarray) -> None:
        """Adds one image, uint8 [H, W, 3]."""
        self.add_digest(pixels_digest(pixels))

    def add_digest(self, digest: bytes) -> None:
        """Adds the image with this digest."""
        self._sha256.update(digest)

    def begin_clip(self) -> None:
        """Marks the next image as the first of a clip."""
        self._sha256.update(b"clip")

    def hexdigest(self, labels: list[list] | None) -> str:
        """Adds the labels and returns the hash as 64 hex digits."""
        if labels:
            self._sha256.update(json.dumps([label for _, label in labels]).encode())
        return self._sha256.hexdigest()


def write_zip(file: Path, images: Iterable[tuple[np.ndarray, object]], resolution_px: int) -> DatasetInfo:
    """Writes images, uint8 [resolution_px, resolution_px, 3], each with its label, one after the other. If the label of
    any image is None, no labels are written. The same images give the same bytes (with the same version of Pillow)."""
    return write_encoded(file, ((_checked(pixels, resolution_px), label) for pixels, label in images), resolution_px)


def write_encoded(file: Path, images: Iterable[tuple[Encoded, object]], resolution_px: int) -> DatasetInfo:
    """`write_zip` for images that are already encoded."""
    content, labels, nimg = ContentHash(), [], 0
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for image, label in images:
            name = f"{nimg // 1000:05d}/img{nimg:08d}.png"
            add_member(archive, name, image.png)
            content.add_digest(image.digest)
            nimg += 1
            if label is not None:
                labels.append([name, label])
        kept = labels if len(labels) == nimg else None  # the hosts need a label for every image, or none at all
        add_member(archive, "dataset.json", json.dumps({"labels": kept}))
    return DatasetInfo(nimg, resolution_px, content.hexdigest(kept))


def write_clips(file: Path, clips: Iterable[Iterable[np.ndarray]], resolution_px: int) -> DatasetInfo:
    """Writes clips of frames, uint8 [resolution_px, resolution_px, 3], one after the other, in the video hosts'
    format."""
    encoded = ((_checked(pixels, resolution_px) for pixels in frames) for frames in clips)
    return write_encoded_clips(file, encoded, resolution_px)


def write_encoded_clips(file: Path, clips: Iterable[Iterable[Encoded]], resolution_px: int) -> DatasetInfo:
    """`write_clips` for frames that are already encoded."""
    content, nimg, number = ContentHash(), 0, 0
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        add_member(archive, CLIPS, "")
        for number, frames in enumerate(clips, 1):
            folder = f"{CLIPS}{number - 1:05d}/"
            add_member(archive, folder, "")
            content.begin_clip()
            for index, frame in enumerate(frames):
                add_member(archive, f"{folder}{index:06d}.png", frame.png)
                content.add_digest(frame.digest)
                nimg += 1
    return DatasetInfo(nimg, resolution_px, content.hexdigest(None), clips=number)


def _checked(pixels: np.ndarray, resolution_px: int) -> Encoded:
    assert pixels.shape == (resolution_px, resolution_px, 3), pixels.shape
    return encode(pixels)


def add_member(archive: zipfile.ZipFile, name: str, data: bytes | str) -> None:
    """Adds a file to an archive. Its date is always 1980, so that equal content gives equal bytes."""
    info = zipfile.ZipInfo(name)
    info.external_attr = (0o40755 << 16 | 0x10) if name.endswith("/") else 0o644 << 16
    archive.writestr(info, data)


def verify(file: Path, info: DatasetInfo) -> None:
    """Raises UserError unless the zip has the number of frames in `info`, all stored uncompressed, and a thousand of
    them, evenly spaced, decode to the right size. (`describe` reads all of them.)"""
    with zipfile.ZipFile(file) as archive:
        frames = [member for member in archive.infolist() if member.filename.endswith(".png")]
        wrong = [m.filename for m in frames if m.compress_type != zipfile.ZIP_STORED or m.file_size != m.compress_size]
        for member in frames[:: max(1, len(frames) // 1000)]:
            with archive.open(member) as opened, Image.open(opened) as image:
                image.load()
                if (image.mode, image.size) != ("RGB", (info.resolution_px, info.resolution_px)):
                    wrong.append(member.filename)
    if wrong or len(frames) != info.nimg:
        raise UserError(
            f"{file.name}: was not written correctly: {len(frames)} of {info.nimg} frames, {len(wrong)} of them "
            f"wrong ({', '.join(wrong[:3])}). Check the disk, and run the same command again."
        )


def describe(path: Path, progress: bool = False) -> DatasetInfo:
    """Reads all of a zip in this format and returns its description, with the hash computed from the images. Raises one
    UserError that lists all broken images, and UserError if images are not square or have different sizes."""
    source = open_source(path)
    content, broken, sizes = ContentHash(), [], Counter[tuple[int, int]]()
    clips: set[str] = set()
    for name in tqdm(source.names, desc=f"checking {printable(path.name)}", unit="img", disable=not progress):
        try:
            pixels = np.asarray(decode_rgb(source.read(name), MAX_MPX))
        except (ValueError, OSError, zipfile.BadZipFile) as error:
            broken.append((name, str(error)))
            continue
        sizes[pixels.shape[1], pixels.shape[0]] += 1
        folder = name.rpartition("/")[0]
        if name.startswith(CLIPS) and folder not in clips:
            clips.add(folder)
            content.begin_clip()
        content.add(pixels)
    if broken:
        raise broken_error(source, broken)
    side = next(iter(sizes))[0]
    if not one_size(sizes, side):
        raise UserError(
            f"describe: a data set must have one size, square, a power of two; got {sizes_text(sizes)} in "
            f"{str(path)!r}. Make it anew: python -m tools.data images --help."
        )
    labels = [[name, source.labels[name]] for name in source.names if name in source.labels]
    return DatasetInfo(len(source.names), side, content.hexdigest(labels), clips=len(clips))


def one_size(sizes: Counter[tuple[int, int]], side_px: int) -> bool:
    """Whether all images are squares of `side_px`, a power of two of at least 4."""
    return set(sizes) == {(side_px, side_px)} and side_px >= 4 and side_px.bit_count() == 1


def sizes_text(sizes: Counter[tuple[int, int]]) -> str:
    """The commonest sizes, with the number of images of each."""
    return ", ".join(f"{w} x {h} ({n})" for (w, h), n in sizes.most_common(5)) + (", ..." if len(sizes) > 5 else "")


def broken_error(source: Source, broken: list[tuple[str, str]]) -> UserError:
    """The error that lists the broken images, given as (name, reason)."""
    lines = [f"  {printable(source.path / name)}: {printable(reason)}" for name, reason in broken[:LISTED]]
    if len(broken) > LISTED:
        lines.append(f"  ... and {len(broken) - LISTED} more")
    return UserError(
        f"Every image must be readable; {len(broken)} of {len(source.names)} are broken:\n"
        + "\n".join(lines)
        + "\nFix or remove them, or continue without them: --skip-broken (SKIP_BROKEN=1 with make)."
    )
