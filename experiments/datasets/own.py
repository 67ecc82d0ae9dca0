"""The user's own images: a folder or zip of images of any sizes, which are cropped to squares and resized; or a data
set in the hosts' format, which is checked and used unchanged."""

import os
import shlex
import sys
import zipfile
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
from PIL import Image
from tqdm import tqdm

from experiments.datasets.images import Source, decode_square, image_size_px, open_source, printable
from experiments.datasets.recipe import Recipe
from experiments.datasets.zips import MAX_MPX, DatasetInfo, broken_error, one_size, sizes_text, write_zip
from experiments.files import UserError

Decoded = tuple[str, np.ndarray | str]  # a name, and the image or the reason why it cannot be read


def convert(
    source: Path,
    file: Path,
    resolution: int,
    *,
    resize: bool = False,
    skip_broken: bool = False,
    min_nimg: int = 64,
    max_mpx: float = MAX_MPX,
    progress: bool | None = None,
) -> DatasetInfo:
    """Writes the images of `source` to `file` as squares of `resolution` px, in the order of their names.

    Holds a few images in memory at a time. A source in the hosts' format must already have this resolution, unless
    `resize`. If images are broken, raises one UserError that lists all of them.
    """
    _check_resolution(resolution)
    bar = {"unit": "img", "file": sys.stderr, "disable": not (sys.stderr.isatty() if progress is None else progress)}
    opened = open_source(source)
    if opened.host_format and not resize:
        names = tqdm(opened.names, desc=f"checking {printable(source.name)}", **bar)
        _check_host_format(opened, names, resolution)
    if len(opened.names) < min_nimg:
        raise _too_few(opened, len(opened.names), min_nimg)
    broken: list[tuple[str, str]] = []
    names = tqdm(opened.names, desc=f"{printable(source.name)}, {resolution} px", **bar)
    decoded = _decode_all(opened, names, resolution, max_mpx)
    info = write_zip(file, _sound(opened, decoded, broken, skip_broken), resolution)
    if broken and not skip_broken:
        raise broken_error(opened, broken)
    if info.nimg < min_nimg:
        raise _too_few(opened, info.nimg, min_nimg)
    if opened.others:
        kinds = ", ".join(f"{n} x {printable(suffix) or 'no suffix'}" for suffix, n in opened.others.most_common(5))
        click.echo(f"Ignored {opened.others.total()} files that are not images: {kinds}.", err=True)
    return replace(info, skipped=len(broken))


def _sound(
    source: Source, decoded: Iterable[Decoded], broken: list[tuple[str, str]], skip_broken: bool
) -> Iterator[tuple[np.ndarray, object]]:
    """Yields the sound images with their labels, and adds the others to `broken`."""
    for name, result in decoded:
        if isinstance(result, str):
            broken.append((name, result))
        elif (
            skip_broken or not broken
        ):  # after the first broken image the rest is only checked, to list all broken ones
            yield result, source.labels.get(name)


def _decode_all(source: Source, names: Iterable[str], resolution_px: int, max_mpx: float) -> Iterator[Decoded]:
    """Decodes the images in the order of `names`, a few ahead on each core."""

    def decode(name: str) -> np.ndarray | str:
        try:
            return decode_square(source.read(name), resolution_px, max_mpx)
        except (ValueError, OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
            return str(error)

    threads = len(os.sched_getaffinity(0))
    ahead: deque[tuple[str, Future]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for name in names:
            ahead.append((name, pool.submit(decode, name)))
            if len(ahead) > 4 * threads:
                done, future = ahead.popleft()
                yield done, future.result()
        for done, future in ahead:
            yield done, future.result()


def _check_resolution(resolution_px: int) -> None:
    if resolution_px < 4 or resolution_px.bit_count() != 1:
        lower = 1 << max(2, resolution_px.bit_length() - 1)
        raise UserError(
            f"images: resolution must be a power of two of at least 4; expected {lower} or {2 * lower}, "
            f"got {resolution_px}. Choose one of these."
        )


def _check_host_format(source: Source, names: Iterable[str], resolution_px: int) -> None:
    sizes: Counter[tuple[int, int]] = Counter()
    for name in names:
        try:
            sizes[image_size_px(source.read(name))] += 1
        except (ValueError, OSError, SyntaxError, zipfile.BadZipFile, RuntimeError, Image.DecompressionBombError):
            continue  # reported with all other broken images when it is decoded
    if not sizes or one_size(sizes, resolution_px):
        return
    side = next(iter(sizes))[0]
    other = f" (or use it at --resolution {side})" if one_size(sizes, side) else ""
    raise UserError(
        f"images: a data set in the hosts' format must have one size, square, a power of two; expected {resolution_px} "
        f"x {resolution_px} px, got {sizes_text(sizes)} in {str(source.path)!r}. To resample it: python -m tools.data "
        f"images {shlex.quote(str(source.path))} NEW.zip --resize --resolution {resolution_px}{other}."
    )


def _too_few(source: Source, nimg: int, min_nimg: int) -> UserError:
    return UserError(
        f"images: source must hold enough images to train on; expected at least {min_nimg}, got {nimg} in "
        f"{str(source.path)!r}. Add images, or lower --min-nimg."
    )


RECIPE = Recipe(
    name="images",
    title="Your own images.",
    make=convert,
    obtain="SOURCE is a folder of images (any nesting) or a zip, of any sizes; or a data set in the hosts' format.",
    licence="that of your images.",
    options=(
        click.Option(["--resolution"], type=int, default=32, show_default=True, help="Side in px, a power of two."),
        click.Option(["--resize"], is_flag=True, help="Resample a source in the hosts' format."),
        click.Option(["--skip-broken"], is_flag=True, help="Continue without images that cannot be read."),
        click.Option(["--min-nimg"], type=int, default=64, show_default=True, help="Refuse fewer images than this."),
        click.Option(["--max-mpx"], type=float, default=MAX_MPX, show_default=True, help="Refuse larger images, Mpx."),
    ),
)
