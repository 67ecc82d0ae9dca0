"""tools.export on the compact generator: the exported files draw torch's images, and nothing else is left behind."""

import re
import shlex
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from click.testing import CliRunner

from experiments.files import UserError
from experiments.mini.trainer import Options, build_generator
from experiments.snapshots import open_here
from tools import export
from tools.exportable import Exportable

ROOT = Path(__file__).resolve().parents[2]
DOC = (ROOT / "docs" / "export.md").read_text()
NAMED = "runs/quickstart/runs/mtm-low/0-*/train/final.pt"  # as in the documentation's commands
FINAL = NAMED.replace("*", "0123abcd")


@pytest.fixture(scope="module")
def trained():
    """A generator as after training: MTM and noise have an effect. Its latents are as long as the quickstart's."""
    options = Options(data_sha256="", resolution=8, mtm="4,8", mtm_head="offset+mask", channels=2, latent=64)
    torch.manual_seed(0)
    generator = build_generator(options).eval().requires_grad_(False)
    for name, parameter in generator.named_parameters():
        if ".mtm." in name or "noise_strength" in name:
            parameter.add_(0.3 * torch.randn(parameter.shape))
    generator.mapping.w_avg.normal_()
    return {"options": asdict(options), "generator": generator.state_dict()}, generator


@pytest.fixture(scope="module")
def documented(trained, tmp_path_factory):
    """The folder in which the documentation's commands on final.pt ran, and their output."""
    folder = tmp_path_factory.mktemp("documented")
    (folder / FINAL).parent.mkdir(parents=True)
    torch.save(trained[0], folder / FINAL)
    printed = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in re.findall(rf"-m tools\.export ({re.escape(NAMED)}.*)", DOC):
            printed.append(run(*shlex.split(command.replace(NAMED, FINAL))))
    assert len(printed) == 2
    return folder, printed


def run(*arguments, code=0):
    result = CliRunner().invoke(export.main, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result.output


def onnx_image(path, **given):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {n: np.asarray(t, np.float32) for n, t in given.items()})[0])


def assert_same(found, image):
    assert (found - image).abs().max() <= 1e-5 * max(1, image.abs().max())


def test_documented_commands_write_files_that_draw_torchs_images_for_any_batch(trained, documented):
    folder, printed = documented
    z = torch.randn(3, 64)
    image = trained[1](z, truncation=0.7, noise=False)
    assert (image - trained[1](z, noise=False)).abs().max() > 1e-2
    assert_same(onnx_image(folder / "model.onnx", z=z, truncation=0.7), image)
    program = torch.export.load(folder / "model.pt2").module()
    assert_same(program(z=z, truncation=torch.tensor(0.7)), image)
    assert "compact generator, MTM in 2 layers, noise none" in printed[0]
    assert re.search(r"model.onnx: .* opset 20, 2 DeformConv; largest difference from torch \d", printed[0])
    (session_input, _) = onnxruntime.InferenceSession(str(folder / "model.onnx")).get_inputs()
    assert session_input.shape == ["batch", 64]


def test_noise_inputs_are_what_the_layers_add(trained, documented, monkeypatch):
    path = documented[0] / "noisy.onnx"
    shapes = {i.name: i.shape[1:] for i in onnxruntime.InferenceSession(str(path)).get_inputs() if "noise" in i.name}
    assert list(shapes.values()) == [[1, 4, 4]]
    noise = {name: torch.randn(2, *shape) for name, shape in shapes.items()}
    z, given = torch.randn(2, 64), iter(noise.values())
    monkeypatch.setattr(torch, "randn_like", lambda x: next(given))
    image = trained[1](z)
    assert (image - trained[1](z, noise=False)).abs().max() > 1e-2
    assert_same(onnx_image(path, z=z, truncation=1, **noise), image)


def test_documented_python_runs(documented, monkeypatch):
    monkeypatch.chdir(documented[0])
    blocks = re.findall(r"```python\n(.*?)```", DOC, re.S)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "docs/export.md", "exec"), names := {})
    assert names["layer"].mtm.head == "offset+mask"
    assert (documented[0] / "layer.onnx").exists()


def test_a_file_that_disagrees_is_not_left_and_an_older_one_stays(documented, tmp_path, monkeypatch):
    right = export.translation_table()

    def wrong_table():
        def translate(x, weight, offset, mask, stride, padding, dilation):
            (op,) = right.values()
            return op(x, weight, offset, None, stride, padding, dilation)  # omits the mask

        return dict.fromkeys(right, translate)

    monkeypatch.setattr(export, "translation_table", wrong_table)
    old = tmp_path / "model.onnx"
    old.write_text("older")
    output = run(documented[0] / FINAL, old, "--batch", 1, code=1)
    assert re.search(r"model.onnx must give torch's images within .* the largest difference is .* not written", output)
    assert [(f.name, f.read_text()) for f in tmp_path.iterdir()] == [("model.onnx", "older")]


def test_nan_and_another_shape_disagree(trained):
    network = Exportable(trained[1])
    difference, _ = export.largest_difference(lambda given: torch.full([1, 3, 8, 8], torch.nan), network, 1)
    assert difference > 1e30
    with pytest.raises(UserError, match=r"image must be \[1, 3, 8, 8\]; the file gives \[3, 8, 8\]"):
        export.largest_difference(lambda given: torch.zeros(3, 8, 8), network, 1)


def test_the_latest_snapshot_of_a_run_is_read_too(trained, tmp_path):
    content, generator = trained
    torch.save({"options": content["options"], "G": {}, "G_ema": content["generator"]}, tmp_path / "snapshot.pt")
    loaded = open_here(tmp_path / "snapshot.pt").network.state_dict()
    assert loaded.keys() == generator.state_dict().keys()
    assert all(torch.equal(t, loaded[name]) for name, t in generator.state_dict().items())


def test_a_network_that_decides_by_values_is_refused_with_the_reason(trained, monkeypatch):
    network = Exportable(trained[1])
    monkeypatch.setattr(network.generator.mapping, "forward", lambda z: z if z.sum() > 0 else -z)
    with pytest.raises(UserError, match=r"torch\.export cannot trace this network: .*data-dependent"):
        export.trace(network, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([FINAL], "Name a file to write"),
        ([FINAL, "m.onnx", "--noise", "const"], "--noise must be none or input for a compact generator; got const"),
        (["other.zip", "m.onnx"], "other.zip: is not a snapshot of experiments/mini"),
        (["other.pkl", "m.onnx"], "other.pkl: is neither a snapshot of experiments/mini nor a pickle"),
        ([FINAL, "m.onnx", "--opset", "18"], "18 is not in the range x>=19"),
    ],
)
def test_mistakes_are_told_and_leave_nothing(arguments, message, documented, monkeypatch):
    folder = documented[0]
    monkeypatch.chdir(folder)
    torch.save({"no": "options"}, folder / "other.zip")
    (folder / "other.pkl").write_text("?")
    assert message in run(*arguments, code=2 if "Name" in message or "18" in message else 1)
    assert not (folder / "m.onnx").exists()
