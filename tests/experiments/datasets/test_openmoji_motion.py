"""Clips in the video hosts' format and views with EG3D's camera labels: repeatable, described, correct in geometry."""

import io
import itertools
import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from experiments.datasets import openmoji_clips, openmoji_views
from experiments.datasets.images import open_source
from experiments.datasets.openmoji import GLYPH_PX
from experiments.datasets.recipe import read_manifest
from experiments.datasets.zips import describe
from experiments.files import UserError
from tools.data import main


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "clips.zip"
    openmoji_clips.RECIPE.run(None, path, resolution=16, count=3, frames=5)
    return path


def test_clips_lie_in_folders_of_their_own_and_every_other_file_sorts_behind_them(clips: Path) -> None:
    with zipfile.ZipFile(clips) as archive:
        names = archive.namelist()
        frame = Image.open(io.BytesIO(archive.read("clips/00002/000004.png")))
    assert names == sorted(names)  # the hosts read folders and frames in this order
    assert names[:3] == ["clips/", "clips/00000/", "clips/00000/000000.png"]
    assert names[-2:] == ["clips/ATTRIBUTION.txt", "clips/mtm_manifest.json"]
    assert (frame.mode, frame.size) == ("RGB", (16, 16))


def test_what_is_described_is_what_was_made_and_the_manifest_says_it(clips: Path) -> None:
    info, manifest = describe(clips), read_manifest(clips)
    assert (info.nimg, info.clips, info.resolution_px) == (15, 3, 16)
    assert (manifest["content_sha256"], manifest["clips"]) == (info.content_sha256, 3)
    assert "OpenMoji" in manifest["credit"]
    assert not open_source(clips).others


def test_the_content_hash_tells_where_clips_begin(tmp_path: Path) -> None:
    frames = [np.full((8, 8, 3), i, np.uint8) for i in range(4)]
    hashes = set()
    for name, cut in (("a", 1), ("b", 2)):
        info = openmoji_clips.write_clips(tmp_path / name, [frames[:cut], frames[cut:]], 8)
        assert describe((tmp_path / name).rename(tmp_path / f"{name}.zip")).content_sha256 == info.content_sha256
        hashes.add(info.content_sha256)
    assert len(hashes) == 2


def test_frames_of_a_clip_move_and_clips_differ() -> None:
    first, second = (list(clip) for clip in openmoji_clips.render_clips("people", 32, 2, 6, 0))
    steps = [np.abs(a.astype(int) - b).mean() for a, b in itertools.pairwise(first)]
    apart = np.abs(first[0].astype(int) - second[0]).mean()
    assert min(steps) > 0
    assert np.mean(steps) < apart


@pytest.mark.parametrize("recipe", ["openmoji-clips", "openmoji-views"])
def test_the_same_arguments_give_the_same_bytes_and_another_seed_others(recipe: str, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        done = CliRunner().invoke(
            main, [recipe, str(tmp_path / name), "--count=2", "--resolution=16", f"--seed={seed}"]
        )
        assert done.exit_code == 0, done.output
        assert "of 16 x 16 px" in done.output
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b != c


def test_a_camera_is_a_rotation_at_its_distance_that_looks_at_the_origin() -> None:
    for yaw, pitch in ((0.0, 0.0), (0.5, -0.2), (-0.6, 0.3)):
        matrix = openmoji_views.camera(yaw, pitch)
        rotation, origin = matrix[:3, :3], matrix[:3, 3]
        np.testing.assert_allclose(rotation.T @ rotation, np.eye(3), atol=1e-12)
        assert np.linalg.det(rotation) == pytest.approx(1)
        assert np.linalg.norm(origin) == pytest.approx(openmoji_views.RADIUS)
        np.testing.assert_allclose(rotation[:, 2] * openmoji_views.RADIUS, -origin, atol=1e-12)
        assert rotation[1, 1] < 0  # y points down in the image but up in the world
    np.testing.assert_allclose(openmoji_views.camera(0, 0)[:3, 0], [1, 0, 0], atol=1e-12)


def test_the_homography_maps_the_projection_of_a_point_of_the_card_to_that_point() -> None:
    cam2world, card, side = openmoji_views.camera(0.4, -0.25), 0.45, 64
    homography = openmoji_views.card_homography(cam2world, card, side)
    for x, y in ((0.0, 0.0), (0.2, 0.1), (-0.15, 0.2)):
        seen = np.linalg.inv(cam2world) @ [x, y, 0.0, 1.0]
        pixel = openmoji_views.INTRINSICS @ (seen[:3] / seen[2])
        u, v, w = homography @ [pixel[0] * side, pixel[1] * side, 1.0]
        expected = (0.5 + x / card) * GLYPH_PX, (0.5 - y / card) * GLYPH_PX
        assert (u / w, v / w) == pytest.approx(expected, abs=1e-9)


def test_views_carry_25_numbers_each(tmp_path: Path) -> None:
    path = tmp_path / "views.zip"
    openmoji_views.RECIPE.run(None, path, resolution=16, count=4)
    labels = list(open_source(path).labels.values())
    assert [len(label) for label in labels] == [25] * 4
    assert len({tuple(label) for label in labels}) == 4
    assert np.allclose([label[16:] for label in labels], openmoji_views.INTRINSICS.ravel())


@pytest.mark.parametrize(
    ("recipe", "options", "message"),
    [
        (openmoji_clips.RECIPE, {"frames": 0}, "openmoji-clips: frames must be at least 1; got 0."),
        (openmoji_views.RECIPE, {"resolution": 48}, "openmoji-views: resolution must be a power of two from 4 up"),
    ],
)
def test_bad_options_are_named(recipe, options, message, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        recipe.run(None, tmp_path / "x.zip", **options)
    assert not list(tmp_path.iterdir())
