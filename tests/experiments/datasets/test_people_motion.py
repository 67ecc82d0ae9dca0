"""Motion files against kinematics worked out by hand, and the bodies that they pose."""

from pathlib import Path

import numpy as np
import pytest
from people_lab import BONES, WALK, bvh, stand_in

from experiments.files import UserError
from experiments.people.body import JOINTS, Phenotype, Retarget, check_motion, shape, target_shares
from experiments.people.bvh import read_bvh

ARM = """HIERARCHY
ROOT Base
{
  OFFSET 0 0 0
  CHANNELS 6 Xposition Yposition Zposition Zrotation Yrotation Xrotation
  JOINT Tip
  {
    OFFSET 0 2 0
    CHANNELS 3 Zrotation Yrotation Xrotation
    End Site
    {
      OFFSET 0 1 0
    }
  }
}
MOTION
Frames: 3
Frame Time: 0.04
1 2 3 0 0 0 0 0 0
1 2 3 90 0 0 0 0 0
1 2 3 90 0 90 90 0 0
"""


def read(tmp_path: Path, text: str):
    (tmp_path / "a.bvh").write_text(text)
    return read_bvh(tmp_path / "a.bvh")


def test_joints_are_where_kinematics_by_hand_put_them(tmp_path):
    motion = read(tmp_path, ARM)
    rotations, places = motion.pose(np.arange(3))
    assert (len(motion), motion.frame_s) == (3, 0.04)
    np.testing.assert_allclose(places[:, 0], [[1, 2, 3]] * 3)
    # 90 degrees about z turn +y to -x. With 90 about x first, +y goes to +z, which a turn about z leaves unchanged.
    np.testing.assert_allclose(places[:, 1], [[1, 4, 3], [-1, 2, 3], [1, 2, 5]], atol=1e-12)
    # The tip's own rotation turns +y to -x; its parent's turns -x to -y.
    np.testing.assert_allclose(rotations[2, 1] @ [0, 1, 0], [0, -1, 0], atol=1e-12)
    np.testing.assert_allclose(motion.joints[1].end, [0, 1, 0])


def test_channels_apply_in_the_order_of_the_file(tmp_path):
    swapped = ARM.replace("Zposition Zrotation Yrotation Xrotation", "Zposition Xrotation Yrotation Zrotation")
    lines = swapped.splitlines()
    lines[-1] = "1 2 3 90 0 90 0 0 0"
    places = read(tmp_path, "\n".join(lines)).pose(np.array([2]))[1]
    # Now about z first: +y goes to -x, which a turn about x leaves unchanged.
    np.testing.assert_allclose(places[0, 1], [-1, 2, 3], atol=1e-12)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("HIERARCHY", "HIERARCHIE", r"a\.bvh, line 1: expected HIERARCHY; got 'HIERARCHIE'"),
        ("  OFFSET 0 0 0", "  OFFSET 0 zero 0", r"line 4: expected 3 finite numbers; got '0 zero 0'"),
        ("    OFFSET 0 2 0", "    OFFSET 0 nan 0", r"line 8: expected 3 finite numbers"),
        ("    CHANNELS 3 Z", "    CHANNELS 2 Z", r"line 9: expected a number of channels"),
        ("JOINT Tip", "JOINT Base", r"line 6: a joint must have a name of its own; got 'Base'"),
        ("    End Site", "    End", r"line 10: expected JOINT, End Site or }; got 'End'"),
        ("Frames: 3", "Frames: many", r"line 17: expected a whole number of frames"),
        ("Frames: 3", "Frames: 2", r"line 21: expected the end of the file after 2 frames"),
        ("Frames: 3", "Frames: 4", r"line 21: expected 4 frames; got 'the end of the file after 3'"),
        ("Time: 0.04", "Time: 0", r"line 18: expected Frame Time: and a number of seconds above 0"),
        ("1 2 3 90 0 0 0 0 0", "1 2 3 90 0 0 0", r"line 20: expected 9 finite numbers; got '1 2 3 90 0 0 0'"),
        ("\n}\nMOTION\nFrames: 3", "\nMOTION", r"line 15: expected JOINT, End Site or }; got 'MOTION'"),
    ],
)
def test_what_is_wrong_with_a_file_is_named_with_its_line(tmp_path, old, new, message):
    assert old in ARM
    with pytest.raises(UserError, match=message):
        read(tmp_path, ARM.replace(old, new, 1))


def test_a_file_cut_short_anywhere_is_an_error_of_its_own(tmp_path):
    lines = ARM.splitlines()
    for count in range(len(lines)):
        with pytest.raises(UserError, match=rf"a\.bvh, line {count}: "):
            read(tmp_path, "\n".join(lines[:count]))


def test_joints_that_a_motion_must_have_are_listed_all_at_once(tmp_path):
    with pytest.raises(UserError, match=r"missing are LeftHand, RightHand\. Rename its joints"):
        check_motion(read(tmp_path, bvh().replace("LeftHand", "HandL").replace("RightHand", "HandR")))


def test_a_rest_pose_that_lies_down_and_limbs_without_length_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"must stand upright along \+y; got the head at -6\.5"):
        check_motion(read(tmp_path, bvh().replace("OFFSET 0 4 0", "OFFSET 0 -4 0").replace("0 3 0", "0 -6 0")))
    with pytest.raises(UserError, match="joint LeftHand must lie apart from LeftForeArm"):
        check_motion(read(tmp_path, bvh().replace("OFFSET 3.5 0 0", "OFFSET 0 0 0")))


def posed(tmp_path: Path, turns=None, frames: int = 2):
    shapes = stand_in()
    retarget = Retarget(shapes, read(tmp_path, bvh(turns, frames)))
    body = shape(shapes, Phenotype())
    vertices, joints = retarget.pose(body, np.arange(frames))
    return body, vertices, {name: joints[:, number] for number, name in enumerate(JOINTS)}


def direction(joints, begin: str, end: str, frame: int = -1) -> np.ndarray:
    along = joints[end][frame] - joints[begin][frame]
    return along / np.linalg.norm(along)


def test_an_unturned_motion_gives_its_own_rest_pose_though_the_bodys_is_another(tmp_path):
    _, vertices, joints = posed(tmp_path)
    np.testing.assert_allclose(direction(joints, "LeftArm", "LeftForeArm"), [1, 0, 0], atol=1e-9)  # arms out: T-pose
    np.testing.assert_allclose(direction(joints, "RightArm", "RightHand"), [-1, 0, 0], atol=1e-9)
    np.testing.assert_allclose(direction(joints, "LeftUpLeg", "LeftFoot"), [0, -1, 0], atol=1e-9)
    assert direction(joints, "LeftFoot", "LeftToeBase")[2] > 0.8  # ahead
    assert joints["LeftHand"][0, 0] > 0.4 > -0.4 > joints["RightHand"][0, 0]
    assert vertices[0, :, 1].min() == pytest.approx(0, abs=0.03)  # stands on the floor


def test_bones_keep_their_lengths_and_only_the_turned_limb_moves(tmp_path):
    body, _, joints = posed(tmp_path, {"LeftArm": (90.0, 0.0, 0.0)})
    np.testing.assert_allclose(direction(joints, "LeftArm", "LeftHand"), [0, 1, 0], atol=1e-9)  # about z: out to up
    np.testing.assert_allclose(direction(joints, "RightArm", "RightHand"), [-1, 0, 0], atol=1e-9)
    names = list(BONES)
    for begin, end in (("LeftArm", "LeftForeArm"), ("LeftUpLeg", "LeftLeg"), ("RightForeArm", "RightHand")):
        rest = body.joints[names.index(end), 0] - body.joints[names.index(begin), 0]
        length = np.linalg.norm(joints[end] - joints[begin], axis=1)
        np.testing.assert_allclose(length, np.linalg.norm(rest), rtol=1e-9)


def test_vertices_move_with_their_bone(tmp_path):
    _, vertices, joints = posed(tmp_path, WALK, frames=5)
    hand = list(BONES).index("LeftHand")
    box = vertices[:, 8 * hand : 8 * hand + 8]
    distance = np.linalg.norm(box.mean(axis=1) - joints["LeftHand"], axis=1)
    np.testing.assert_allclose(distance, distance[0], rtol=1e-9)
    assert np.ptp(joints["LeftHand"], axis=0).max() > 0.3


def test_the_motion_walks_in_the_bodys_scale(tmp_path):
    body, _, joints = posed(tmp_path, frames=11)
    places = body.joints[[list(BONES).index("Left" + name) for name in ("UpLeg", "Leg", "Foot")], 0]
    leg = np.linalg.norm(np.diff(places, axis=0), axis=1).sum()
    assert (joints["Hips"][10] - joints["Hips"][0])[2] == pytest.approx(0.2 * leg / 14)  # the motion's legs are 14 long


@pytest.mark.parametrize("value", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_shares_of_targets_sum_to_one_for_each_kind(value):
    shares = target_shares(Phenotype(sex=value, age=value, weight=1 - value, height=0.5))
    faces = sum(share for name, share in shares.items() if name.split("-")[0] in ("african", "asian", "caucasian"))
    assert faces == pytest.approx(1)
    assert sum(shares.values()) == pytest.approx(2)  # faces and builds; an average height adds nothing
    assert min(shares.values()) > 0
