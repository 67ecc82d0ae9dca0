"""Export of patched hosts' snapshots to ONNX and torch.export, as far as the hosts' code allows."""

import numpy as np
import onnxruntime
import torch

import mtm_ops  # noqa: F401 - registers the op that a .pt2 names


def feed(found, batch):
    noise = {f"noise_{i}": t.expand(batch, 1, -1, -1) for i, t in enumerate(found["noise"])}
    label = {} if found["c"] is None else {"label": found["c"][:batch]}
    return {"z": found["z"][:batch], "truncation": torch.tensor(0.7), **label, **noise}


def onnx_image(path, given):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    shapes = {i.name: i.shape for i in session.get_inputs()}
    feed = {n: np.ascontiguousarray(t.numpy()) for n, t in given.items()}
    return torch.from_numpy(session.run(None, feed)[0]), shapes


def assert_same(found, image):
    assert (found - image).abs().max() <= 1e-5 * max(1, image.abs().max())


def test_stylegan2_with_labels_and_noise_inputs_has_a_dynamic_batch(stylegan3, tmp_path):
    """With its own constants as noise, the exported file draws what the network draws with them."""
    path = tmp_path / "model.onnx"
    arguments = [str(path), "--noise", "input"]
    options = {"c_dim": 3, "img_resolution": 16}
    found = stylegan3["patched"].probe(
        "exported", path=str(tmp_path / "network.pkl"), kind="stylegan2", arguments=arguments, **options
    )
    assert "StyleGAN2 generator, MTM in 2 layers, noise input" in found["output"], found["output"]
    assert "2 DeformConv; largest difference from torch" in found["output"]
    assert len(found["noise"]) == 5
    for batch in (1, 2):
        image, shapes = onnx_image(path, feed(found, batch))
        assert_same(image, found["image"][:batch])
    assert shapes["z"] == ["batch", 16]
    assert shapes["label"] == ["batch", 3]


def test_stylegan3_exports_with_a_fixed_batch_and_says_so(stylegan3, tmp_path):
    path, program = tmp_path / "model.onnx", tmp_path / "model.pt2"
    found = stylegan3["patched"].probe(
        "exported",
        path=str(tmp_path / "network.pkl"),
        kind="stylegan3-t",
        arguments=[str(path), "--torch-export", str(program)],
    )
    assert "batch: 1, as the network's code needs the number; --batch N for another" in found["output"], found["output"]
    assert "2 DeformConv; largest difference from torch" in found["output"]
    image, shapes = onnx_image(path, feed(found, 1))
    assert_same(image, found["image"][:1])
    assert shapes["z"] == [1, 16]
    assert_same(torch.export.load(program).module()(**feed(found, 1)), found["image"][:1])
