"""The extractors: networks equal torch-fidelity's and Meta's, the taps are correct, and images are independent."""

from pathlib import Path

import forked
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from experiments.files import UserError
from experiments.metrics import fidelity
from experiments.metrics.dinov2 import DINOv2, VisionTransformer
from experiments.metrics.extractors import MODULES, _full_precision, bicubic, build_extractor, detector_of, tf1_bilinear
from experiments.metrics.inception import POOL3, SPATIAL, Inception
from experiments.weights import WEIGHTS

ROOT = Path(__file__).resolve().parents[3]
IMAGES = torch.randint(0, 256, (3, 3, 40, 32), dtype=torch.uint8, generator=torch.manual_seed(0))
CLIPS = torch.randint(0, 256, (3, 3, 16, 24, 20), dtype=torch.uint8, generator=torch.manual_seed(1))


@pytest.fixture(scope="module")
def inception(weights) -> Inception:
    extractor = build_extractor("inception-2015-12-05", weights)
    assert isinstance(extractor, Inception)
    return extractor


@pytest.fixture(scope="module")
def theirs(weights):
    """torch-fidelity's own extractor with the same weights."""
    kind = fidelity.networks("feature_extractor_inceptionv3").FeatureExtractorInceptionV3
    path = str(weights / WEIGHTS["inception-2015-12-05"].file)
    return kind("inception-v3-compat", ["2048"], feature_extractor_weights_path=path)


def test_torch_fidelity_is_imported_without_torchvision_and_leaves_nothing_behind():
    code = """
import sys
from experiments.metrics.fidelity import networks
networks("feature_extractor_clip").FeatureExtractorCLIP
assert not [name for name in sys.modules if name.split(".")[0] in ("torch_fidelity", "torchvision")]
import types
mine = sys.modules["torchvision"] = types.ModuleType("torchvision")  # somebody's, who has imported it
networks("feature_extractor_inceptionv3")
assert sys.modules["torchvision"] is mine
"""
    done = forked.run("-W", "error", "-c", code, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_normalize_is_torchvisions():
    images = torch.rand(2, 3, 4, 5)
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    expected = torch.stack([(images[:, c] - mean[c]) / std[c] for c in range(3)], dim=1)
    assert torch.equal(fidelity.normalize(images, mean, std), expected)


@pytest.mark.parametrize("shape", [(32, 32), (256, 200), (299, 299), (640, 511)])
def test_tf1_bilinear_is_torch_fidelitys_to_the_bit(shape):
    images = torch.randint(0, 256, (2, 3, *shape), dtype=torch.uint8)
    module = fidelity.networks("interpolate_compat_tensorflow")
    expected = module.interpolate_bilinear_2d_like_tensorflow1x(images.float(), size=(299, 299), align_corners=False)
    assert torch.equal(tf1_bilinear(images, 299), expected)


def test_bicubic_is_pillows_up_to_its_rounding():
    image = torch.randint(100, 156, (1, 3, 61, 300), dtype=torch.uint8)  # so that no overshoot is clipped
    pixels = Image.fromarray(image[0].permute(1, 2, 0).numpy()).resize((224, 224), Image.Resampling.BICUBIC)
    ours = bicubic(image, 224)[0].permute(1, 2, 0).clamp(0, 255)
    assert (ours - torch.from_numpy(np.array(pixels))).abs().max() < 1.2  # Pillow rounds after each axis


def test_pool3_is_torch_fidelitys(inception, theirs):
    ours, expected = inception(IMAGES, (POOL3,))[POOL3], theirs(IMAGES)[0]
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_sfid_taps_the_first_1x1_branch_of_mixed_6d_after_its_relu(inception, theirs):
    """Recomputed operation by operation from torch-fidelity's network, starting at the block before."""
    before, after_block = [], []
    hooks = [
        theirs.Mixed_6c.register_forward_hook(lambda *args: before.append(args[2])),
        theirs.Mixed_6d.register_forward_hook(lambda *args: after_block.append(args[2])),
    ]
    theirs(IMAGES)
    for hook in hooks:
        hook.remove()
    branch = theirs.Mixed_6d.branch1x1
    x = F.conv2d(before[0], branch.conv.weight)
    x = F.batch_norm(x, branch.bn.running_mean, branch.bn.running_var, branch.bn.weight, branch.bn.bias, eps=1e-3)
    assert x.min() < 0  # so that the ReLU has an effect
    expected = F.relu(x)[:, :7]
    assert expected.shape == (3, 7, 17, 17)
    assert torch.equal(expected, after_block[0][:, :7])  # this branch comes first in the block's output
    ours = inception(IMAGES, (SPATIAL,))[SPATIAL]
    assert ours.shape == (3, 2023)
    assert ours.min() == 0
    torch.testing.assert_close(ours, expected.flatten(1), rtol=1e-4, atol=1e-4 * float(expected.max()))


@pytest.mark.parametrize(
    ("layer", "matters"),
    [
        ("Mixed_6c.branch_pool", True),
        ("Mixed_6d.branch1x1", True),
        ("Mixed_6d.branch7x7_1", False),
        ("Mixed_6d.branch_pool", False),
        ("Mixed_6e.branch1x1", False),
        ("Mixed_7a.branch3x3_1", False),
    ],
)
def test_sfid_depends_on_what_comes_before_the_tap_only(inception, layer, matters):
    weight = inception.network.get_submodule(layer).conv.weight
    kept = weight.data.clone()
    before = inception(IMAGES[:1], (SPATIAL,))[SPATIAL]
    weight.data *= 1.5
    try:
        assert torch.equal(before, inception(IMAGES[:1], (SPATIAL,))[SPATIAL]) is not matters
    finally:
        weight.data = kept


def test_clip_is_torch_fidelitys(weights):
    path = str(weights / WEIGHTS["clip-vit-b-32"].file)
    kind = fidelity.networks("feature_extractor_clip").FeatureExtractorCLIP
    expected = kind("clip-vit-b-32", ["clip"], feature_extractor_weights_path=path)(IMAGES)[0]
    assert torch.equal(detector_of("clip-vit-b-32", "image embedding", weights)(IMAGES), expected)


def test_dinov2_is_a_vision_transformer_written_with_torchs_own_layers(tmp_path):
    """Recomputed with torch.nn.TransformerEncoderLayer, with LayerScale folded into the weights."""
    torch.manual_seed(0)
    network = VisionTransformer(width=128, depth=2, grid=16)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    ours = DINOv2(tmp_path / "weights.pth")
    x = network.patch_embed["proj"](ours.resize(IMAGES)).flatten(2).transpose(1, 2)
    x = torch.cat([network.cls_token.expand(3, -1, -1), x], dim=1) + network.pos_embed
    for block in network.blocks:
        layer = torch.nn.TransformerEncoderLayer(128, 2, 512, 0.0, "gelu", 1e-6, batch_first=True, norm_first=True)
        state = {"self_attn.in_proj_weight": block.attn.qkv.weight, "self_attn.in_proj_bias": block.attn.qkv.bias}
        for to, scale, linear in (
            ("self_attn.out_proj", block.ls1, block.attn.proj),
            ("linear2", block.ls2, block.mlp.fc2),
        ):
            state |= {f"{to}.weight": linear.weight * scale.gamma[:, None], f"{to}.bias": linear.bias * scale.gamma}
        for to, module in (("linear1", block.mlp.fc1), ("norm1", block.norm1), ("norm2", block.norm2)):
            state |= {f"{to}.weight": module.weight, f"{to}.bias": module.bias}
        layer.load_state_dict(state)
        x = layer.eval()(x)
    expected = network.norm(x)[:, 0].detach()
    torch.testing.assert_close(ours(IMAGES, ("class token",))["class token"], expected, rtol=1e-4, atol=1e-5)


def test_dinov2_sees_images_in_0_to_1_with_imagenets_mean_and_std():
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    images = torch.stack([torch.full((3, 30, 20), value, dtype=torch.uint8) for value in (0, 51, 255)])
    seen = DINOv2.resize(DINOv2, images)
    assert seen.shape == (3, 3, 224, 224)
    for image, level in zip(seen, (0.0, 0.2, 1.0), strict=True):
        torch.testing.assert_close(image, ((level - mean) / std).view(3, 1, 1).expand(3, 224, 224), rtol=0, atol=1e-5)


def test_dinov2s_norms_have_the_epsilon_of_metas_code():
    norms = [module for module in VisionTransformer(64, 2, 4).modules() if isinstance(module, torch.nn.LayerNorm)]
    assert [norm.eps for norm in norms] == [1e-6] * 5


def test_dinov2_resamples_its_position_embeddings():
    network = VisionTransformer(width=64, depth=0, grid=37)
    torch.nn.init.normal_(network.pos_embed)
    places = network._positions(16, 16)
    assert places.shape == (1, 257, 64)
    assert torch.equal(places[:, 0], network.pos_embed[:, 0])
    ramp = torch.linspace(0, 1, 37)[:, None].expand(37, 37).flatten()
    network.pos_embed.data[0, 1:] = ramp[:, None]
    resampled = network._positions(16, 16)[0, 1:, 0].unflatten(0, (16, 16))
    assert (resampled.diff(dim=0) > 0).all()  # still a ramp from top to bottom
    assert (resampled.diff(dim=1).abs() < 1e-5).all()


@pytest.mark.parametrize("backbone", MODULES)
def test_features_do_not_depend_on_the_batch_and_the_random_stream_stays(backbone, weights):
    stream = torch.get_rng_state()
    extractor = build_extractor(backbone, weights)
    images = CLIPS if extractor.ndim == 5 else IMAGES
    for tap, dimensions in extractor.taps.items():
        whole = extractor(images, (tap,))[tap]
        assert whole.shape == (3, dimensions)
        assert whole.dtype == torch.float32
        assert 0.01 < whole.std() < 100  # with stand-in weights, features neither vanish nor explode
        alone = torch.cat([extractor(image[None], (tap,))[tap] for image in images])
        torch.testing.assert_close(alone, whole, rtol=1e-4, atol=1e-4 * float(whole.abs().max()))
        assert (whole[0] - whole[1]).abs().max() > 1e-3
    assert torch.equal(torch.get_rng_state(), stream)


@pytest.mark.parametrize("backbone", ["clip-vit-b-32", "i3d-kinetics-400"])
def test_images_of_several_sizes_come_out_in_order(backbone, weights):
    extractor = build_extractor(backbone, weights)
    images = list(CLIPS if extractor.ndim == 5 else IMAGES)
    mixed = [images[0], images[1][..., :-4, :], images[2], images[1]]
    (tap,) = extractor.taps
    together = extractor(mixed, (tap,))[tap]
    for image, features in zip(mixed, together, strict=True):
        torch.testing.assert_close(extractor(image[None], (tap,))[tap][0], features, rtol=1e-4, atol=1e-4)


def test_a_fingerprint_says_what_decides_the_features(weights):
    for backbone in MODULES:
        extractor = build_extractor(backbone, weights)
        for tap in extractor.taps:
            fingerprint = extractor.fingerprint(tap)
            assert fingerprint["weights"] == "stand-in"
            assert len(fingerprint["weights_sha256"]) == 64
            assert {"backbone", "feature", "dimensions", "size_px", "resize_filter", "quantisation"} <= set(fingerprint)


def test_a_gpu_computes_without_tensorfloat_32_and_the_setting_comes_back():
    before = torch.backends.cudnn.allow_tf32
    with _full_precision(torch.device("cuda")):
        assert not torch.backends.cudnn.allow_tf32
        assert torch.backends.cudnn.enabled
    assert torch.backends.cudnn.allow_tf32 == before


@pytest.mark.parametrize("images", [IMAGES.float(), IMAGES[:, :1], IMAGES[0], CLIPS])
def test_other_than_uint8_rgb_images_are_refused(images, weights):
    with pytest.raises(ValueError, match=r"CLIP: images must be uint8 \[N, 3, H, W\]; got torch"):
        detector_of("clip-vit-b-32", "image embedding", weights)(images)


def test_a_detector_is_called_as_the_official_codebases_call_theirs(weights):
    detector = detector_of("i3d-kinetics-400", "before softmax", weights)
    features = detector(CLIPS, rescale=True, resize=True, return_features=True)
    assert features.shape == (3, detector.dimensions) == (3, 400)


def test_i3d_is_called_as_stylegan_v_calls_it(weights):
    extractor = build_extractor("i3d-kinetics-400", weights)
    network, how = extractor.network, {"rescale": True, "resize": True, "return_features": True}
    (tap,) = extractor.taps
    features = extractor(CLIPS, (tap,))[tap]
    torch.testing.assert_close(features, network(CLIPS, **how), rtol=1e-4, atol=1e-5)
    for name in how:
        assert not torch.allclose(features, network(CLIPS, **how | {name: False}), rtol=1e-2, atol=1e-3), name


def test_weights_that_are_not_there_are_named(tmp_path):
    with pytest.raises(UserError, match="clip-vit-b-32: missing"):
        build_extractor("clip-vit-b-32", tmp_path)
