"""ModulatedTransformation, offsets_scaled and offsets_disabled: values, initialisation, precision and errors."""

import copy
import io
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from op_cases import assert_close
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from mtm_ops import ModulatedTransformation, modulated_deform_conv2d, offsets_disabled, offsets_scaled


def trained(head: str = "offset+mask", **given) -> ModulatedTransformation:
    """A module whose weights are all non-zero, as after some training."""
    module = ModulatedTransformation(**{"in_channels": 6, "w_dim": 4, "head": head, **given})
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=g))
    return module


def inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(2, 6, 5, 4, generator=g).to(dtype), torch.randn(2, 4, generator=g).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_at_initialisation_offsets_are_exactly_0_and_masks_exactly_1(dtype):
    x, w = inputs(dtype)
    offset, mask = ModulatedTransformation(6, 4, head="offset+mask")(x * 100, w * 100)
    assert mask is not None
    assert torch.equal(offset, torch.zeros(2, 18, 5, 4, dtype=offset.dtype))
    assert torch.equal(mask, torch.ones(2, 9, 5, 4, dtype=mask.dtype))


@pytest.mark.parametrize("impl", ["native", "reference"])
@pytest.mark.parametrize("head", ["offset", "offset+mask"])
def test_a_fresh_module_leaves_the_hosts_convolution_as_it_is(head, impl):
    x, w = inputs(torch.float64)
    weight = torch.randn(3, 6, 3, 3, dtype=torch.float64)
    offset, mask = ModulatedTransformation(6, 4, head=head)(x, w)
    y = modulated_deform_conv2d(x, weight, offset, mask=mask, padding=1, impl=impl)
    assert_close(y, F.conv2d(x, weight, padding=1), torch.float64)


def test_a_fresh_module_can_learn():
    """The weight, though zero, gets a gradient in the first step; the affine gets one once the weight has moved."""
    module = ModulatedTransformation(6, 4)
    x, w = inputs()
    modulated_deform_conv2d(x, torch.randn(3, 6, 3, 3), module(x, w)[0], padding=1).square().sum().backward()
    assert module.weight.grad is not None
    assert module.weight.grad.any()
    assert module.weight.grad.isfinite().all()
    assert module.bias.grad is not None
    assert module.bias.grad.any()
    torch.optim.SGD(module.parameters(), lr=1e-3).step()
    module.zero_grad()
    module(x, w)[0].square().sum().backward()
    assert module.affine_weight.grad is not None
    assert module.affine_weight.grad.any()


@pytest.mark.parametrize("head", ["offset", "offset+mask"])
def test_equals_modulated_convolution_with_a_weight_per_sample(head):
    """Eq. (4): the style scales the weight's input channels, one convolution per sample, without demodulation."""
    module = trained(head).double()
    x, w = inputs(torch.float64)
    offset, mask = module(x, w)
    for b in range(2):
        style = module.affine_weight @ w[b] / 4**0.5 + module.affine_bias
        weight = module.weight / (6 * 9) ** 0.5 * style[None, :, None, None]
        out = F.conv2d(x[b : b + 1], weight, module.bias, padding=1)
        assert_close(offset[b : b + 1], out[:, :18], torch.float64)
        if mask is not None:
            assert_close(mask[b : b + 1], 2 / (1 + (-out[:, 18:]).exp()), torch.float64)
    assert (mask is None) == (head == "offset")


@pytest.mark.parametrize(
    ("kernel", "padding", "size"), [(1, None, (5, 4)), (3, None, (5, 4)), (3, 0, (3, 2)), (5, 1, (3, 2))]
)
def test_output_matches_the_convolution_that_it_steers(kernel, padding, size):
    module = trained(kernel_size=kernel, padding=padding)
    x, w = inputs()
    offset, mask = module(x, w)
    assert mask is not None
    assert offset.shape == (2, 2 * kernel**2, *size)
    assert mask.shape == (2, kernel**2, *size)
    padding = kernel // 2 if padding is None else padding
    weight = torch.randn(3, 6, kernel, kernel)
    assert modulated_deform_conv2d(x, weight, offset, mask=mask, padding=padding).shape == (2, 3, *size)


@pytest.mark.parametrize("head", ["offset", "offset+mask"])
def test_construction_leaves_the_random_stream_as_it_was(head):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    ModulatedTransformation(6, 4, head=head)
    assert torch.equal(torch.get_rng_state(), before)


def test_other_parameters_are_the_same_with_and_without_the_module():
    def host(with_module: bool) -> list[Any]:
        torch.manual_seed(3)
        first = nn.Linear(3, 3)
        middle = [ModulatedTransformation(6, 4)] if with_module else []
        return [first, nn.Linear(3, 3), *middle, nn.Linear(3, 3)]

    plain, steered = host(False), host(True)
    assert torch.equal(plain[1].weight, steered[1].weight)
    assert torch.equal(plain[-1].weight, steered[-1].weight)


def test_modules_of_one_network_start_with_affines_of_their_own():
    torch.manual_seed(3)
    made = []
    for _ in range(2):
        made.append(ModulatedTransformation(6, 4).affine_weight)
        nn.Linear(3, 3)  # hosts draw random numbers between two modules
    assert not torch.equal(*made)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_parameters_are_made_on_the_default_device(device):
    before = torch.get_rng_state()
    with torch.device(device):
        module = ModulatedTransformation(6, 4, head="offset+mask")
    assert torch.equal(torch.get_rng_state(), before)
    assert {name: p.device.type for name, p in module.named_parameters()} == dict.fromkeys(
        ("affine_weight", "affine_bias", "weight", "bias"), device
    )


@pytest.mark.parametrize(("head", "outputs", "total"), [("offset", 18, 345_618), ("offset+mask", 27, 387_099)])
def test_parameter_counts_are_the_papers(head, outputs, total):
    """512 channels and a latent of 512: 0.39 M per layer in the paper's Table 4, 0.35 M for the head of its text."""
    affine = 512 * 512 + 512
    convolution = outputs * 512 * 9 + outputs
    assert affine + convolution == total
    module = ModulatedTransformation(512, 512, head=head)
    assert sum(p.numel() for p in module.parameters()) == total
    assert list(module.buffers()) == []


@pytest.mark.parametrize(
    ("dtype", "wanted"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
    ids=str,
)
@pytest.mark.parametrize("autocast", [False, True], ids=["", "autocast"])
def test_offsets_are_float32_at_least_whatever_x_is(autocast, dtype, wanted):
    module = trained()
    x, w = inputs(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        offset, mask = module(x, w)
    assert mask is not None
    assert offset.dtype == mask.dtype == wanted
    want = copy.deepcopy(module).double()(x.double(), w.double())
    assert_close(offset, want[0], torch.float32)  # computed in float32, not merely returned in it
    assert_close(mask, want[1], torch.float32)


def test_parameters_in_half_still_give_float32_offsets():
    offset, _ = trained().half()(*inputs(torch.float16))
    assert offset.dtype == torch.float32


@pytest.mark.parametrize("batch", [0, 1])
def test_small_batches(batch):
    x, w = inputs()
    offset, mask = trained()(x[:batch], w[:batch])
    assert mask is not None
    assert offset.shape == (batch, 18, 5, 4)
    assert mask.shape == (batch, 9, 5, 4)


def test_gradients_reach_x_w_and_every_parameter_to_the_second_order():
    module = trained()
    x, w = (t.requires_grad_() for t in inputs())
    offset, mask = module(x, w)
    assert mask is not None
    (g,) = torch.autograd.grad(offset.square().sum() + mask.square().sum(), w, create_graph=True)
    g.square().sum().backward()
    for name, t in {"x": x, "w": w, **dict(module.named_parameters())}.items():
        assert t.grad is not None, name
        assert t.grad.any(), name


class Network(nn.Module):
    """Two modules, one of them nested deeply."""

    def __init__(self) -> None:
        super().__init__()
        self.first = trained()
        self.rest = nn.Sequential(nn.Identity(), nn.ModuleDict({"deep": trained("offset")}))

    def heads(self) -> list[ModulatedTransformation]:
        return [m for m in self.modules() if isinstance(m, ModulatedTransformation)]

    def moves(self) -> list[bool]:
        return [bool(head(*inputs())[0].any()) for head in self.heads()]


def test_offsets_disabled_switches_every_module_off_and_on_again():
    network = Network()
    assert network.moves() == [True, True]
    with offsets_disabled(network):
        assert network.moves() == [False, False]
        assert all(head(*inputs())[1] is None for head in network.heads())
        assert network.first(*inputs())[0].shape == (2, 18, 5, 4)
    assert network.moves() == [True, True]


def test_offsets_disabled_is_plain_convolution():
    module = trained()
    x, w = inputs()
    weight = torch.randn(3, 6, 3, 3)
    with offsets_disabled(module):
        offset, mask = module(x, w)
    y = modulated_deform_conv2d(x, weight, offset, mask=mask, padding=1)
    assert_close(y, F.conv2d(x, weight, padding=1), torch.float32)


def test_offsets_disabled_nests():
    network = Network()
    with offsets_disabled(network):
        with offsets_disabled(network.first):
            assert network.moves() == [False, False]
        assert network.moves() == [False, False]
    with offsets_disabled(network.first):
        assert network.moves() == [False, True]
        with offsets_disabled(network):
            assert network.moves() == [False, False]
        assert network.moves() == [False, True]
    assert network.moves() == [True, True]


def test_offsets_disabled_restores_after_an_exception():
    network = Network()
    with pytest.raises(KeyError), offsets_disabled(network):
        raise KeyError("from the body")
    assert network.moves() == [True, True]


def test_offsets_disabled_keeps_what_was_off_before():
    network = Network()
    network.first.strength = 0.0
    with offsets_disabled(network):
        pass
    assert network.moves() == [False, True]


def test_offsets_disabled_finds_modules_whose_class_was_unpickled_from_elsewhere():
    class ModulatedTransformation(nn.Module):
        strength = 1.0

    foreign = ModulatedTransformation()
    with offsets_disabled(foreign):
        assert foreign.strength == 0
    assert foreign.strength == 1


def test_offsets_disabled_refuses_a_network_without_modules():
    with (
        pytest.raises(ValueError, match=r"offsets_scaled: module must contain .*; Linear has none\. .*--mtm none"),
        offsets_disabled(nn.Linear(2, 2)),
    ):
        raise AssertionError("the body must not run")


@pytest.mark.parametrize("factor", [0.25, 1.5, 3])
@pytest.mark.parametrize("head", ["offset", "offset+mask"])
def test_offsets_scaled_multiplies_offsets_and_moves_masks_from_1(head, factor):
    module = trained(head)
    offset, mask = module(*inputs())
    with offsets_scaled(module, factor):
        scaled, scaled_mask = module(*inputs())
    assert_close(scaled, offset * factor, torch.float32)
    if mask is None:
        assert scaled_mask is None
    else:
        assert_close(scaled_mask, (1 - factor) * torch.ones_like(mask) + factor * mask, torch.float32)


def test_offsets_scaled_by_1_changes_no_bit_and_by_0_is_exactly_off():
    module = trained()
    plain = module(*inputs())
    with offsets_scaled(module, 1):
        assert all(torch.equal(a, b) for a, b in zip(module(*inputs()), plain, strict=True))
    with torch.no_grad():
        module.bias.fill_(torch.inf)  # 0 * inf would be NaN
    with offsets_scaled(module, 0):
        offset, mask = module(*inputs())
    assert torch.equal(offset, torch.zeros_like(offset))
    assert mask is None


def test_offsets_scaled_nests_the_innermost_factor_counts():
    network = Network()

    def strengths() -> list[float]:
        return [head.strength for head in network.heads()]

    with offsets_scaled(network, 0.5):
        with offsets_scaled(network, 2), offsets_scaled(network.first, 0.25):
            assert strengths() == [0.25, 2]
        assert strengths() == [0.5, 0.5]
        with pytest.raises(KeyError), offsets_scaled(network, 3):
            raise KeyError("from the body")
        assert strengths() == [0.5, 0.5]
    assert strengths() == [1, 1]


@pytest.mark.parametrize(
    "factor", [-0.1, float("nan"), float("inf"), "1", None, 1j, 10**400], ids=lambda f: repr(f)[:9]
)
def test_offsets_scaled_refuses_other_factors(factor):
    with (
        pytest.raises(ValueError, match=r"offsets_scaled: factor must be a finite number from 0 up; got .*\. 0 turns"),
        offsets_scaled(trained(), factor),
    ):
        raise AssertionError("the body must not run")


def test_offsets_scaled_refuses_a_snapshot_whose_own_code_would_not_follow():
    class ModulatedTransformation(nn.Module):
        enabled = True

    with (
        pytest.raises(ValueError, match=r"offsets_scaled: module must .*; got a snapshot of an older version"),
        offsets_scaled(ModulatedTransformation(), 0.5),
    ):
        raise AssertionError("the body must not run")


def test_a_compiled_network_follows_the_factor_without_compiling_for_each():
    module = trained()
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(module, backend=counter, fullgraph=True)
    x, w = inputs()
    for factor in (1, 0.5, 0, *(i / 10 for i in range(16)), 0.5, 1):
        with offsets_scaled(compiled, factor):
            expected, got = module(x, w), compiled(x, w)
        assert_close(got[0], expected[0], torch.float32)
        assert (got[1] is None) == (expected[1] is None)
    assert counter.frame_count <= 4  # 0, 1, the first other factor, then one graph for all the rest


def same_outputs(a: ModulatedTransformation, b: ModulatedTransformation) -> bool:
    return all(torch.equal(s, t) for s, t in zip(a(*inputs()), b(*inputs()), strict=True))


def test_state_dict_round_trip():
    module, other = trained(), ModulatedTransformation(6, 4, head="offset+mask")
    assert set(module.state_dict()) == {"affine_weight", "affine_bias", "weight", "bias"}
    assert not same_outputs(module, other)
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert same_outputs(module, other)


def test_state_dict_of_the_other_head_is_refused():
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        trained("offset").load_state_dict(trained("offset+mask").state_dict())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_copies_are_equal_and_independent(copied):
    module = trained()
    twin = copied(module)
    assert same_outputs(module, twin)
    with torch.no_grad():
        twin.bias.add_(1)
    assert not same_outputs(module, twin)
    with offsets_disabled(twin):
        assert module(*inputs())[0].any()


def test_repr_names_what_it_is():
    assert repr(ModulatedTransformation(6, 4)) == ("ModulatedTransformation(6, w_dim=4, kernel_size=3, head='offset')")


def test_compiles_without_a_graph_break():
    module = trained()
    torch._dynamo.reset()
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    for got, want in zip(compiled(*inputs()), module(*inputs()), strict=True):
        assert_close(got, want, torch.float32)


def test_unknown_head_is_refused():
    with pytest.raises(
        ValueError, match=r"ModulatedTransformation: head must be one of offset, offset\+mask; got 'bend'"
    ):
        ModulatedTransformation(6, 4, head="bend")


@pytest.mark.parametrize(
    "given", [{"in_channels": 0}, {"w_dim": -1}, {"kernel_size": 0}, {"in_channels": "6"}], ids=str
)
def test_a_size_below_1_is_refused(given):
    ((name, value),) = given.items()
    with pytest.raises(ValueError, match=rf"{name} must be an int of at least 1; got {value!r}\."):
        ModulatedTransformation(**{"in_channels": 6, "w_dim": 4, **given})


def test_what_is_no_tensor_and_no_module_is_refused():
    x, w = torch.zeros(2, 6, 5, 4), torch.zeros(2, 4)
    with pytest.raises(TypeError, match=r"x must be a torch\.Tensor; got ndarray\."):
        trained()(x.numpy(), w)
    with pytest.raises(TypeError, match=r"w must be a torch\.Tensor; got ndarray\."):
        trained()(x, w.numpy())
    with pytest.raises(TypeError, match=r"module must be a torch\.nn\.Module; got Tensor\."), offsets_disabled(x):
        pass


@pytest.mark.parametrize("shape", [[2, 5, 5, 4], [6, 5, 4], [2, 6, 5]], ids=str)
def test_x_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"x must be \[B, 6, H, W\]; got \[" + ", ".join(map(str, shape)) + r"\]"):
        trained()(torch.zeros(shape), torch.zeros(2, 4))


@pytest.mark.parametrize("shape", [[2, 5], [3, 4], [1, 4], [4], [2, 1, 4]], ids=str)
def test_w_of_another_shape_is_refused(shape):
    got = r"\[" + ", ".join(map(str, shape)) + r"\]"
    with pytest.raises(ValueError, match=rf"w must be \[2, 4\], a latent per sample; got {got}"):
        trained()(torch.zeros(2, 6, 5, 4), torch.zeros(shape))
