"""Where images come from: a folder or a zip, and how one picture becomes a square RGB array."""

import io
import json
import os
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps

from experiments.files import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".ppm", ".pgm")
# Named, so that no picture can reach a decoder that runs another program (Pillow's EPS calls Ghostscript).
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "PPM")
HOST_NAME = re.compile(r"\d{5}/img\d{8}\.png")
MAX_FILE_BYTES = 1 << 29


@dataclass(frozen=True)
class Source:
    """Pictures in a fixed order. `read` gives a picture's file as bytes; `labels` maps its name to a class."""

    path: Path
    names: list[str]
    read: Callable[[str], bytes]
    host_format: bool
    labels: dict[str, object] = field(default_factory=dict)
    others: Counter[str] = field(default_factory=Counter)  # suffixes of the files that are no pictures


def open_source(path: Path) -> Source:
    """Opens a folder of pictures (any nesting) or a zip of pictures; either may be in the hosts' format.

    Raises UserError, naming the path and the next step, for a missing path, a file that is no zip, a damaged zip,
    a zip with names that lead out of it, and a source without a picture.
    """
    if not path.exists():
        raise UserError(
            f"open_source: source must be a folder of pictures or a zip; expected a path that exists, "
            f"got {str(path)!r}. Check the spelling, and that the disk is mounted."
        )
    source = _open_folder(path) if path.is_dir() else _open_zip(path)
    if not source.names:
        found = ", ".join(f"{n} x {suffix or 'no suffix'}" for suffix, n in source.others.most_common(5)) or "nothing"
        raise UserError(
            f"open_source: source must hold pictures; expected {' '.join(SUFFIXES)}, "
            f"got {found} in {str(path)!r}. Point it at the folder or zip that holds the pictures."
        )
    return source


def _open_folder(path: Path) -> Source:
    files = sorted(
        Path(folder, name).relative_to(path).as_posix() for folder, _, names in os.walk(path) for name in names
    )
    return _make_source(path, files, lambda name: _read_limited(path / name))


def _open_zip(path: Path) -> Source:
    if not zipfile.is_zipfile(path):
        raise UserError(
            f"open_source: source must be a folder of pictures or a zip; expected a zip archive, got {str(path)!r}, "
            "which is none (or is cut short). Unpack it yourself and give the folder, or copy the zip again."
        )
    archive = zipfile.ZipFile(path)
    files = sorted(info.filename for info in archive.infolist() if not info.is_dir())
    for name in files:
        if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name) or re.match(r"[A-Za-z]:", name):
            raise UserError(
                f"open_source: names in a zip must stay inside it; expected a relative path, got {name!r} in "
                f"{str(path)!r}. Do not trust this archive; make a new zip from the pictures."
            )

    def read(name: str) -> bytes:
        info = archive.getinfo(name)
        if info.file_size > MAX_FILE_BYTES:
            raise ValueError(f"unpacks to {info.file_size / 1e6:.0f} MB, more than {MAX_FILE_BYTES / 1e6:.0f} MB")
        return archive.read(info)

    return _make_source(path, files, read)


def _make_source(path: Path, files: list[str], read: Callable[[str], bytes]) -> Source:
    visible = [name for name in files if not any(part.startswith((".", "__MACOSX")) for part in name.split("/"))]
    names = [name for name in visible if _suffix(name) in SUFFIXES]
    others = Counter(_suffix(name) for name in visible if _suffix(name) not in SUFFIXES)
    has_json = "dataset.json" in visible
    host_format = bool(names) and (has_json or all(HOST_NAME.fullmatch(name) for name in names))
    labels = _read_labels(path, read("dataset.json")) if has_json else {}
    return Source(path, names, read, host_format, labels, others)


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _read_labels(path: Path, text: bytes) -> dict[str, object]:
    try:
        return dict(json.loads(text).get("labels") or [])
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f'open_source: dataset.json must be the hosts\'; expected {{"labels": null}} or {{"labels": '
            f"[[name, class], ...]}}, got something else in {str(path)!r} ({error}). Correct it, or remove it."
        ) from error


def _read_limited(file: Path) -> bytes:
    size = file.stat().st_size
    if size > MAX_FILE_BYTES:
        raise ValueError(f"has {size / 1e6:.0f} MB, more than {MAX_FILE_BYTES / 1e6:.0f} MB")
    return file.read_bytes()


def picture_size_px(data: bytes) -> tuple[int, int]:
    """(width, height) in pixels from the file's header, without decoding."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
        return picture.size


def decode_rgb(data: bytes, max_mpx: float) -> Image.Image:
    """Decodes one picture to an RGB image: upright (EXIF), first frame, transparency over white, 16 bits to 8.

    Raises ValueError, in words, for whatever cannot be decoded and for more than `max_mpx` megapixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
            if picture.width * picture.height > max_mpx * 1e6:
                raise ValueError(f"{picture.width} x {picture.height} px is more than --max-mpx {max_mpx:g}")
            picture.load()
            return _to_rgb(ImageOps.exif_transpose(picture))
    except Image.UnidentifiedImageError as error:
        raise ValueError("not a picture that can be read") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"a decompression bomb ({error})") from error
    except (OSError, SyntaxError, EOFError, MemoryError) as error:
        raise ValueError(str(error) or type(error).__name__) from error


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):
        return Image.fromarray((np.asarray(picture).clip(0, 65535) // 257).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return picture.convert("RGB")


def square(picture: Image.Image, resolution_px: int) -> np.ndarray:
    """Centre-crops to a square and resizes with Lanczos: uint8 [resolution_px, resolution_px, 3]."""
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    # Cropped first: resize(box=...) would let pixels outside the box weigh in, and the hosts' own tool crops.
    picture = picture.crop((left, top, left + side, top + side))
    if side != resolution_px:
        picture = picture.resize((resolution_px, resolution_px), Image.Resampling.LANCZOS)
    return np.asarray(picture, dtype=np.uint8)
