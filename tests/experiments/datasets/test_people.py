"""The people data sets: reproducible bytes, labels that lie on the body, and geometry that varies only if it should."""

import io
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from people_lab import WALK, bvh, stand_in
from PIL import Image

from experiments.datasets import RECIPES, people
from experiments.datasets.people_labels import read_labels
from experiments.datasets.recipe import read_manifest
from experiments.datasets.zips import describe
from experiments.files import UserError
from experiments.people.body import JOINTS, Phenotype, Retarget
from experiments.people.bvh import read_bvh
from experiments.people.scene import Look, Studio, View, random_look

GREEN = (0.0, 1.0, 0.0)
FRONT = View(yaw_rad=0.0, stature=0.9, shift=(0.0, 0.0), mirrored=False)
LEFT_SHOULDER, RIGHT_SHOULDER = JOINTS.index("LeftArm"), JOINTS.index("RightArm")


def make(path: Path, name: str = "people", **options) -> dict[str, np.ndarray]:
    defaults = {"resolution": 32, "count": 6, "processes": 1}
    RECIPES[name].run(None, path, **(defaults | options))
    return read_labels(path)


def pixels(path: Path) -> np.ndarray:
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(".png")]
        return np.stack([np.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in names])


@pytest.fixture
def studio(tmp_path) -> tuple[Studio, Retarget]:
    (tmp_path / "walk.bvh").write_text(bvh(WALK))
    shapes = stand_in()
    return Studio(shapes), Retarget(shapes, read_bvh(tmp_path / "walk.bvh"))


def green_look(seed: int) -> Look:
    """Random clothes in front of a green screen. Anti-aliased edges are not exactly this green."""
    look = random_look(np.random.default_rng(seed), 0.5, 0.5)
    return replace(look, wall=(GREEN, GREEN), ground=(GREEN, GREEN))


def outline(image: np.ndarray) -> np.ndarray:
    return (image != np.array([0, 255, 0])).any(axis=-1)


def test_the_same_seed_gives_the_same_bytes_with_any_number_of_processes(boxes, tmp_path):
    for name, options in (("a", {}), ("b", {"processes": 2}), ("c", {"seed": 1})):
        make(tmp_path / name, count=140, resolution=16, motion=boxes, **options)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b != c


def test_an_image_does_not_depend_on_how_many_there_are_nor_its_geometry_on_resolution(boxes, tmp_path):
    few = make(tmp_path / "few", count=3, motion=boxes)
    many = make(tmp_path / "many", count=5, motion=boxes)
    large = make(tmp_path / "large", count=3, motion=boxes, resolution=64)
    assert (pixels(tmp_path / "few") == pixels(tmp_path / "many")[:3]).all()
    np.testing.assert_array_equal(few["joints_px"], many["joints_px"][:3])
    np.testing.assert_allclose(2 * few["joints_px"], large["joints_px"], atol=1e-3)
    coarse = pixels(tmp_path / "large").reshape(3, 32, 2, 32, 2, 3).mean(axis=(2, 4))
    assert np.abs(coarse - pixels(tmp_path / "few")).mean() < 4


def test_the_zip_is_in_the_hosts_format_with_labels_manifest_and_credit(boxes, tmp_path):
    labels = make(tmp_path / "p.zip", motion=boxes)
    info, manifest = describe(tmp_path / "p.zip"), read_manifest(tmp_path / "p.zip")
    assert (info.nimg, info.resolution_px) == (manifest["nimg"], manifest["resolution_px"]) == (6, 32)
    assert info.content_sha256 == manifest["content_sha256"]
    assert list(manifest["notes"]["motions"]) == ["walk.bvh"] == labels["motions"].tolist()
    assert labels["joints"].tolist() == list(JOINTS)
    counts = {name: len(array) for name, array in labels.items() if name not in ("joints", "motions")}
    assert {n for name, n in counts.items() if not name.endswith("_names")} == {6}
    assert labels["colours"].shape[1] == len(labels["colour_names"])
    assert labels["clothes"].shape[1] == len(labels["clothes_names"])
    assert labels["phenotype"].shape[1] == len(labels["phenotype_names"])
    with zipfile.ZipFile(tmp_path / "p.zip") as archive:
        assert "mocap.cs.cmu.edu" in archive.read("ATTRIBUTION.txt").decode()


def test_clips_hold_one_person_at_the_frames_of_the_rate(boxes, tmp_path):
    labels = make(tmp_path / "c.zip", "people-clips", motion=boxes, count=3, frames=5, fps=30.0)
    assert describe(tmp_path / "c.zip").clips == 3
    assert labels["person"].tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert (np.diff(labels["frame"].reshape(3, 5)) == 4).all()  # the motion has 120 frames per second
    assert (np.ptp(labels["yaw_rad"].reshape(3, 5), axis=1) == 0).all()
    assert np.abs(np.diff(labels["joints_px"].reshape(3, 5, len(JOINTS), 2), axis=1)).max() > 0.3
    other = make(tmp_path / "d.zip", "people-clips", motion=boxes, count=3, frames=5, fps=30.0, processes=2)
    assert (tmp_path / "c.zip").read_bytes() == (tmp_path / "d.zip").read_bytes()
    assert other["motions"].tolist() == ["walk.bvh"]


def test_joints_lie_on_the_body_and_inside_the_image(studio):
    artist, motion = studio
    on_body = []
    for seed in range(12):
        look, view = green_look(seed), replace(FRONT, yaw_rad=0.5 * seed, mirrored=bool(seed % 2))
        image, labels = artist.draw(artist.body(Phenotype(), look.outfit), motion, np.array([seed]), view, look, 96)[0]
        assert (labels.joints_px > 0).all() & (labels.joints_px < 96).all()
        column, row = np.floor(labels.joints_px).astype(int).T
        on_body.append(outline(image)[row, column])
        assert labels.visible.sum() > len(JOINTS) / 3
        assert not labels.visible[~on_body[-1]].any()
    assert np.mean(on_body) > 0.97


def test_left_is_on_the_viewers_right_from_the_front_and_a_turn_brings_the_front_to_the_side(studio):
    artist, motion = studio
    look = green_look(0)
    body = artist.body(Phenotype(), look.outfit)
    still = np.array([0])
    front, back, side = (
        artist.draw(body, motion, still, replace(FRONT, yaw_rad=yaw), look, 64)[0][1] for yaw in (0, np.pi, np.pi / 2)
    )
    assert front.joints_px[LEFT_SHOULDER, 0] > front.joints_px[RIGHT_SHOULDER, 0] + 5
    assert back.joints_px[LEFT_SHOULDER, 0] < back.joints_px[RIGHT_SHOULDER, 0] - 5
    ankle, toe = JOINTS.index("LeftFoot"), JOINTS.index("LeftToeBase")
    assert front.joints_m[toe, 2] > front.joints_m[ankle, 2] + 0.05  # toes point towards the camera
    assert side.joints_m[toe, 0] > side.joints_m[ankle, 0] + 0.05
    assert (front.joints_px[JOINTS.index("Head"), 1] < front.joints_px[JOINTS.index("Hips"), 1]).all()


def test_a_mirrored_image_is_the_flipped_one_with_left_and_right_exchanged(studio):
    artist, motion = studio
    look = green_look(3)
    body = artist.body(Phenotype(), look.outfit)
    plain, flipped = (
        artist.draw(body, motion, np.array([30]), replace(FRONT, mirrored=m), look, 64)[0] for m in (False, True)
    )
    assert (plain[0] == flipped[0][:, ::-1]).all()
    np.testing.assert_allclose(flipped[1].joints_px[LEFT_SHOULDER, 0], 64 - plain[1].joints_px[RIGHT_SHOULDER, 0])
    assert flipped[1].joints_px[LEFT_SHOULDER, 0] > flipped[1].joints_px[RIGHT_SHOULDER, 0]


def test_what_is_nearer_hides_what_is_behind_it(studio):
    artist, motion = studio
    look = green_look(1)
    body = artist.body(Phenotype(), look.outfit)
    sideways = artist.draw(body, motion, np.array([0]), replace(FRONT, yaw_rad=np.pi / 2), look, 96)[0][1]
    left, right = JOINTS.index("LeftLeg"), JOINTS.index("RightLeg")  # the knees
    assert sideways.joints_m[right, 2] > sideways.joints_m[left, 2] + 0.1
    assert (bool(sideways.visible[left]), bool(sideways.visible[right])) == (False, True)


def test_every_garment_is_seen_in_its_colour(studio):
    artist, motion = studio
    look = random_look(np.random.default_rng(0), 0.5, 0.5)
    outfit = replace(
        look.outfit,
        **{"skin": (1, 0, 0), "shirt": (0, 0, 1), "trousers": (1, 1, 0), "shoes": (0, 1, 1), "hair": (1, 0, 1)},
        **{"sleeve": 0.3, "hem_y": -0.7, "waist_y": 0.1, "stripe_m": 0.0, "skirt": False, "hair_style": "short"},
    )
    look = replace(look, outfit=outfit, wall=(GREEN, GREEN), ground=(GREEN, GREEN))
    image = artist.draw(artist.body(Phenotype(), outfit), motion, np.array([0]), FRONT, look, 96)[0][0]
    bits = (image > 90).astype(int) @ [4, 2, 1]
    for colour, at_least in ((4, 100), (1, 300), (6, 200), (3, 10), (5, 10)):  # red, blue, yellow, cyan, magenta
        assert (bits == colour).sum() > at_least, colour


def test_an_outline_does_not_depend_on_clothes_where_thickness_and_hair_are_the_same(studio):
    artist, motion = studio
    worn = green_look(0).outfit
    outlines = []
    for seed in range(4):
        look = green_look(seed)
        look = replace(look, outfit=replace(look.outfit, skirt=False, hair_style="short"))
        body = artist.body(Phenotype(), worn)
        outlines.append(outline(artist.draw(body, motion, np.array([9]), FRONT, look, 64)[0][0]))
    assert all((one == outlines[0]).all() for one in outlines)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("people", {"resolution": 48}, "people: resolution must be a power of two from 16 up; got 48"),
        ("people", {"count": 0}, "people: count must be at least 1; got 0"),
        ("people-clips", {"fps": 0.5}, "people-clips: fps must be at least 1; got 0.5"),
        ("people-clips", {"fps": 240.0}, r"fps must be at most that of every motion; got 240, and walk\.bvh has 120"),
        ("people-clips", {"frames": 99, "fps": 30.0}, r"99 frames at 30 a second; got at most 0\.33 s"),
        (
            "aligned",
            {"motion": Path("x.bvh")},
            "options must be some of resolution, count, seed, processes; got motion",
        ),
    ],
)
def test_options_that_cannot_be_are_named(boxes, tmp_path, name, options, message):
    with pytest.raises(UserError, match=message):
        make(tmp_path / "x.zip", name, **({"motion": boxes} if name != "aligned" else {}) | options)
    assert not (tmp_path / "x.zip").exists()


def test_a_folder_of_motions_is_taken_whole_and_one_without_any_is_named(boxes, tmp_path):
    folder = tmp_path / "mine"
    for sub in ("a", "b"):
        (folder / sub).mkdir(parents=True)
        (folder / sub / "take.BVH").write_text(boxes.read_text())
    labels = make(tmp_path / "p.zip", motion=folder, count=20, resolution=16)
    assert labels["motions"].tolist() == ["a/take.BVH", "b/take.BVH"]
    assert set(labels["motion"]) == {0, 1}
    assert labels["frame"].min() > 0  # CMU's motions have a T-pose in frame 0
    with pytest.raises(UserError, match="must be a BVH file, or a folder that holds some; got"):
        make(tmp_path / "q.zip", motion=tmp_path / "people-sources")
    with pytest.raises(UserError, match="must be a BVH file"):
        people.check_own(tmp_path / "absent.bvh")


def test_a_motion_of_another_skeleton_is_refused_before_anything_is_drawn(boxes, tmp_path):
    boxes.write_text(boxes.read_text().replace("LeftUpLeg", "Thigh_L"))
    with pytest.raises(UserError, match=r"walk\.bvh: a motion must have the joints Hips.*missing are LeftUpLeg"):
        make(tmp_path / "x.zip", motion=boxes)
