"""Sources of images, a folder or a zip, and the decoding of an image to an RGB array. Messages are printable, whatever
characters a file's name has."""

import io
import json
import lzma
import re
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps

from experiments.datasets.paths import MAX_FILE_BYTES, is_hidden, leads_out, printable, read_regular, suffix_of, walk
from experiments.files import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".ppm", ".pgm")
# A list of formats, so that no image can reach a decoder that runs another program (Pillow's EPS calls Ghostscript).
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "PPM")
OUR_FILES = ("dataset.json", "mtm_manifest.json", "ATTRIBUTION.txt")
HOST_NAME = re.compile(r"\d{5}/img\d{8}\.png")
LARGE_MPX = 16.0  # larger images are decoded one at a time, and JPEGs at a reduced scale if that is enough
_BAND_PX = 1 << 22
# Pillow warns about metadata that is not used here. The filter is set once for the process, because images are decoded
# in threads, and warnings.catch_warnings() in one thread undoes the filters of another.
warnings.filterwarnings("ignore", module=r"PIL\.")
# A single thread for all large images also keeps only one arena of freed memory, not one per thread of a pool.
_large = ThreadPoolExecutor(1, thread_name_prefix="large-images")


@dataclass(frozen=True)
class Source:
    """Images in a fixed order. `read` returns an image's file as bytes; `labels` maps names of images to labels."""

    path: Path
    names: list[str]
    read: Callable[[str], bytes]
    host_format: bool
    labels: dict[str, object] = field(default_factory=dict)
    others: Counter[str] = field(default_factory=Counter)  # suffixes of the files that are not images


def open_source(path: Path) -> Source:
    """Opens a folder of images (with any nesting; symbolic links are followed) or a zip of images. Either may be in the
    hosts' format.

    Raises UserError, naming the path and the next step, for a missing path, a folder that cannot be listed, a file that
    is not a zip, a damaged zip, a zip with names that lead out of it or occur twice, and a source without an image.
    """
    if not path.exists():
        raise UserError(
            f"open_source: source must be a folder of images or a zip; expected a path that exists, "
            f"got {str(path)!r}. Check the spelling, and that the disk is mounted."
        )
    source = _open_folder(path) if path.is_dir() else _open_zip(path)
    if not source.names:
        found = ", ".join(f"{n} x {suffix or 'no suffix'}" for suffix, n in source.others.most_common(5)) or "nothing"
        inner = " Archives inside it are not opened: unpack them first." if source.others[".zip"] else ""
        raise UserError(
            f"open_source: source must hold images; expected {' '.join(SUFFIXES)}, "
            f"got {printable(found)} in {str(path)!r}. Point it at the folder or zip that holds the images.{inner}"
        )
    return source


def _open_folder(path: Path) -> Source:
    return _make_source(path, sorted(walk(path)), lambda name: read_regular(path / name))


def _open_zip(path: Path) -> Source:
    if not zipfile.is_zipfile(path):
        raise UserError(
            f"open_source: source must be a folder of images or a zip; expected a zip archive, got {str(path)!r}, "
            "which is not one (or is truncated). Unpack it yourself and give the folder, or copy the zip again."
        )
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
        raise UserError(f"Failed to open the zip {str(path)!r}: {error}. Copy or make it again.") from error
    files = sorted(info.filename for info in archive.infolist() if not info.is_dir())
    for name in files:
        if leads_out(name):
            raise UserError(
                f"open_source: names in a zip must stay inside it; expected a relative path, got {name!r} in "
                f"{str(path)!r}. Do not trust this archive; make a new zip from the images."
            )
    if twice := [name for name, count in Counter(files).items() if count > 1]:
        raise UserError(
            f"open_source: a name must occur once in a zip; got {twice[0]!r} more than once in {str(path)!r} "
            f"({len(twice)} such names). Unpack it, see which of them you want, and give the folder."
        )

    def read(name: str) -> bytes:
        info = archive.getinfo(name)
        if info.file_size > MAX_FILE_BYTES:
            raise ValueError(f"unpacks to {info.file_size / 1e6:.0f} MB, more than {MAX_FILE_BYTES / 1e6:.0f} MB")
        try:
            return archive.read(info)
        except (
            zlib.error,
            lzma.LZMAError,
            RuntimeError,
        ) as error:  # RuntimeError: encrypted, or an unknown compression
            raise ValueError(str(error)) from error

    return _make_source(path, files, read)


def _make_source(path: Path, files: list[str], read: Callable[[str], bytes]) -> Source:
    visible = [name for name in files if not is_hidden(name)]
    names = [name for name in visible if suffix_of(name) in SUFFIXES]
    rest = [PurePosixPath(name) for name in visible if suffix_of(name) not in SUFFIXES]
    others = Counter(path.suffix.lower() for path in rest if path.name not in OUR_FILES)
    has_json = "dataset.json" in visible
    host_format = bool(names) and (has_json or all(HOST_NAME.fullmatch(name) for name in names))
    labels = _read_labels(path, read) if has_json else {}
    if labels and (bare := [name for name in names if name not in labels]):
        raise UserError(
            f"open_source: dataset.json must label every image or none; got {len(bare)} of {len(names)} images without "
            f"a label in {str(path)!r}, such as {bare[0]!r}. Add their labels, or remove dataset.json."
        )
    return Source(path, names, read, host_format, labels, others)


def _read_labels(path: Path, read: Callable[[str], bytes]) -> dict[str, object]:
    try:
        return dict(json.loads(read("dataset.json")).get("labels") or [])
    except (ValueError, TypeError, AttributeError, OSError, zipfile.BadZipFile) as error:
        raise UserError(
            f'open_source: dataset.json must be the hosts\'; expected {{"labels": null}} or {{"labels": '
            f"[[name, class], ...]}}, got something else in {str(path)!r} ({error}). Correct it, or remove it."
        ) from error


def image_size_px(data: bytes) -> tuple[int, int]:
    """(width, height) in px from the file's header, without decoding."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        return image.size


def decode_rgb(data: bytes, max_mpx: float, upright: bool = True) -> Image.Image:
    """Decodes one image to 8-bit RGB: its first frame, with transparency over white, and rotated as EXIF says if
    `upright`.

    Grey values of 16 bits are divided by 257. Float values must be from 0 to 1, and 32-bit integers from 0 to 255: such
    files do not state their white point, and no other guess would be right for every image of a set.

    Raises ValueError, with a readable reason, if the image cannot be decoded or has more than `max_mpx` megapixels.
    """
    with _errors_in_words():
        return _to_rgb(_load(data, max_mpx, upright=upright))


def decode_square(data: bytes, resolution_px: int, max_mpx: float) -> np.ndarray:
    """decode_rgb, centre-cropped to a square and resized with Lanczos: uint8 [resolution_px, resolution_px, 3].

    Uses at most twice the memory of the decoded image (4 bytes per pixel). Images above LARGE_MPX are decoded one at a
    time, and JPEGs of that size at 1/2, 1/4 or 1/8 scale if that leaves at least four times resolution_px. Thread-safe.
    """
    with _errors_in_words():
        width, height = image_size_px(data)
        if width * height > LARGE_MPX * 1e6:
            return _large.submit(_decode_square, data, resolution_px, max_mpx).result()
        return _decode_square(data, resolution_px, max_mpx)


def _decode_square(data: bytes, resolution_px: int, max_mpx: float) -> np.ndarray:
    image = _load(data, max_mpx, 4 * resolution_px)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    # Crops first, as the hosts' own tool does: with resize(box=...), pixels outside the box would contribute.
    if image.size != (side, side):
        image = image.crop((left, top, left + side, top + side))
    image = _to_rgb(image)
    if side != resolution_px:
        image = image.resize((resolution_px, resolution_px), Image.Resampling.LANCZOS)
    return np.asarray(image, dtype=np.uint8)


@contextmanager
def _errors_in_words() -> Iterator[None]:
    try:
        yield
    except Image.UnidentifiedImageError as error:
        raise ValueError("not an image that can be read") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"a decompression bomb ({error})") from error
    except (OSError, SyntaxError, EOFError, MemoryError, KeyError, IndexError, TypeError, OverflowError) as error:
        raise ValueError(str(error) or type(error).__name__) from error


def _load(data: bytes, max_mpx: float, enough_px: int = 0, upright: bool = True) -> Image.Image:
    """The image in its own mode."""
    if not data:
        raise ValueError("the file is empty")
    image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
    if image.width * image.height > max_mpx * 1e6:
        raise ValueError(f"{image.width} x {image.height} px is more than --max-mpx {max_mpx:g}")
    if enough_px and image.width * image.height > LARGE_MPX * 1e6:
        image.draft(None, (enough_px, enough_px))  # does nothing for formats without reduced scales
    values = _values_mode(image)
    image.load()
    if upright:
        ImageOps.exif_transpose(image, in_place=True)
    image.info["values"] = values
    return image


def _values_mode(image: Image.Image) -> str:
    """The kind of grey values wider than 8 bits: "16" bits, "8" bits in a wider type, "float", or "" for others."""
    if image.mode == "F":
        return "float"
    if image.mode.startswith("I"):
        # Pillow scales PGM to 16 bits; a TIFF of mode I has 32.
        return "16" if image.mode != "I" or image.format != "TIFF" else "8"
    return ""


def _to_rgb(image: Image.Image) -> Image.Image:
    """RGB over white. Converts some rows at a time, to avoid a second copy of a large image in another mode."""
    values = image.info.get("values", "")
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    whole = Image.new("RGB", image.size)
    rows = max(1, _BAND_PX // image.width)
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        whole.paste(_band_to_rgb(band, values), (0, top))
    return whole


def _band_to_rgb(band: Image.Image, values: str) -> Image.Image:
    if values:
        return Image.fromarray(_grey_8_bits(np.asarray(band), values)).convert("RGB")
    if band.has_transparency_data:
        rgba = band.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return band.convert("RGB")


def _grey_8_bits(grey: np.ndarray, values: str) -> np.ndarray:
    if values == "16":
        return (grey.clip(0, 65535) // 257).astype(np.uint8)
    low, high, white = grey.min(), grey.max(), 1 if values == "float" else 255
    if not (low >= 0 and high <= white):  # also where there are NaN
        kind = "float" if values == "float" else "32-bit integer"
        raise ValueError(
            f"{kind} values must lie in 0 to {white}, got {low:g} to {high:g}, so its white point is not known. Save "
            "it with 8 or 16 bits"
        )
    return (grey * (255 / white) + 0.5).astype(np.uint8)
