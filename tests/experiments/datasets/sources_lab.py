"""Small sources in every format that publishers use, and helpers that check the zips made from them."""

import contextlib
import io
import json
import tarfile
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

Files = dict[str, bytes]


def encoded(pixels: np.ndarray, kind: str = "png", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def image(seed: int, width: int = 40, height: int = 30, kind: str = "png") -> bytes:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (3, 4, 3), dtype=np.uint8))
    return encoded(np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)), kind)


def marked(width: int, height: int) -> np.ndarray:
    """An image whose colours encode pixel positions: red is the column, green the row."""
    row, column = np.mgrid[:height, :width]
    return np.stack([column % 256, row % 256, np.full_like(row, 7)], axis=2).astype(np.uint8)


def folder(path: Path, files: Files) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def packed_zip(path: Path, files: Files, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def tar_bytes(files: Files) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def packed_tar(path: Path, files: Files) -> Path:
    path.write_bytes(tar_bytes(files))
    return path


def lmdb_folder(path: Path, files: Files) -> Path:
    import lmdb

    path.mkdir(parents=True, exist_ok=True)
    with (
        contextlib.closing(lmdb.open(str(path), map_size=1 << 24)) as environment,
        environment.begin(write=True) as txn,
    ):
        for name, data in files.items():
            txn.put(name.encode(), data)
    return path


def video(frames: list[np.ndarray], codec: str = "libx264rgb", faststart: bool = False, **options: str) -> bytes:
    """An mp4. The default codec is lossless."""
    import av

    mux = {"movflags": "faststart"} if faststart else {}
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        with av.open(file.name, "w", options=mux) as container:
            stream = container.add_stream(codec, rate=25, options=options or {"qp": "0"})
            stream.codec_context.thread_count = 1  # for reproducible bytes
            stream.height, stream.width = frames[0].shape[:2]
            stream.pix_fmt = "rgb24" if codec == "libx264rgb" else "yuv420p"
            for pixels in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
        return Path(file.name).read_bytes()


def frames(count: int, seed: int = 0, width: int = 32, height: int = 32) -> list[np.ndarray]:
    return [np.asarray(Image.open(io.BytesIO(image(1000 * seed + i, width, height)))) for i in range(count)]


def members(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        assert all(member.compress_type == zipfile.ZIP_STORED for member in archive.infolist())
        return archive.namelist()


def pixels(path: Path, name: str) -> np.ndarray:
    with zipfile.ZipFile(path) as archive, archive.open(name) as file, Image.open(file) as opened:
        assert opened.mode == "RGB"
        return np.asarray(opened)


def labels(path: Path) -> list | None:
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("dataset.json"))["labels"]
