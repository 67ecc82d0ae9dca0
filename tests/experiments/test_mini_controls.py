"""Controls for the MTM on the compact host: what each of them sees, that all start equal, and the late start."""

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from mini_lab import write_dots

from experiments.mini import KEPT, train
from experiments.mini.controls import SEES, make_module
from experiments.mini.networks import Generator
from experiments.mini.trainer import Options, build_generator
from experiments.snapshots import open_snapshot
from mtm_ops import offsets_disabled, offsets_scaled

TINY = {"kimg": 0.048, "batch": 4, "channels": 4, "latent": 8, "tick_kimg": 0.016, "snap_kimg": 0.016}
SIZE = {"z_dim": 8, "w_dim": 8, "resolution": 16, "channels": 4}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dots(tmp_path_factory.mktemp("data") / "dots.zip", 32, dots=4, resolution=16)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def trained(sees: str) -> torch.nn.Module:
    """A module whose offset convolution is no longer zero."""
    torch.manual_seed(3)
    module = make_module(4, 8, 6, "offset", sees)
    inner = getattr(module, "module", module)
    with torch.no_grad():
        inner.weight.normal_()
    return module


@pytest.mark.parametrize(("sees", "of_x", "of_w"), [("xw", True, True), ("x", True, False), ("w", False, True)])
def test_offsets_follow_what_the_module_sees_and_nothing_else(sees, of_x, of_w):
    module = trained(sees)
    x, w = torch.randn(2, 2, 4, 6, 6), torch.randn(2, 2, 8)
    base = module(x[0], w[0])[0]
    assert base.shape == (2, 18, 6, 6)
    assert (not torch.equal(module(x[1], w[0])[0], base)) == of_x
    assert (not torch.equal(module(x[0], w[1])[0], base)) == of_w


def test_offsets_of_the_latent_alone_differ_from_place_to_place():
    offset = trained("w")(torch.zeros(1, 4, 6, 6), torch.randn(1, 8))[0]
    assert offset.std(dim=(2, 3)).min() > 0.01


@pytest.mark.parametrize("sees", SEES)
def test_a_control_starts_as_the_plain_network_with_the_same_parameters(sees):
    networks = []
    for mtm in ("none", "8"):
        torch.manual_seed(0)
        networks.append(Generator(**SIZE, mtm=mtm, mtm_sees=sees).eval())
        drawn = torch.rand(())
    plain, control = networks
    assert all(torch.equal(control.state_dict()[name], value) for name, value in plain.state_dict().items())
    torch.manual_seed(0)
    Generator(**SIZE, mtm="none")
    assert torch.equal(drawn, torch.rand(()))  # all drew equally many random numbers
    z = torch.randn(2, 8)
    torch.testing.assert_close(control(z, noise=False), plain(z, noise=False))


@pytest.mark.parametrize("sees", ["x", "w"])
def test_offsets_of_a_control_can_be_switched_off_and_scaled(sees):
    torch.manual_seed(0)
    network = Generator(**SIZE, mtm="8", mtm_sees=sees)
    inner = network.mtm_layers()[8].mtm.module
    torch.nn.init.normal_(inner.weight)
    x, w = torch.randn(1, 8, 8, 8), torch.randn(1, 8)
    with offsets_disabled(network):
        assert not network.mtm_layers()[8].mtm(x, w)[0].any()
    with offsets_scaled(network, 0.5):
        half = network.mtm_layers()[8].mtm(x, w)[0]
    torch.testing.assert_close(half * 2, network.mtm_layers()[8].mtm(x, w)[0])


def test_what_a_module_does_not_see_has_no_gradient():
    network = Generator(**SIZE, mtm="8", mtm_sees="x")
    inner = network.mtm_layers()[8].mtm.module
    torch.nn.init.normal_(inner.weight)
    network(torch.randn(2, 8)).square().sum().backward()
    assert inner.affine_weight.grad is None
    assert inner.affine_bias.grad.abs().sum() > 0


def test_an_unknown_control_is_refused():
    with pytest.raises(ValueError, match="sees must be one of xw, x, w; got 'y'"):
        make_module(4, 8, 6, "offset", "y")


def test_bounded_offsets_stay_within_the_bound_and_are_the_modules_near_zero():
    torch.manual_seed(0)
    free, bound = (Generator(**SIZE, mtm="8", mtm_bound_px=px).mtm_layers()[8].mtm for px in (0, 2.0))
    bound.module.load_state_dict(free.state_dict())
    x, w = torch.randn(1, 8, 8, 8), torch.randn(1, 8)
    for size, near in ((1e-3, True), (100.0, False)):
        for module in (free, bound.module):
            torch.nn.init.constant_(module.weight, size)
        offset, wanted = bound(x, w)[0], free(x, w)[0]
        assert offset.abs().max() <= 2
        assert torch.allclose(offset, wanted, atol=1e-4) == near
    with offsets_disabled(bound):
        assert not bound(x, w)[0].any()


def test_the_modules_learning_rate_is_relative_to_the_others(data, tmp_path):
    moved = {}
    for rate in (1.0, 0.1):
        train.train(
            tmp_path / str(rate), data, **(TINY | {"mtm": "8", "mtm_lr": rate, "kimg": 0.004, "pl_weight": 0.0})
        )
        state = torch.load(tmp_path / str(rate) / "snapshot.pt", weights_only=True)["G"]
        moved[rate] = state["synthesis.convs.1.mtm.weight"].abs().max()
        others = state["synthesis.convs.1.weight"]
    assert moved[1.0] > 0
    torch.testing.assert_close(moved[0.1] * 10, moved[1.0])  # the length of Adam's first step is the learning rate
    plain = torch.load(tmp_path / "1.0" / "snapshot.pt", weights_only=True)["G"]["synthesis.convs.1.weight"]
    assert torch.equal(others, plain)


def test_a_wider_generator_leaves_the_discriminator_as_it_is():
    narrow = Options("", 16, channels=4, latent=8)
    wide = Options("", 16, channels=4, latent=8, g_channels=5)
    widths = [build_generator(o).synthesis.convs[-1].weight.shape[0] for o in (narrow, wide)]
    assert widths == [4, 5]
    images = type("Images", (), {"resolution": 16})()
    from experiments.mini.trainer import Trainer

    counts = [sum(p.numel() for p in Trainer(o, images).D.parameters()) for o in (narrow, wide)]
    assert counts[0] == counts[1]


def test_without_noise_an_image_follows_from_its_latent_and_the_rest_begins_alike():
    networks = []
    for noise in (True, False):
        torch.manual_seed(0)
        networks.append(Generator(**SIZE, mtm="none", noise=noise))
    noisy, quiet = networks
    expected = {name: value for name, value in noisy.state_dict().items() if "noise" not in name}
    assert quiet.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in quiet.state_dict().items())
    for conv in noisy.synthesis.convs[:2]:
        conv.noise_strength.data.fill_(1.0)
    z = torch.randn(2, 8)
    assert not torch.equal(noisy(z), noisy(z))
    assert torch.equal(quiet(z), quiet(z))


def test_the_wider_network_of_the_study_has_the_parameters_of_the_mtm_within_one_percent():
    counts = [
        sum(p.numel() for p in Generator(resolution=32, channels=c, mtm=mtm).parameters())
        for c, mtm in ((17, "none"), (16, "low"))
    ]
    assert abs(counts[0] / counts[1] - 1) < 0.01


def test_a_late_start_is_the_plain_run_until_then_and_another_one_after(data, tmp_path):
    late = {"mtm": "8", "mtm_start_kimg": 0.024}
    for name, options in (("plain", {}), ("late", late)):
        train.train(tmp_path / name, data, **(TINY | options | {"keep_kimg": "0.016,0.024,0.04"}))

    def generator(name: str, kimg: float) -> dict[str, torch.Tensor]:
        return torch.load(tmp_path / name / KEPT.format(kimg=kimg), weights_only=True)["generator"]

    for kimg in (0.016, 0.024):
        plain, both = generator("plain", kimg), generator("late", kimg)
        assert all(torch.equal(both[key], value) for key, value in plain.items())
        assert not any(value.any() for key, value in both.items() if key.endswith(("mtm.weight", "mtm.bias")))
    after = generator("late", 0.04)
    assert after["synthesis.convs.1.mtm.weight"].any()
    assert not all(torch.equal(after[key], value) for key, value in generator("plain", 0.04).items())


def test_a_late_start_resumes_to_the_bit(data, tmp_path):
    late = TINY | {"mtm": "8", "mtm_start_kimg": 0.024}
    train.train(tmp_path / "whole", data, **late)
    train.train(tmp_path / "parts", data, **(late | {"kimg": 0.032}))
    content = (tmp_path / "parts" / "training_options.json").read_text().replace('"kimg": 0.032', '"kimg": 0.048')
    (tmp_path / "parts" / "training_options.json").write_text(content)
    train.train(tmp_path / "parts", data, **late)
    whole, parts = (torch.load(tmp_path / n / "final.pt", weights_only=True)["generator"] for n in ("whole", "parts"))
    assert all(torch.equal(parts[key], value) for key, value in whole.items())


@pytest.mark.parametrize(("sees", "bound_px"), [*[(sees, 0.0) for sees in SEES], ("w", 2.0)])
def test_a_snapshot_of_a_control_is_opened_with_its_layers(data, tmp_path, sees, bound_px):
    control = {"mtm_sees": sees, "mtm_bound_px": bound_px}
    train.train(tmp_path / sees, data, **(TINY | {"mtm": "8", "keep_kimg": "0.016"} | control))
    for name in ("final.pt", KEPT.format(kimg=0.016)):
        with open_snapshot(tmp_path / sees / name) as snapshot:
            assert [layer.resolution for layer in snapshot.facts.layers] == [8]
            assert snapshot.facts.mtm_parameters > 0
            assert snapshot.offsets(torch.randn(1, 8))[1][snapshot.facts.layers[0]].any()


def test_a_run_of_before_these_options_resumes(data, tmp_path):
    train.train(tmp_path / "old", data, **TINY)
    stored = tmp_path / "old" / "training_options.json"
    kept = [line for line in stored.read_text().splitlines() if "keep_kimg" not in line and "mtm_sees" not in line]
    stored.write_text("\n".join(kept).replace(",\n}", "\n}"))
    train.train(tmp_path / "old", data, **TINY)


def test_a_list_of_kimg_that_is_none_is_refused_before_the_run_begins(data, tmp_path):
    words = ["--outdir", str(tmp_path / "bad"), "--data", str(data), "--keep-kimg", "10;20"]
    done = CliRunner().invoke(train.main, words)
    assert done.exit_code == 1
    assert "keep_kimg must be kimg such as 10,20; got '10;20'" in done.output
    assert not (tmp_path / "bad").exists()
