"""python -m experiments.metrics: two folders, zips, moments, clips and a trained generator, with stand-in weights."""

import json
import os
import pickle
import re
import socket
import zipfile
from pathlib import Path

import forked
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from metrics_lab import make_clips, make_images

from experiments.metrics import GROUPS, METRICS
from experiments.metrics.__main__ import main
from experiments.mini.trainer import Options, build_generator

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")
OURS = [name for name, metric in METRICS.items() if metric.features and not metric.by_host]
OF_IMAGES = [name for name in OURS if METRICS[name].kind == "images"]


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def measured(*words: object) -> dict[str, dict]:
    result = run(*words, "--json", "--quiet")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def sides(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    monkeypatch.setenv("MTM_WEIGHTS", str(weights))
    return make_images(tmp_path / "real", 7, seed=0), make_images(tmp_path / "fake/nested", 5, seed=1, dark=60).parent


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """final.pt of an untrained compact generator."""
    path = tmp_path_factory.mktemp("mini") / "final.pt"
    torch.manual_seed(0)
    made = Options(resolution=16, channels=4, latent=8, mtm="none", data_sha256="")
    torch.save({"options": vars(made), "G_ema": build_generator(made).state_dict()}, path)
    return path


@pytest.mark.slow
def test_every_metric_of_images_on_two_folders_and_stand_ins_are_labelled_everywhere(sides, tmp_path):
    result = run(",".join(OF_IMAGES), *sides, "--outdir", tmp_path / "out")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == [METRICS[name].title for name in OF_IMAGES]
    assert all(line.endswith("(stand-in weights)") for line in lines)
    assert "img/s" in result.stderr
    assert "7 real samples of 2048 dimensions" in result.stderr
    for name in OF_IMAGES:
        one = json.loads((tmp_path / f"out/{name}.json").read_text())
        assert np.isfinite(one["value"])
        fingerprint = one["fingerprint"]
        assert fingerprint["weights"] == "stand-in"
        assert (fingerprint["real_nimg"], fingerprint["generated_nimg"]) == (7, 5)
        assert fingerprint["metric"] == name


def test_each_network_sees_each_side_once(sides, monkeypatch):
    from experiments.metrics.inception import Inception

    seen: list[int] = []
    once = Inception.run
    monkeypatch.setattr(Inception, "run", lambda self, x, taps: seen.append(len(x)) or once(self, x, taps))
    assert list(measured("kid,pr", *sides, "--batch", 16)) == ["kid", *GROUPS["pr"]]
    assert seen == [7, 5]


def test_a_set_against_itself_and_a_zip_against_its_folder(sides, tmp_path):
    real, _ = sides
    with zipfile.ZipFile(tmp_path / "real.zip", "w") as archive:
        for file in sorted(real.iterdir()):
            archive.write(file, f"deep/{file.name}")
    one = measured("clip_fd", real, tmp_path / "real.zip")["clip_fd"]
    assert one["value"] == pytest.approx(0, abs=1e-6)
    swapped = measured("clip_fd", tmp_path / "real.zip", real)["clip_fd"]
    assert swapped["fingerprint"] == one["fingerprint"]  # the content is the same


def test_the_batch_and_the_number_of_threads_change_nothing(sides):
    one = measured("clip_fd", *sides, "--batch", 1, "--workers", 1, "--no-cache")["clip_fd"]
    other = measured("clip_fd", *sides, "--batch", 50, "--workers", 4, "--no-cache")["clip_fd"]
    assert one["value"] == pytest.approx(other["value"], rel=1e-5)
    assert one["fingerprint"] == other["fingerprint"]


def test_images_of_several_sizes_are_each_resized_and_it_is_written_down(sides, tmp_path):
    mixed = make_images(tmp_path / "mixed", 6, sizes=(20, 32, 24))
    one = measured("clip_fd", sides[0], mixed)["clip_fd"]
    assert one["fingerprint"]["generated_px"] == "3 sizes, most often 20"
    assert one["fingerprint"]["real_px"] == "24"
    note = run("clip_fd", sides[0], mixed).stderr
    assert "real images have 24 px and generated ones 3 sizes, most often 20: resizing affects" in note
    assert "resizing affects" not in run("clip_fd", *sides).stderr


def test_at_most_so_many_images_are_drawn_by_the_seed(sides):
    one = measured("clip_fd", *sides, "--nimg", 3, "--real-nimg", 4)["clip_fd"]
    assert (one["fingerprint"]["real_nimg"], one["fingerprint"]["generated_nimg"]) == (4, 3)
    assert one["fingerprint"]["real_seed"] == 0
    other = measured("clip_fd", *sides, "--nimg", 3, "--real-nimg", 4, "--seed", 5)["clip_fd"]
    assert other["value"] != one["value"]
    assert measured("clip_fd", *sides, "--nimg", 3, "--real-nimg", 4)["clip_fd"] == one


def test_moments_that_were_saved_stand_for_the_images(sides, tmp_path):
    real, fake = sides
    direct = measured("clip_fd", real, fake)["clip_fd"]
    saved = run("clip_fd", real, "--save-stats", tmp_path / "real.npz", "--quiet")
    assert saved.exit_code == 0, saved.output
    again = measured("clip_fd", tmp_path / "real.npz", fake)["clip_fd"]
    assert again["value"] == pytest.approx(direct["value"], rel=1e-9)
    assert again["fingerprint"] == direct["fingerprint"]
    other_way = measured("clip_fd", fake, tmp_path / "real.npz")["clip_fd"]["fingerprint"]
    assert other_way["data_sha256"] == measured("clip_fd", fake, real)["clip_fd"]["fingerprint"]["data_sha256"]
    assert (other_way["real_nimg"], other_way["generated_nimg"]) == (5, 7)
    both = measured("clip_fd", tmp_path / "real.npz", tmp_path / "real.npz")["clip_fd"]
    assert both["value"] == pytest.approx(0, abs=1e-9)
    assert both["fingerprint"]["weights"] == "stand-in"
    assert both["fingerprint"]["resize_filter"] == direct["fingerprint"]["resize_filter"]
    with np.load(tmp_path / "real.npz") as file:  # pytorch-fid writes only mu and sigma
        np.savez(tmp_path / "theirs.npz", mu=file["mu"], sigma=file["sigma"])
    theirs = measured("clip_fd", tmp_path / "theirs.npz", fake)["clip_fd"]
    assert theirs["value"] == pytest.approx(direct["value"], rel=1e-9)
    assert theirs["fingerprint"]["real_ddof"] == "as the file has it"


def test_moments_made_in_another_way_are_refused(sides, tmp_path):
    real, fake = sides
    assert run("clip_fd", real, "--save-stats", tmp_path / "real.npz", "--quiet").exit_code == 0
    with np.load(tmp_path / "real.npz") as file:
        arrays = {name: file[name] for name in file.files}
    for name, value in (("weights_sha256", "ab" * 32), ("resize_filter", "Pillow's")):
        told = json.loads(str(arrays["fingerprint"])) | {name: value}
        np.savez(tmp_path / "other.npz", **(arrays | {"fingerprint": np.array(json.dumps(told))}))
        result = run("clip_fd", tmp_path / "other.npz", fake, "--quiet")
        assert result.exit_code == 1
        assert f"clip_fd: real moments must be of {name}" in result.stderr
        assert f"got {value}. Make them anew" in result.stderr


def test_ddof_divides_and_is_in_the_fingerprint(sides):
    values = [measured("clip_fd", *sides, "--ddof", ddof)["clip_fd"] for ddof in (0, 1)]
    assert values[0]["value"] < values[1]["value"]
    assert [one["fingerprint"]["ddof"] for one in values] == [0, 1]


def test_a_broken_image_is_named_or_left_out_and_counted(sides):
    real, fake = sides
    (real / "003.png").write_bytes((real / "003.png").read_bytes()[:60])
    result = run("clip_fd", real, fake, "--quiet")
    assert result.exit_code == 1
    assert "every image must be readable; got" in result.stderr
    assert "003.png" in result.stderr
    assert "--skip-broken" in result.stderr
    kept = measured("clip_fd", real, fake, "--skip-broken")["clip_fd"]["fingerprint"]
    assert (kept["real_nimg"], kept["real_broken"]) == (6, 1)


def test_what_cannot_be_read_at_all_is_an_error_in_words(sides):
    """Damaged and encrypted members of zips, a FIFO, and a set without a usable image."""
    real, fake = sides
    with zipfile.ZipFile(real / "../damaged.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for index in range(4):
            archive.writestr(f"{index}.bmp", bytes(5000))
        begin = archive.infolist()[1].header_offset + 36
    damaged = (real / "../damaged.zip").resolve()
    data = bytearray(damaged.read_bytes())
    data[begin : begin + 8] = bytes(0xFF ^ byte for byte in data[begin : begin + 8])
    damaged.write_bytes(data)
    result = run("clip_fd", fake, damaged, "--quiet", "--skip-broken")
    assert "must hold at least 2 images that can be read; got 0, and 4 broken ones" in result.stderr
    encrypted = damaged.with_name("encrypted.zip")
    with zipfile.ZipFile(encrypted, "w") as archive:
        for file in real.iterdir():
            archive.write(file, file.name)
    data = bytearray(encrypted.read_bytes())
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        for found in re.finditer(re.escape(mark), bytes(data)):
            data[found.start() + flags] |= 1
    encrypted.write_bytes(data)
    assert "every image must be readable" in (result := run("clip_fd", encrypted, fake, "--quiet")).stderr
    assert "is encrypted" in result.stderr
    os.mkfifo(real / "x.png")
    assert "x.png: not a regular file" in run("clip_fd", real, fake, "--quiet").stderr
    assert measured("clip_fd", real, fake, "--skip-broken")["clip_fd"]["fingerprint"]["real_broken"] == 1


def test_moments_of_clips_of_another_length_are_refused(sides, tmp_path):
    videos = make_clips(tmp_path / "videos", [130] * 3)
    assert run("fvd16", videos, "--save-stats", tmp_path / "16.npz").exit_code == 0
    result = run("fvd128", tmp_path / "16.npz", videos, "--quiet")
    assert "fvd128: real moments must be of frames 128; got 16. Make them anew" in result.stderr
    assert measured("fvd16", tmp_path / "16.npz", videos)["fvd16"]["value"] >= 0


def test_values_are_shown_where_they_cannot_be_written(sides, tmp_path):
    (tmp_path / "file").write_text("")
    result = run("clip_fd", *sides, "--outdir", tmp_path / "file/folder", "--quiet")
    assert result.exit_code == 1
    assert "CLIP-FD: " in result.stdout
    assert "cannot be written" in result.stderr


def test_what_one_metric_cannot_take_is_an_error_before_another_is_computed(sides, mini, tmp_path):
    videos = make_clips(tmp_path / "videos", [16, 16])
    result = run("clip_fd,fvd16", videos, mini, "--nimg", 6)
    assert "FVD must have a network that makes videos" in result.stderr
    assert "real: " not in result.stderr


def test_a_metric_of_images_themselves_heeds_the_options(sides):
    real, fake = sides
    words = ["frechet", real, fake, "--nimg", 3, "--real-nimg", 4, "--seed", 5]
    one = measured(*words)["frechet"]["fingerprint"]
    assert (one["real_nimg"], one["real_seed"], one["generated_nimg"], one["generated_seed"]) == (4, 5, 3, 5)
    (real / "003.png").write_bytes(b"no image")
    one = measured("frechet", real, fake, "--skip-broken")["frechet"]["fingerprint"]
    assert (one["real_nimg"], one["real_broken"]) == (6, 1)


def test_a_users_file_beside_a_zip_stays(sides):
    real, fake = sides
    path = real.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in real.iterdir():
            archive.write(file, file.name)
    path.with_suffix(".json").write_text('{"mine": 1}')
    assert measured("frechet", path, fake)["frechet"]["fingerprint"]["real_nimg"] == 7
    assert path.with_suffix(".json").read_text() == '{"mine": 1}'


def test_the_hash_of_the_data_is_of_its_labels_as_they_are_now(sides):
    real, fake = sides
    names = sorted(file.name for file in real.iterdir())
    found = []
    for label, words in ((0, []), (1, []), (1, ["--no-cache"])):
        (real / "dataset.json").write_text(json.dumps({"labels": [[name, label] for name in names]}))
        found.append(measured("clip_fd", real, fake, *words)["clip_fd"]["fingerprint"]["data_sha256"])
    assert found[0] != found[1] == found[2]


def test_a_cache_entry_that_another_machine_clears_away_is_no_failure(sides, monkeypatch):
    """A process id has no meaning on another machine that shares the folder."""
    monkeypatch.setattr("experiments.metrics.cache.np.savez", lambda file, **_: os.unlink(file.name))
    result = run("clip_fd", *sides)
    assert result.exit_code == 0, result.output
    assert "was not kept" in result.stderr


@pytest.mark.parametrize("metric", ["fvd16", "fvd128"])
def test_fvd_of_folders_of_frames(sides, tmp_path, metric):
    frames = int(metric.removeprefix("fvd"))
    real = make_clips(tmp_path / "videos", [frames + 4, frames - 1, frames, frames + 9], seed=0)
    fake = make_clips(tmp_path / "made", [frames, frames + 1], seed=1)
    one = measured(metric, real, fake)[metric]
    assert one["value"] > 0
    fingerprint = one["fingerprint"]
    assert (fingerprint["real_nclip"], fingerprint["generated_nclip"], fingerprint["real_too_short"]) == (3, 2, 1)
    assert fingerprint["backbone"].startswith("I3D")


def test_a_snapshot_is_measured_by_its_seed(sides, mini):
    real, _ = sides
    one = measured("clip_fd", real, mini, "--nimg", 6)["clip_fd"]
    assert one["fingerprint"]["generated_nimg"] == 6
    assert (one["fingerprint"]["seed"], one["fingerprint"]["truncation"]) == (0, 1.0)
    assert measured("clip_fd", real, mini, "--nimg", 6, "--batch", 4)["clip_fd"]["value"] == pytest.approx(one["value"])
    assert measured("clip_fd", real, mini, "--nimg", 6, "--seed", 1)["clip_fd"]["value"] != one["value"]


def test_a_metric_of_images_themselves_takes_folders_and_snapshots(sides, mini):
    real, fake = sides
    folders = measured("frechet", real, fake)["frechet"]
    network = measured("frechet", real, mini, "--nimg", 6)["frechet"]
    assert folders["fingerprint"]["data_sha256"] == network["fingerprint"]["data_sha256"]
    assert network["fingerprint"]["generated_nimg"] == 6
    clip = measured("clip_fd", real, fake)["clip_fd"]
    assert clip["fingerprint"]["data_sha256"] == folders["fingerprint"]["data_sha256"]


def test_statistics_of_real_data_are_kept_and_a_stale_or_damaged_entry_is_computed_anew(sides, tmp_path):
    real, fake = sides
    first = run("clip_fd", *sides)
    assert "real: 7 img" in first.stderr
    second = run("clip_fd", *sides)
    assert "real: 7 img" not in second.stderr
    assert second.stdout == first.stdout
    (entry,) = (tmp_path / "cache/metrics").glob("*.npz")
    data = bytearray(entry.read_bytes())
    data[len(data) // 2] ^= 0xFF
    entry.write_bytes(data)
    damaged = run("clip_fd", *sides)
    assert "is damaged" in damaged.stderr
    assert damaged.stdout == first.stdout
    make_images(tmp_path / "more", 1, seed=9)
    (tmp_path / "more/000.png").rename(real / "900.png")
    stale = run("clip_fd", *sides)
    assert "is stale: the data, the weights or the options changed; computed anew" in stale.stderr
    assert "real: 8 img" in stale.stderr
    assert len(list((tmp_path / "cache/metrics").glob("*.npz"))) == 1
    assert "real: 8 img" not in run("clip_fd", *sides).stderr
    assert "is stale" in run("clip_fd", real, fake, "--real-nimg", 4).stderr


def test_a_cache_that_cannot_be_written_is_no_failure(sides, tmp_path):
    (tmp_path / "cache").write_text("a file")
    result = run("clip_fd", *sides)
    assert result.exit_code == 0
    assert "was not kept" in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing", "REAL", "FAKE"], "must be some of frechet, fid, .*pr; got 'nothing'"),
        (["fid50k_full", "REAL", "FAKE"], "fid50k_full is computed by the official code: its calc_metrics.py"),
        (["fid", "REAL", "nowhere"], "REAL and FAKE must exist; got 'nowhere'"),
        (["fid", "REAL"], "FAKE must be given; got REAL only"),
        (["fid", "network.pkl", "FAKE"], "REAL must be images, clips or moments; got 'network.pkl'"),
        (["kid", "REAL", "m.npz"], "kid: must have the images; got the moments m.npz"),
        (["fid", "REAL", "--save-stats", "x.txt"], r"must end in \.npz"),
        (["fid", "m.npz", "--save-stats", "x.npz"], "must have the images of REAL; got the moments m.npz"),
        (["fid,sfid", "REAL", "--save-stats", "x.npz"], "must have metrics of one feature; got 2"),
        (["clip_fd", "REAL", "one"], "must hold at least 2 images; got 1"),
        (["clip_fd", "m.npz", "FAKE"], "clip_fd: real moments must be of 512 dimensions; got 3"),
        (["clip_fd", "REAL", "FAKE", "--device", "gpu"], "must be cpu or cuda; got 'gpu'"),
        (["frechet", "REAL", "FAKE", "--ddof", 1], "frechet: --ddof must be 0 for it; got 1"),
        (["kid", "REAL", "m.pkl"], "kid: must have the images; got the moments m.pkl"),
        (["fvd16", "REAL", "FAKE"], "at least 2 videos of 16 frames or more; got 0, and 1 shorter ones"),
    ],
)
def test_what_cannot_be_is_refused_in_words(sides, tmp_path, monkeypatch, words, message):
    make_images(tmp_path / "one", 1)
    np.savez(tmp_path / "m.npz", mu=np.zeros(3), sigma=np.eye(3))
    (tmp_path / "network.pkl").write_bytes(pickle.dumps(Path()))
    (tmp_path / "m.pkl").write_bytes(pickle.dumps({"raw_mean": np.zeros(3), "raw_cov": np.eye(3), "num_items": 9}))
    monkeypatch.chdir(tmp_path)
    names = {"REAL": sides[0], "FAKE": sides[1]}
    result = run(*[names.get(word, word) for word in words], "--quiet")
    assert result.exit_code in (1, 2)
    assert re.search(message, " ".join(result.stderr.split())), result.stderr


def test_weights_that_are_missing_are_listed(sides, tmp_path):
    result = run("fid,clip_fd", *sides, "--weights", tmp_path / "none")
    assert result.exit_code == 1
    for name in ("inception-2015-12-05", "clip-vit-b-32"):  # both in one message
        assert f"{name}: missing" in result.stderr
    np.savez(tmp_path / "m.npz", mu=np.zeros(512), sigma=np.eye(512))
    result = run("clip_fd", tmp_path / "m.npz", tmp_path / "m.npz", "--weights", tmp_path / "none")
    assert (result.exit_code, result.stdout) == (0, "CLIP-FD: 0\n")  # moments need no network


def test_clips_of_a_network_that_makes_images_are_refused(sides, mini, tmp_path):
    real = make_clips(tmp_path / "videos", [17, 17])
    result = run("fvd16", real, mini, "--quiet", "--nclips", 2)
    assert result.exit_code == 1
    assert "FVD must have a network that makes videos; got mini's" in result.stderr


@pytest.mark.slow
def test_two_ranks_share_the_work_and_give_what_one_gives(sides, mini, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    env["PYTHONPATH"] = str(Path(__file__).resolve().parents[3])
    words = ["-m", "experiments.metrics", "clip_fd,kid", *map(str, sides), "--json", "--batch=2"]
    ranks = [forked.start(*words, env=env | {"RANK": str(rank)}) for rank in range(2)]
    outputs = [rank.communicate(timeout=120) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], outputs
    assert outputs[1] == ("", "")  # only the first rank prints
    found, one = json.loads(outputs[0][0]), measured("clip_fd,kid", *sides, "--no-cache")
    for name in found:
        assert found[name]["value"] == pytest.approx(one[name]["value"], rel=1e-4)
        assert found[name]["fingerprint"] == one[name]["fingerprint"]
