"""The formats of a data set. Of images, that of StyleGAN's dataset_tool: an uncompressed zip of square RGB PNGs whose
side is a power of two, named 00000/img00000000.png and so on, with dataset.json. Every host reads it, and so does
experiments.mini. Of clips, StyleGAN-V's: the frames of a clip in a folder of its own, clips/00000/000000.png and so on,
with an entry for each folder."""

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

CLIPS = "clips/"  # the folder of a zip of clips, which holds everything: the video hosts take no file beside it
LISTED = 10
MAX_MPX = 100.0


@dataclass(frozen=True)
class DatasetInfo:
    """What a data set is; `nimg` counts the frames of all its clips. `content_sha256` covers the decoded pixels in
    their order, where each clip begins, and the labels."""

    nimg: int
    resolution_px: int
    content_sha256: str
    skipped: int = 0
    clips: int = 0
    notes: dict[str, Any] = field(default_factory=dict, compare=False)  # what else the manifest says about its making


@dataclass(frozen=True)
class Encoded:
    """An image as it lies in a zip: its PNG, and the digest of its pixels; `facts` (JSON) is what a recipe that renders
    knows of it, which no zip holds by itself."""

    png: bytes
    digest: bytes
    facts: Any = None


def encode(pixels: np.ndarray) -> Encoded:
    """Encodes uint8 [H, W, 3]. The same pixels give the same bytes (with the same Pillow)."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="png", compress_level=0)  # as the hosts' own tool: fast to read
    return Encoded(buffer.getvalue(), pixels_digest(pixels))


def pixels_digest(pixels: np.ndarray) -> bytes:
    """sha256 over shape and bytes of one image, uint8 [H, W, 3]: the same for any encoding of the same pixels."""
    return hashlib.sha256(struct.pack("<3I", *pixels.shape) + pixels.tobytes()).digest()


class ContentHash:
    """sha256 over the digests of the images in order, so that any process may compute an image's digest."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256(b"mtm-dataset-2")

    def add(self, pixels: np.ndarray) -> None:
        """Adds one image, uint8 [H, W, 3]."""
        self.add_digest(pixels_digest(pixels))

    def add_digest(self, digest: bytes) -> None:
        """Adds the image that has this digest."""
        self._sha256.update(digest)

    def begin_clip(self) -> None:
        """Says that the next image is the first of a clip."""
        self._sha256.update(b"clip")

    def hexdigest(self, labels: list[list] | None) -> str:
        """Adds the labels and returns the hash as 64 hex digits."""
        if labels:
            self._sha256.update(json.dumps([label for _, label in labels]).encode())
        return self._sha256.hexdigest()


def write_zip(file: Path, images: Iterable[tuple[np.ndarray, object]], resolution_px: int) -> DatasetInfo:
    """Writes uint8 [resolution_px, resolution_px, 3] images, each with its label, as they come; a label of None in one
    image stands for no labels at all. The same images give the same bytes (with the same Pillow)."""
    return write_encoded(file, ((_checked(pixels, resolution_px), label) for pixels, label in images), resolution_px)


def write_encoded(file: Path, images: Iterable[tuple[Encoded, object]], resolution_px: int) -> DatasetInfo:
    """write_zip of images that are encoded already."""
    content, labels, nimg = ContentHash(), [], 0
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for image, label in images:
            name = f"{nimg // 1000:05d}/img{nimg:08d}.png"
            add_member(archive, name, image.png)
            content.add_digest(image.digest)
            nimg += 1
            if label is not None:
                labels.append([name, label])
        kept = labels if len(labels) == nimg else None  # the hosts want a label for every image, or none at all
        add_member(archive, "dataset.json", json.dumps({"labels": kept}))
    return DatasetInfo(nimg, resolution_px, content.hexdigest(kept))


def write_clips(file: Path, clips: Iterable[Iterable[np.ndarray]], resolution_px: int) -> DatasetInfo:
    """Writes clips of frames, uint8 [resolution_px, resolution_px, 3], as they come, in the video hosts' format."""
    encoded = ((_checked(pixels, resolution_px) for pixels in frames) for frames in clips)
    return write_encoded_clips(file, encoded, resolution_px)


def write_encoded_clips(file: Path, clips: Iterable[Iterable[Encoded]], resolution_px: int) -> DatasetInfo:
    """write_clips of frames that are encoded already."""
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
    """Adds a file to an archive, dated 1980 whenever that is, so that equal content gives equal bytes."""
    info = zipfile.ZipInfo(name)
    info.external_attr = (0o40755 << 16 | 0x10) if name.endswith("/") else 0o644 << 16
    archive.writestr(info, data)


def verify(file: Path, info: DatasetInfo) -> None:
    """Raises UserError unless the zip has as many frames as `info` says, each stored as it is, and a thousand of them,
    evenly chosen, decode to the right size. (`describe` reads them all.)"""
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
    """Reads a zip of this format and returns what it holds; the hash is computed anew from every image. Raises
    UserError with every broken image at once, and where the images are not square or of different sizes."""
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
    """The commonest sizes with how many images have them."""
    return ", ".join(f"{w} x {h} ({n})" for (w, h), n in sizes.most_common(5)) + (", ..." if len(sizes) > 5 else "")


def broken_error(source: Source, broken: list[tuple[str, str]]) -> UserError:
    """The error that names the broken images, (name, reason) each."""
    lines = [f"  {printable(source.path / name)}: {printable(reason)}" for name, reason in broken[:LISTED]]
    if len(broken) > LISTED:
        lines.append(f"  ... and {len(broken) - LISTED} more")
    return UserError(
        f"Every image must be readable; {len(broken)} of {len(source.names)} are broken:\n"
        + "\n".join(lines)
        + "\nFix or remove them, or continue without them: --skip-broken (SKIP_BROKEN=1 with make)."
    )
