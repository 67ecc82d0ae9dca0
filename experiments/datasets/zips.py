"""Turns pictures (a folder, a zip, or a dataset in the hosts' format) into a zip in the hosts' format.

The format is that of StyleGAN's dataset_tool: an uncompressed zip of square PNGs whose side is a power of two, named
00000/img00000000.png and so on, with dataset.json. Every host reads it, and so does experiments.mini.

    python -m experiments.datasets.zips --source PICTURES --out cats32.zip --resolution 32
"""

import hashlib
import io
import json
import struct
import sys
import zipfile
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
from PIL import Image
from tqdm import tqdm

from experiments.datasets.images import Source, decode_rgb, open_source, picture_size_px, square
from experiments.files import UserError, atomic_output

INFO_NAME = "mtm_dataset.json"
LISTED = 10


@dataclass(frozen=True)
class DatasetInfo:
    """What a dataset is. `content_sha256` covers the decoded pixels in their order, and the labels."""

    nimg: int
    resolution_px: int
    content_sha256: str
    skipped: int = 0


class ContentHash:
    """sha256 over shape and RGB bytes of each picture in order: the same for any encoding of the same pixels."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256(b"mtm-dataset-1")

    def add(self, pixels: np.ndarray) -> None:
        """Adds one picture, uint8 [H, W, 3]."""
        self._sha256.update(struct.pack("<3I", *pixels.shape) + pixels.tobytes())

    def hexdigest(self, labels: list[list] | None) -> str:
        """Adds the labels and returns the hash as 64 hex digits."""
        if labels:
            self._sha256.update(json.dumps([label for _, label in labels]).encode())
        return self._sha256.hexdigest()


def convert(
    source: Path,
    out: Path,
    resolution_px: int,
    *,
    resize: bool = False,
    skip_broken: bool = False,
    min_nimg: int = 64,
    max_mpx: float = 100.0,
    threads: int = 2,
    progress: bool = False,
) -> DatasetInfo:
    """Writes the pictures of `source` to `out` as a host-format zip of RGB pictures of `resolution_px` a side.

    Holds a few pictures in memory at a time. `out` appears only when it is complete. A source that is in the hosts'
    format already must have this resolution, unless `resize`. Raises UserError with every broken picture at once.
    """
    _check_resolution(resolution_px)
    opened = open_source(source)
    if opened.host_format and not resize:
        _check_host_format(opened, resolution_px)
    if len(opened.names) < min_nimg:
        _raise_too_few(opened, len(opened.names), min_nimg)
    bar = tqdm(opened.names, desc=f"{source.name} -> {out.name}", unit="img", disable=not progress, file=sys.stderr)
    with atomic_output(out) as temporary:
        info, broken = _write_zip(opened, bar, temporary, resolution_px, max_mpx, threads, skip_broken)
        if broken and not skip_broken:
            _raise_broken(opened, broken)
        if info.nimg < min_nimg:
            _raise_too_few(opened, info.nimg, min_nimg)
    return info


def _write_zip(
    source: Source,
    names: Iterable[str],
    file: Path,
    resolution_px: int,
    max_mpx: float,
    threads: int,
    skip_broken: bool,
) -> tuple[DatasetInfo, list[tuple[str, str]]]:
    content, broken, labels, nimg = ContentHash(), [], [], 0
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, result in _decode_all(source, names, resolution_px, max_mpx, threads):
            if isinstance(result, str):
                broken.append((name, result))
            elif skip_broken or not broken:  # once one is broken the rest is only checked, so that all are named
                member = f"{nimg // 1000:05d}/img{nimg:08d}.png"
                archive.writestr(_member(member), _encode_png(result))
                content.add(result)
                nimg += 1
                if name in source.labels:
                    labels.append([member, source.labels[name]])
        kept = labels if len(labels) == nimg else None  # the hosts want a label for every picture, or none at all
        info = DatasetInfo(nimg, resolution_px, content.hexdigest(kept), len(broken))
        archive.writestr(_member("dataset.json"), json.dumps({"labels": kept}))
        archive.writestr(_member(INFO_NAME), json.dumps({"schema": 1, **asdict(info)}))
    return info, broken


def _decode_all(
    source: Source, names: Iterable[str], resolution_px: int, max_mpx: float, threads: int
) -> Iterator[tuple[str, np.ndarray | str]]:
    """Yields (name, uint8 [H, W, 3] or what is wrong with it) in order, decoding a few pictures ahead."""

    def decode(name: str) -> np.ndarray | str:
        try:
            return square(decode_rgb(source.read(name), max_mpx), resolution_px)
        except (ValueError, OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
            return str(error)

    ahead: deque[tuple[str, Future]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for name in names:
            ahead.append((name, pool.submit(decode, name)))
            if len(ahead) > 4 * threads:
                done, future = ahead.popleft()
                yield done, future.result()
        for done, future in ahead:
            yield done, future.result()


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)  # dated 1980 whenever it is made, so that equal pictures give equal zips
    info.external_attr = 0o644 << 16
    return info


def _encode_png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="png", compress_level=0)  # as the hosts' own tool: fast to read
    return buffer.getvalue()


def describe(path: Path) -> DatasetInfo:
    """Reads a host-format zip and returns what it holds; the hash is computed anew from every picture."""
    source = open_source(path)
    content, broken, sizes = ContentHash(), [], Counter[tuple[int, int]]()
    for name in source.names:
        try:
            pixels = np.asarray(decode_rgb(source.read(name), max_mpx=100.0))
        except (ValueError, OSError, zipfile.BadZipFile) as error:
            broken.append((name, str(error)))
            continue
        sizes[pixels.shape[1], pixels.shape[0]] += 1
        content.add(pixels)
    if broken:
        _raise_broken(source, broken)
    side = next(iter(sizes))[0]
    _check_sizes(source, sizes, side)
    labels = [[name, source.labels[name]] for name in source.names if name in source.labels]
    return DatasetInfo(len(source.names), side, content.hexdigest(labels if len(labels) == len(source.names) else None))


def _check_resolution(resolution_px: int) -> None:
    if resolution_px < 4 or resolution_px & (resolution_px - 1):
        lower = 1 << max(2, resolution_px.bit_length() - 1)
        raise UserError(
            f"convert: resolution_px must be a power of two of at least 4; expected {lower} or {2 * lower}, "
            f"got {resolution_px}. Choose one of these."
        )


def _check_host_format(source: Source, resolution_px: int) -> None:
    sizes: Counter[tuple[int, int]] = Counter()
    for name in source.names:
        try:
            sizes[picture_size_px(source.read(name))] += 1
        except (ValueError, OSError, SyntaxError, zipfile.BadZipFile, Image.DecompressionBombError):
            continue  # named with all other broken pictures when it is decoded
    if sizes:
        _check_sizes(source, sizes, resolution_px)


def _check_sizes(source: Source, sizes: Counter[tuple[int, int]], resolution_px: int) -> None:
    if set(sizes) == {(resolution_px, resolution_px)} and not resolution_px & (resolution_px - 1):
        return
    found = ", ".join(f"{w} x {h} ({n})" for (w, h), n in sizes.most_common(5)) + (", ..." if len(sizes) > 5 else "")
    side = next(iter(sizes))[0]
    fits = len(sizes) == 1 and set(sizes) == {(side, side)} and side >= 4 and not side & (side - 1)
    other = f" (or use it at --resolution {side})" if fits else ""
    wanted = resolution_px if not resolution_px & (resolution_px - 1) else 1 << resolution_px.bit_length() - 1
    raise UserError(
        f"convert: a dataset in the hosts' format must have one size, square, a power of two; expected {wanted} x "
        f"{wanted} px, got {found} in {str(source.path)!r}. To resample it: python -m "
        f"experiments.datasets.zips --resize --source {source.path} --out NEW.zip --resolution {wanted}{other}."
    )


def _raise_too_few(source: Source, nimg: int, min_nimg: int) -> None:
    raise UserError(
        f"convert: source must hold enough pictures to train on; expected at least {min_nimg}, got {nimg} in "
        f"{str(source.path)!r}. Add pictures, or lower --min-nimg if you know what you want."
    )


def _raise_broken(source: Source, broken: list[tuple[str, str]]) -> None:
    lines = [f"  {source.path}/{name}: {reason}" for name, reason in broken[:LISTED]]
    if len(broken) > LISTED:
        lines.append(f"  ... and {len(broken) - LISTED} more")
    raise UserError(
        f"convert: every picture must be readable; expected {len(source.names)}, got {len(broken)} broken:\n"
        + "\n".join(lines)
        + "\nMend or remove them, or go on without them: --skip-broken (SKIP_BROKEN=1 with make)."
    )


@click.command()
@click.option("--source", type=click.Path(path_type=Path), required=True, help="Folder or zip of pictures.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The zip to write.")
@click.option("--resolution", "resolution_px", type=int, required=True, help="Side in pixels, a power of two.")
@click.option("--resize", is_flag=True, help="Resample a source that is in the hosts' format at another size.")
@click.option("--skip-broken", is_flag=True, help="Go on without the pictures that cannot be read.")
@click.option("--min-nimg", type=int, default=64, show_default=True, help="Refuse fewer pictures than this.")
@click.option("--max-mpx", type=float, default=100.0, show_default=True, help="Refuse larger pictures, in megapixels.")
def main(source: Path, out: Path, resolution_px: int, **options) -> None:
    """Turn a folder or zip of pictures into a square, RGB zip that every host reads."""
    try:
        info = convert(source, out, resolution_px, progress=sys.stderr.isatty(), **options)
    except UserError as error:
        raise click.ClickException(str(error)) from None
    skipped = f", {info.skipped} broken ones skipped" if info.skipped else ""
    click.echo(
        f"{out}: {info.nimg} pictures of {info.resolution_px} x {info.resolution_px} px{skipped}, "
        f"content {info.content_sha256[:12]}"
    )


if __name__ == "__main__":
    main()
