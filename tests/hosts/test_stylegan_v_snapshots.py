"""StyleGAN-V's snapshots with MTM: videos from them, and their metrics."""

import json

import numpy as np
import pytest
from lab import PKL
from PIL import Image
from stylegan_v_lab import arguments
from test_video import ENCODES, read_back


@pytest.fixture(scope="module")
def trained(stylegan_v, clips, tmp_path_factory):
    """A run's newest snapshot, and its environment. The training computed FVD and FID with stand-in detectors."""
    folder = tmp_path_factory.mktemp("metrics")
    env = stylegan_v["patched"].probe("stand_ins", folder=str(folder))
    words = arguments(clips, folder / "run", "training.metrics=[fvd_few,fid_few]")
    out = folder / "trained.pt"
    command = stylegan_v["patched"].command("train_part", out, {"arguments": words, "iterations": 1})
    stylegan_v["patched"].run(*command, **env)
    return folder / "run" / "output" / PKL, env


def values(pkl):
    """Each metric's values for the snapshot, in the order they were computed."""
    found = {}
    for name in ("fvd_few", "fid_few"):
        lines = [json.loads(line) for line in (pkl.parent / f"metric-{name}.jsonl").read_text().splitlines()]
        assert {line["snapshot_pkl"] for line in lines} == {pkl.name}
        found[name] = [line["results"][name] for line in lines]
    return found


def test_fvd_and_fid_run_in_training_and_in_calc_metrics_with_detectors_of_ones_own(stylegan_v, clips, trained):
    pkl, env = trained
    words = ("--network_pkl", str(pkl), "--data", str(clips), "--metrics", "fvd_few,fid_few")
    stylegan_v["patched"].run("src/scripts/calc_metrics.py", *words, **env)
    for name, found in values(pkl).items():
        assert len(found) == 2, name
        assert all(np.isfinite(value) and value > 0 for value in found), name


def test_the_fvd_of_a_data_set_to_itself_is_zero(stylegan_v, clips, trained, tmp_path):
    """Clips have 16 frames, so only one position exists for the 16 frames that are compared."""
    for frame in clips.glob("*/*.jpg"):
        if int(frame.stem) < 16:
            target = tmp_path / "short" / frame.relative_to(clips)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(frame.read_bytes())
    words = ["--metrics", "fvd2048_16f", "--mirror", "0", "--resolution", "128", "--use_cache", "0"]
    paths = ("--real_data_path", str(tmp_path / "short"), "--fake_data_path", str(tmp_path / "short"))
    done = stylegan_v["patched"].run("src/scripts/calc_metrics_for_dataset.py", *words, *paths, **trained[1])
    (line,) = [x for x in done.stdout.splitlines() if x.startswith("{")]
    assert json.loads(line)["results"]["fvd2048_16f"] == pytest.approx(0, abs=1e-4)


@ENCODES
def test_generate_py_draws_videos_as_mp4_and_as_frames(stylegan_v, trained, tmp_path):
    pkl, _ = trained
    words = ("--network_pkl", str(pkl), "--truncation_psi", "0.9", "--video_len", "8", "--seed", "3")
    grid = ("--num_videos", "4", "--batch_size", "4", "--as_grids", "true", "--save_as_mp4", "true")
    stylegan_v["patched"].run("src/scripts/generate.py", *words, *grid, "--outdir", str(tmp_path / "grid"))
    frames = read_back(tmp_path / "grid" / "000000.mp4")
    assert len(frames) == 8
    assert frames[0].shape[:2] == (2 * 130 + 2, 2 * 130 + 2)

    stylegan_v["patched"].run(
        "src/scripts/generate.py", *words, "--num_videos", "2", "--batch_size", "2", "--outdir", str(tmp_path / "two")
    )
    files = sorted(tmp_path.glob("two/*/*.jpg"))
    assert files == [tmp_path / "two" / f"00000{v}" / f"00000{f}.jpg" for v in (0, 1) for f in range(8)]
    first, *_, last = [np.asarray(Image.open(f)).astype(int) for f in files]
    assert abs(first - last).max() > 0
