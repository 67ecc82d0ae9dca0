"""The real body and CMU's motions: read from their packages and drawn; and what varies in each data set."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_people import FRONT, GREEN, green_look, make, outline, pixels

from experiments.datasets.people_shoot import ALIGNED_FRAME, ALIGNED_PHENOTYPE, ALIGNED_VIEW, level
from experiments.people.anny import BODY, HAIR, SKIRT, Shapes
from experiments.people.body import JOINTS, SIDES, Phenotype, Retarget, shape
from experiments.people.bvh import read_bvh
from experiments.people.clothes import Chart
from experiments.people.scene import Studio, random_look, random_phenotype


@pytest.fixture(scope="module")
def shapes(real) -> Shapes:
    return Shapes.load(real[0])


@pytest.fixture(scope="module")
def motions(real, shapes) -> list[Retarget]:
    return [Retarget(shapes, read_bvh(path)) for path in real[1]]


def test_the_body_is_whole_and_symmetric(shapes):
    body = shapes.faces[shapes.parts == BODY]
    edges = np.sort(np.concatenate([body[:, [0, 1]], body[:, [1, 2]], body[:, [2, 0]]]), axis=1)
    _, counts = np.unique(edges, axis=0, return_counts=True)
    assert (counts == 2).mean() > 0.97  # closed except for eyes and mouth
    assert {SKIRT, HAIR} < set(shapes.parts)
    np.testing.assert_allclose(shapes.influence_weights.sum(axis=1), 1)
    bones = [str(bone) for bone in shapes.bones]
    left, right = (shapes.joints[[bones.index(side + end) for end in ("Arm", "Leg", "Hand")], 0] for side in SIDES)
    np.testing.assert_allclose(left * [-1, 1, 1], right, atol=1e-3)


def test_phenotypes_change_the_body_as_their_names_say(shapes):
    def stature(**phenotype: float) -> float:
        return shape(shapes, Phenotype(**phenotype)).stature_m

    def girth(**phenotype: float) -> float:
        return float(np.ptp(shape(shapes, Phenotype(**phenotype)).vertices[waist, 2]))

    chart = Chart(shapes).fields
    waist = np.flatnonzero((np.abs(chart[:, 1] - 0.15) < 0.05) & (chart[:, 3] < 0) & (np.arange(len(chart)) < 1229))
    assert 1.5 < stature() < 1.85
    assert stature(sex=1.0) > stature(sex=0.0) + 0.05
    assert stature(age=0.0) < stature() - 0.15
    assert stature(height=0.9) > stature(height=0.5) > stature(height=0.1)
    assert girth(weight=1.0) > girth(weight=0.5) > girth(weight=0.0)


def test_people_stand_on_the_floor_and_face_where_they_walk(shapes, motions):
    walk = motions[0]
    body = shape(shapes, Phenotype())
    frames = np.arange(1, len(walk.motion), 60)
    vertices, joints = walk.pose(body, frames)
    lowest = vertices[:, np.unique(shapes.faces[shapes.parts == BODY]), 1].min(axis=1)
    assert np.abs(np.median(lowest)) < 0.03
    assert lowest.min() > -0.1
    hips = joints[:, JOINTS.index("Hips")]
    across = joints[:, JOINTS.index("LeftUpLeg")] - joints[:, JOINTS.index("RightUpLeg")]
    ahead = np.stack([-across[:, 2], across[:, 0]], axis=1)  # up x left, in the plane of the floor
    steps = np.gradient(hips[:, [0, 2]], axis=0)
    moving = np.linalg.norm(steps, axis=1) > 0.15
    assert moving.sum() > 5
    cosine = (steps * ahead).sum(axis=1) / np.linalg.norm(steps, axis=1) / np.linalg.norm(ahead, axis=1)
    assert np.median(cosine[moving]) > 0.8


def test_joints_of_real_people_lie_on_their_bodies(shapes, motions):
    studio, hits = Studio(shapes), []
    for seed in range(20):
        chances = np.random.default_rng(seed)
        phenotype, motion = random_phenotype(chances), motions[seed % 2]
        look = random_look(chances, phenotype.sex, phenotype.age)
        look = replace(look, wall=(GREEN, GREEN), ground=(GREEN, GREEN))
        frame = chances.integers(1, len(motion.motion), 1)
        view = replace(FRONT, yaw_rad=float(seed), mirrored=bool(seed % 3))
        image, labels = studio.draw(studio.body(phenotype, look.outfit), motion, frame, view, look, 64)[0]
        column, row = np.floor(labels.joints_px).astype(int).T
        hits.append(outline(image)[row, column])
        assert 0.03 < outline(image).mean() < 0.4
    assert np.mean(hits) > 0.98


def test_all_of_aligned_have_one_outline(shapes, motions):
    studio, outlines = Studio(shapes), []
    for seed in range(8):
        look, worn = level(green_look(seed))
        body = studio.body(ALIGNED_PHENOTYPE, worn)
        image, _ = studio.draw(body, motions[0], np.array([ALIGNED_FRAME]), ALIGNED_VIEW, look, 64)[0]
        outlines.append(outline(image))
    assert 0.05 < np.mean(outlines) < 0.4
    assert all((one == outlines[0]).all() for one in outlines)


def test_nobody_has_holes_and_skin_is_not_all_there_is(shapes, motions):
    studio = Studio(shapes)
    for seed in range(6):
        look = green_look(seed)
        image, _ = studio.draw(studio.body(Phenotype(), look.outfit), motions[0], np.array([60]), FRONT, look, 128)[0]
        body = outline(image)
        around = body[:-2, 1:-1] & body[2:, 1:-1] & body[1:-1, :-2] & body[1:-1, 2:]
        assert (around & ~body[1:-1, 1:-1]).sum() <= 2  # background pixels inside the body
        skin = np.abs(image / 255 - np.asarray(look.outfit.skin)).max(axis=2) < 0.12
        assert (skin & body).sum() < 0.5 * body.sum()


def test_geometry_varies_in_people_and_not_in_aligned_while_appearance_varies_in_both(real, tmp_path: Path):
    varied, fixed = make(tmp_path / "p", "people", count=64), make(tmp_path / "a", "aligned", count=64)
    assert np.ptp(fixed["joints_px"], axis=0).max() == 0
    assert np.ptp(fixed["joints_m"], axis=0).max() == 0
    assert varied["joints_px"].std(axis=0).mean() > 2  # of 32 px
    assert varied["joints_m"].std(axis=0).mean() > 0.05
    assert (varied["colours"] == fixed["colours"]).all()  # each person wears the same clothes in both
    assert set(map(tuple, fixed["phenotype"][:, :4])) == {
        tuple(np.float32([getattr(ALIGNED_PHENOTYPE, name) for name in ("sex", "age", "weight", "height")]))
    }
    for name in ("p", "a"):
        centre = pixels(tmp_path / name)[:, 12:20, 14:18].mean(axis=(1, 2))
        assert centre.std(axis=0).min() > 15  # of 255: clothes vary
