"""Animations of generated videos: correct frames, small files, and nothing for an image that is no film."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report_lab import draw_film

from experiments import motion
from experiments.motion import animations, film_frames


def opened(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/webp;base64,"))))


def bar_at(frame: Image.Image, video: int) -> float:
    """The bar's position in one video, as a share of its width. The frame shows all videos side by side."""
    side = frame.height
    channel = np.asarray(frame.convert("RGB"))[:, :, 1 + video].astype(int)
    left = round(video * (side + side / 48))  # videos are 96 px wide, with gaps of 2 px
    return float(np.argmax(channel[:, left : left + side].mean(axis=0) < 100)) / side


def test_an_animation_has_the_frames_in_order_with_all_videos_beside_each_other(tmp_path: Path):
    draw_film(tmp_path, videos=2)
    (animation,) = animations([tmp_path / "films.png"]).values()
    image = opened(animation.uri)
    assert (image.n_frames, image.size) == (8, (animation.width, animation.height))
    assert image.width == pytest.approx(2 * image.height, abs=4)
    for video in (0, 1):
        places = []
        for i in range(8):
            image.seek(i)
            places.append(bar_at(image, video))
        assert places == pytest.approx([3 * i / 32 for i in range(8)], abs=0.03)


def test_an_animation_takes_a_few_kilobytes_also_of_noise(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(motion, "BUDGET_BYTES", 30_000)
    draw_film(tmp_path, videos=1)
    plain = animations([tmp_path / "films.png"])
    assert len(next(iter(plain.values())).uri) < 12_000
    with Image.open(tmp_path / "films.png") as film:
        width, height = film.size
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "films.png")
    (noisy,) = animations([tmp_path / "films.png"]).values()
    assert noisy.height < 128
    assert len(noisy.uri) < 30_000 * 4 / 3 + 40


def test_what_is_no_film_has_no_animation(tmp_path: Path):
    odd, broken = tmp_path / "odd.png", tmp_path / "broken.png"
    Image.new("RGB", (101, 50)).save(odd)
    broken.write_bytes(b"no image")
    assert animations([odd, broken]) == {}
    with pytest.raises(ValueError, match="must have 8 square frames a row; got \\(101, 50\\) px"):
        film_frames(Image.new("RGB", (101, 50)))
