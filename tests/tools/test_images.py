"""tools.images and experiments.snapshots on the compact generator, and on files that are no snapshots."""

import pickle
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from experiments.files import UserError
from experiments.generators import Layer, StyleGANV
from experiments.images import make_images, offset_fields
from experiments.mini.trainer import Options, build_generator
from experiments.sheets import FEW_STRENGTHS
from experiments.snapshots import LocalSnapshot, open_snapshot
from mtm_ops import offsets_scaled
from tools.images import main

R = 16
STRIPS = ["strip.png", "strip-off.png", "strip-field.png"]
SWEEP_OF_FEW = [f"strength-{strength:.1f}.png" for strength in FEW_STRENGTHS]


def write_final(path: Path, mtm: str = "low", key: str = "generator") -> Path:
    """A final.pt as the trainer writes it, with offsets that have an effect."""
    options = Options("00" * 32, R, mtm=mtm, mtm_head="offset+mask", channels=4, latent=8)
    torch.manual_seed(0)
    generator = build_generator(options)
    for name, parameter in generator.named_parameters():
        if ".mtm." in name or "noise_strength" in name:
            parameter.data += torch.randn(parameter.shape) * 0.5
    torch.save({"options": asdict(options), key: generator.state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def final(tmp_path_factory) -> Path:
    return write_final(tmp_path_factory.mktemp("run") / "final.pt")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for i in range(5):
        Image.fromarray(np.full((R, R, 3), 40 * i, dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_the_tool_draws_every_image(final, data, tmp_path):
    done = CliRunner().invoke(main, [str(final), "--outdir", str(tmp_path), "--data", str(data), "--count", "8"])
    assert done.exit_code == 0, done.output
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        ["samples.png", "reals.png", "fig4.png", "offsets.png", *STRIPS, *SWEEP_OF_FEW]
    )
    assert "mini, 16 px, deformable layers: convs.8, convs.16" in done.output
    assert "open files that you trust" not in done.stderr  # nothing in a final.pt can execute code
    greys = {tuple(colour) for colour in pixels(tmp_path / "reals.png").reshape(-1, 3)}
    assert {(40 * i,) * 3 for i in range(5)} <= greys


def test_a_plain_generator_has_samples_only(tmp_path):
    with open_snapshot(write_final(tmp_path / "final.pt", mtm="none")) as snapshot:
        paths = make_images(snapshot, tmp_path / "images", None, seed=0, count=4)
        assert [path.name for path in paths] == ["samples.png", "strip.png"]
        assert snapshot.facts.layers == ()
        with pytest.raises(ValueError, match="module must contain a ModulatedTransformation"):
            snapshot.generate(torch.zeros(1, 8), strength=0.5)


def test_every_strength_is_what_offsets_scaled_gives(final, tmp_path):
    with open_snapshot(final, "cpu") as snapshot:
        assert isinstance(snapshot, LocalSnapshot)
        z, network = torch.randn(3, 8), snapshot.generator.network
        images = {strength: snapshot.generate(z, strength=strength) for strength in (0.0, 0.5, 1.0, 1.5)}
        for strength, image in images.items():
            with offsets_scaled(network, strength), torch.no_grad():
                expected = (network(z, noise=False) * 127.5 + 128).clamp(0, 255).to(torch.uint8)
            assert torch.equal(image, expected)
    assert len({image.numpy().tobytes() for image in images.values()}) == 4


def test_the_switch_shows_on_off_and_what_differs(final, tmp_path):
    with open_snapshot(final) as snapshot:
        make_images(snapshot, tmp_path, None, seed=3, count=2)
    on, off, change = (pixels(tmp_path / "fig4.png")[2 + 98 * row : 98 + 98 * row, 86:] for row in range(3))
    inside = np.ones(on.shape[1], dtype=bool)
    inside[[*range(96, 98), *range(194, on.shape[1])]] = False  # the gaps
    assert np.array_equal(change[:, inside], 255 - np.abs(on.astype(int) - off)[:, inside])
    assert (change[:, inside] < 255).any()


def test_the_same_seed_gives_the_same_files_and_another_others(final, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        with open_snapshot(final) as snapshot:
            make_images(snapshot, tmp_path / name, None, seed, count=4)
    for name in ("samples.png", "fig4.png", "offsets.png", "strength-1.5.png"):
        a, b, c = ((tmp_path / folder / name).read_bytes() for folder in "abc")
        assert a == b != c


def test_noise_comes_from_the_global_stream_and_else_that_stays(final):
    with open_snapshot(final) as snapshot:
        z = torch.randn(2, 8)
        torch.manual_seed(5)
        before = torch.get_rng_state()
        plain = snapshot.generate(z)
        assert torch.equal(torch.get_rng_state(), before)
        noisy = snapshot.generate(z, noise=True)
        assert not torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(5)
        assert torch.equal(snapshot.generate(z, noise=True), noisy)
        assert not torch.equal(plain, noisy)


def test_offsets_have_the_layers_sizes(final):
    with open_snapshot(final) as snapshot:
        images, offsets = snapshot.offsets(torch.randn(2, 8))
        assert images.shape == (2, 3, R, R)
        assert {layer.resolution: tuple(field.shape) for layer, field in offsets.items()} == {
            8: (2, 9, 2, 8, 8),
            16: (2, 9, 2, 16, 16),
        }
        assert snapshot.facts.layers == tuple(offsets)


def test_a_snapshot_in_the_middle_of_a_training_opens_too(final, tmp_path):
    middle = write_final(tmp_path / "snapshot.pt", key="G_ema")
    z = torch.randn(2, 8)
    with open_snapshot(middle) as one, open_snapshot(final) as other:
        assert torch.equal(one.generate(z), other.generate(z))


class Trap:
    """Stands for what a hostile pickle can do: it creates a file when loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def broken_files(folder: Path, final: Path) -> dict[str, str]:
    """File name -> part of the error message."""
    whole, foreign = final.read_bytes(), pickle.dumps({"G_ema": 3, "more": "x" * 99})
    contents = {
        "empty.pkl": (b"", "is empty"),
        "cut.pt": (whole[: len(whole) // 2], "is truncated, damaged or not a snapshot"),
        "cut.pkl": (foreign[:-9], "is truncated: a complete pickle ends with its stop code"),
        "foreign.pkl": (foreign, "no generator of eg3d, stylesv, stylegan-v, stylegan3 was found"),
        "hostile.pkl": (pickle.dumps(Trap(folder / "sprung")), "no generator of"),
        "text.pkl": (b"hello", "is neither a snapshot of experiments/mini nor a pickle"),
    }
    for name, (content, _) in contents.items():
        (folder / name).write_bytes(content)
    torch.save({"weights": torch.zeros(3)}, folder / "other.pt")
    torch.save({"options": {"resolution": 9, "new": 1}, "generator": {}}, folder / "newer.pt")
    (folder / "folder.pkl").mkdir()
    return {name: says for name, (_, says) in contents.items()} | {
        "other.pt": "is not a snapshot of experiments/mini",
        "newer.pt": "is of another version of experiments/mini",
        "folder.pkl": "cannot be read (Is a directory)",
        "absent.pkl": "cannot be read (No such file or directory)",
    }


def test_what_is_no_snapshot_is_refused_in_one_line_that_names_the_file(final, tmp_path):
    for name, says in broken_files(tmp_path, final).items():
        done = CliRunner().invoke(main, [str(tmp_path / name), "--outdir", str(tmp_path / "out")])
        assert done.exit_code == 1, (name, done.output)
        line = done.stderr.replace("Opening a pickle runs the code in it: only open files that you trust.\n", "")
        assert line.count("\n") == 1, (name, line)
        assert f"{tmp_path / name}: {says}" in line
    assert not (tmp_path / "sprung").exists()
    assert not (tmp_path / "out").exists()


def test_help_and_every_pickle_say_whom_to_trust(tmp_path):
    assert "only open files that you trust" in " ".join(CliRunner().invoke(main, ["--help"]).output.split())
    (tmp_path / "a.pkl").write_bytes(b"")
    done = CliRunner().invoke(main, [str(tmp_path / "a.pkl"), "--outdir", str(tmp_path)])
    assert "only open files that you trust" in done.stderr


def test_a_host_that_is_not_fetched_says_how_to_fetch_it(tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps("class TriPlaneGenerator:"))
    with pytest.raises(UserError, match=r"a\.pkl: its host eg3d is not fetched.*make patch HOST=eg3d"):
        open_snapshot(path, vendor=tmp_path)


def test_real_images_of_another_size_are_refused(final, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "small.png")
    done = CliRunner().invoke(main, [str(final), "--outdir", str(tmp_path / "out"), "--data", str(tmp_path)])
    assert done.exit_code == 1
    assert "expected 16 x 16 px, got 8 x 8 px in small.png" in done.output


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"z": torch.zeros(2, 7)}, r"z must be \[N, 8\] with N from 1 up; got \[2, 7\]"),
        ({"z": torch.zeros(0, 8)}, r"z must be"),
        ({"z": torch.zeros(2, 8), "c": torch.zeros(2, 3)}, r"c must be \[2, 0\], a label per latent; got \[2, 3\]"),
        ({"z": torch.zeros(2, 8), "frames": [0, 1]}, r"frames must be times.*got \[0, 1\] for mini's"),
    ],
    ids=["z", "none", "c", "frames"],
)
def test_inputs_that_do_not_fit_are_refused(final, given, says):
    with open_snapshot(final) as snapshot, pytest.raises(ValueError, match=says):
        snapshot.generate(**given)


class Clip(torch.nn.Module):
    """Has the signature of the video hosts' generators. Draws grey frames; time and latent set their brightness."""

    z_dim, c_dim, img_resolution = 2, 3, 8

    def forward(self, z, c, t, truncation_psi, noise_mode, force_fp32):
        grey = (z[:, :1] + c.argmax(dim=1, keepdim=True) / 10 + t.view(len(t), -1) / 100).view(-1, 1, 1, 1)
        return (grey * truncation_psi).expand(-1, 3, 8, 8)


def test_a_video_network_draws_the_frames_that_are_asked_for(tmp_path):
    snapshot = LocalSnapshot(tmp_path / "a.pkl", StyleGANV(Clip(), "cpu"))
    assert snapshot.facts.frames
    z = torch.tensor([[-0.5, 0.0], [0.0, 0.0], [0.5, 0.0]])
    video = snapshot.generate(z, frames=[0, 25, 50])
    assert video.shape == (3, 3, 3, 8, 8)
    expected = (torch.tensor([[-0.5], [0.1], [0.7]]) + torch.tensor([[0.0, 0.25, 0.5]])) * 127.5 + 128
    assert torch.equal(video[:, :, 0, 0, 0], expected.clamp(0, 255).to(torch.uint8))
    assert torch.equal(snapshot.generate(z), video[:, 0])  # an image is the frame at time 0; classes take turns
    with pytest.raises(ValueError, match="frames must be times, at least one"):
        snapshot.generate(z, frames=[])


def test_strips_are_as_wide_as_each_other_and_the_field_has_arrows(final, tmp_path):
    with open_snapshot(final, "cpu") as snapshot:
        make_images(snapshot, tmp_path, None, seed=3, count=4)
    on, off, field = (pixels(tmp_path / name) for name in STRIPS)
    assert on.shape == off.shape == field.shape
    assert (on != off).any()
    red = (field[..., 0] > 150) & (field[..., 1] < 60)
    assert red.sum() > 50


@pytest.mark.parametrize("count", [1, 2, 7])
def test_the_text_of_the_offset_fields_is_not_cut_however_few_there_are(count):
    images = torch.full((count, 3, 16, 16), 200, dtype=torch.uint8)
    layers = {Layer("a", 8, planes=True): 8, Layer("b", 16, planes=False): 16}
    figure = offset_fields(images, {layer: torch.randn(count, 9, 2, side, side) for layer, side in layers.items()})
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    width, height = canvas.get_width_height()
    for text in [*figure.texts, *(axes.yaxis.label for axes in figure.axes)]:
        box = text.get_window_extent(canvas.get_renderer())
        assert min(box.x0, box.y0) >= 0, text.get_text()
        assert box.x1 <= width, text.get_text()
        assert box.y1 <= height, text.get_text()
