"""The compact generator: where the MTM sits, and StyleGAN2's arithmetic around it."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from experiments.mini import loss, networks
from experiments.mini.networks import Discriminator, Generator


def make_generator(mtm: str, head: str = "offset", resolution: int = 16) -> Generator:
    torch.manual_seed(3)
    return Generator(8, 12, resolution, 4, mtm, head)


@pytest.mark.parametrize("head", ["offset", "offset+mask"])
def test_every_parameter_outside_the_mtm_has_the_same_bits_with_and_without_it(head: str) -> None:
    plain, deformed = make_generator("none").state_dict(), make_generator("low", head).state_dict()
    extra = {name for name in deformed if ".mtm." in name}
    assert extra
    assert set(deformed) - extra == set(plain)
    assert all(torch.equal(plain[name], deformed[name]) for name in plain)


@pytest.mark.parametrize("head", ["offset", "offset+mask"])
def test_an_untrained_mtm_changes_no_image(head: str) -> None:
    plain, deformed, z = make_generator("none"), make_generator("low", head), torch.randn(3, 8)
    torch.testing.assert_close(deformed(z, noise=False), plain(z, noise=False), rtol=1e-4, atol=1e-5)


def test_trained_offsets_change_the_image_and_offsets_disabled_undoes_that() -> None:
    from mtm_ops import offsets_disabled

    plain, deformed, z = make_generator("none"), make_generator("low"), torch.randn(2, 8)
    for layer in deformed.mtm_layers().values():
        torch.nn.init.normal_(layer.mtm.get_parameter("bias"))
    assert (deformed(z, noise=False) - plain(z, noise=False)).abs().max() > 0.01
    with offsets_disabled(deformed):
        torch.testing.assert_close(deformed(z, noise=False), plain(z, noise=False), rtol=1e-4, atol=1e-5)


def test_low_deforms_the_non_upsampling_convolutions_at_8_and_16_px() -> None:
    generator = make_generator("low", resolution=32)
    assert list(generator.mtm_layers()) == [8, 16]
    assert not any(layer.up for layer in generator.mtm_layers().values())
    assert all(layer.mtm is None for layer in generator.synthesis.ups)


def test_mtm_none_does_not_import_mtm_ops() -> None:
    code = (
        "import sys, torch; from experiments.mini.networks import Generator;"
        "Generator(8, 8, 16, 4, 'none')(torch.randn(1, 8)); sys.exit('mtm_ops' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_mtm_at_a_resolution_that_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"mtm must name resolutions of this generator, \[4, 8, 16\]; got \[64\]"):
        make_generator("64")


@pytest.mark.parametrize("make", [lambda: Generator(resolution=24), lambda: Discriminator(4)])
def test_a_resolution_that_is_no_power_of_two_from_8_is_refused(make) -> None:
    with pytest.raises(ValueError, match="power of two from 8 up; got"):
        make()


@pytest.mark.parametrize("up", [False, True])
def test_a_styled_layer_equals_convolving_each_sample_with_its_own_normalised_weight(up: bool) -> None:
    layer, x, w = networks.StyledConv(5, 4, 6, up=up), torch.randn(3, 5, 8, 8), torch.randn(3, 6)
    torch.nn.init.normal_(layer.bias)
    y = layer(x, w, noise=False)
    for sample, style, result in zip(x, layer.affine(w), y, strict=True):
        own = layer.weight * style[None, :, None, None]
        own = own / own.square().sum(dim=(1, 2, 3), keepdim=True).sqrt()
        convolved = F.conv2d(sample[None], own, padding=1)
        convolved = networks.upsample2x(convolved) if up else convolved
        expected = F.leaky_relu(convolved * networks.GAIN + layer.bias, networks.LEAK)[0]
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)


def test_rgb_equals_a_modulated_1x1_convolution() -> None:
    layer, x, w = networks.ToRGB(5, 6), torch.randn(3, 5, 8, 7), torch.randn(3, 6)
    torch.nn.init.normal_(layer.bias)
    expected = F.conv2d(x * layer.affine(w)[:, :, None, None], layer.weight * layer.gain) + layer.bias
    torch.testing.assert_close(layer(x, w), expected, rtol=1e-4, atol=1e-5)


def test_activations_keep_the_scale_of_features_through_both_networks() -> None:
    torch.manual_seed(0)
    generator, discriminator, stds = Generator(64, 64, 32, 16, "none"), Discriminator(32, 16), {}
    layers = [*generator.synthesis.ups, *generator.synthesis.convs, *generator.mapping.layers, *discriminator.blocks]
    for layer in layers:
        layer.register_forward_hook(lambda module, _, y: stds.update({module: y.square().mean().sqrt().item()}))
    discriminator(generator(torch.randn(16, 64)).clamp(-1, 1))
    assert len(stds) == len(layers)
    assert all(0.4 < stds[layer] < 1.6 for layer in layers), list(stds.values())


def test_two_batches_in_one_pass_have_the_logits_of_each_alone() -> None:
    discriminator = Discriminator(16, 4)
    real, fake = torch.randn(6, 3, 16, 16), 2 * torch.randn(6, 3, 16, 16)
    together = discriminator(real, fake)
    for batch, logits in zip((real, fake), together, strict=True):
        torch.testing.assert_close(logits, discriminator(batch)[0])


def test_truncation_draws_latents_to_the_tracked_mean() -> None:
    generator = make_generator("none")
    generator.mapping.w_avg.normal_()
    z = torch.randn(2, 8)
    assert torch.equal(generator.map(z, truncation=0.0)[:, 0], generator.mapping.w_avg.expand(2, -1))
    half = generator.map(z, truncation=0.5)[:, 0]
    torch.testing.assert_close(half, (generator.map(z)[:, 0] + generator.mapping.w_avg) / 2)


def test_the_latent_of_a_layer_reaches_the_image() -> None:
    generator = make_generator("none")
    ws = generator.map(torch.randn(1, 8)).clone()
    before = generator.synthesis(ws, noise=False)
    for layer in range(generator.num_latents):
        changed = ws.clone()
        changed[:, layer] += 1
        assert not torch.equal(generator.synthesis(changed, noise=False), before)


def test_only_layers_below_the_full_resolution_have_noise() -> None:
    synthesis = make_generator("none").synthesis
    assert [layer.noise_strength is not None for layer in synthesis.convs] == [True, True, False]
    assert [layer.noise_strength is not None for layer in synthesis.ups] == [True, False]


def test_minibatch_stddev_tells_a_collapsed_batch() -> None:
    varied, collapsed = torch.randn(8, 3, 4, 4), torch.randn(1, 3, 4, 4).repeat(8, 1, 1, 1)
    assert networks.minibatch_stddev(varied)[:, 3].min() > 0.5
    assert networks.minibatch_stddev(collapsed)[:, 3].max() < 1e-3
    assert Discriminator(8, 4)(torch.randn(3, 3, 8, 8))[0].shape == (3,)  # also if groups of four do not fit


def test_r1_is_the_squared_gradient_norm() -> None:
    slope = torch.randn(3, 8, 8)
    penalty = loss.r1_penalty(lambda x: ((x * slope).sum(dim=(1, 2, 3)),), torch.randn(2, 3, 8, 8))
    torch.testing.assert_close(penalty, slope.square().sum())


def test_losses_are_logistic() -> None:
    real, fake = torch.tensor([2.0]), torch.tensor([-1.0])
    assert loss.discriminator_loss(real, fake).item() == pytest.approx(0.12693 + 0.31326, abs=1e-4)
    assert loss.generator_loss(fake).item() == pytest.approx(1.31326, abs=1e-4)


def test_style_mixing_changes_latents_from_one_layer_on() -> None:
    generator, z = make_generator("none"), torch.randn(2, 8)
    torch.manual_seed(0)
    ws = loss.mix_styles(generator, z, probability=1.0)
    own = generator.mapping(z)
    same = [torch.equal(ws[:, i], own) for i in range(generator.num_latents)]
    assert same[0]
    assert not same[-1]
    assert same == sorted(same, reverse=True)
    assert torch.equal(loss.mix_styles(generator, z, probability=0.0), own[:, None].expand_as(ws))


@pytest.mark.parametrize("head", ["offset", "offset+mask"])
def test_path_length_gradient_through_the_mtm_matches_finite_differences(head: str) -> None:
    generator = make_generator("8", head).double()
    mtm = generator.mtm_layers()[8].mtm
    for parameter in mtm.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ws = generator.map(torch.randn(2, 8).double()).detach().requires_grad_(True)

    def lengths() -> torch.Tensor:
        torch.manual_seed(1)  # for the same noise and the same direction in image space
        return loss.path_lengths(generator, ws).sum()

    for parameter in (mtm.get_parameter("weight"), mtm.get_parameter("bias"), mtm.get_parameter("affine_weight")):
        direction = torch.randn_like(parameter)
        direction /= direction.norm()
        (gradient,) = torch.autograd.grad(lengths(), parameter)
        step = 1e-6
        with torch.no_grad():
            parameter += step * direction
            above = lengths_without_graph(lengths)
            parameter -= 2 * step * direction
            below = lengths_without_graph(lengths)
            parameter += step * direction
        expected = (above - below) / (2 * step)
        assert abs(expected) > 1e-5
        assert (gradient * direction).sum().item() == pytest.approx(expected, rel=1e-4)


def lengths_without_graph(lengths) -> float:
    with torch.enable_grad():
        return lengths().item()


def test_path_penalty_is_the_squared_distance_from_an_average_that_becomes_a_running_one() -> None:
    mean = torch.zeros([])
    assert loss.path_penalty(torch.tensor([1.0, 3.0]), mean, calls_before=0).item() == pytest.approx(1.0)
    assert mean.item() == 2.0
    assert loss.path_penalty(torch.tensor([4.0, 4.0]), mean, calls_before=1).item() == pytest.approx(1.0)
    assert mean.item() == 3.0
    loss.path_penalty(torch.tensor([4.0, 4.0]), mean, calls_before=10_000)
    assert mean.item() == pytest.approx(3.01)
