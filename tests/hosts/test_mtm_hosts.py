"""What the inserted lines call, alone: no official checkout is needed."""

import subprocess
import sys
import types

import click
import numpy as np
import pytest
import torch
from torch import nn

from mtm_hosts import compat, cpu, launch, metrics, mtm
from mtm_hosts.layers import attach
from mtm_ops import ModulatedTransformation, modulated_deform_conv2d
from mtm_ops.module import HEADS, _sampled_conv2d


def test_the_hosts_package_imports_no_op():
    code = "import sys, mtm_hosts.compat, mtm_hosts.cpu, mtm_hosts.launch, mtm_hosts.mtm, mtm_hosts.metrics\n"
    code += "assert 'mtm_ops' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_heads_are_the_modules_heads():
    assert set(mtm.HEADS) == set(HEADS)


def test_stand_ins_read_versions_and_booleans():
    import pkg_resources

    assert pkg_resources.parse_version("1.10") > pkg_resources.parse_version("1.9")
    assert (compat.strtobool("Yes"), compat.strtobool("0")) == (True, False)
    with pytest.raises(ValueError, match="got 'maybe'"):
        compat.strtobool("maybe")


@pytest.mark.parametrize("new_scipy", [False, True])
def test_sqrtm_answers_disp_under_old_and_new_scipy(monkeypatch, new_scipy):
    import scipy.linalg

    real = scipy.linalg.sqrtm
    if new_scipy:
        monkeypatch.setattr(scipy.linalg, "sqrtm", lambda A: real(A))
    a = np.diag([4.0, 9.0])
    root, error = compat.scipy.linalg.sqrtm(a, disp=False)
    np.testing.assert_allclose(root, np.diag([2, 3]))
    assert error < 1e-12


def test_cpu_takes_the_place_of_a_missing_gpu_only(monkeypatch):
    gpu = torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (cpu.device(gpu), cpu.device(None)) == (torch.device("cpu"), None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert cpu.device(gpu) == gpu


def test_events_measure_milliseconds():
    start, end = cpu.Event(enable_timing=True), cpu.Event()
    start.time_s, end.time_s = 1.0, 1.25
    assert start.elapsed_time(end) == 250


def test_torchrun_gives_each_process_its_local_gpu(monkeypatch):
    gpu = torch.device("cuda", 5)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    assert launch.device(gpu) == gpu
    assert not launch.under_torchrun()
    for name, value in {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "h"}.items():
        monkeypatch.setenv(name, value)
    assert launch.device(gpu) == torch.device("cuda", 1)
    assert launch.device(torch.device("cpu")) == torch.device("cpu")
    with pytest.raises(click.ClickException, match=r"that torchrun starts, 8; got 4\. Pass --gpus=8"):
        launch.train(lambda: None, types.SimpleNamespace(num_gpus=4))


def test_detectors_of_ones_own_are_found_by_name_and_hashed(monkeypatch, tmp_path):
    import pickle

    url, device, cache = "https://example.org/a/net-1.0.pkl", torch.device("cpu"), {}
    metrics.provide(cache, url, device)
    assert (cache, metrics.cache_facts(url)) == ({}, {})
    (tmp_path / "net-1.0.pkl").write_bytes(pickle.dumps(nn.Identity()))
    monkeypatch.setenv("MTM_DETECTORS", str(tmp_path))
    metrics.provide(cache, url, device)
    assert isinstance(cache[url, device], nn.Identity)
    assert len(metrics.cache_facts(url)["detector_sha256"]) == 64
    assert metrics.cache_facts("https://example.org/other.pkl") == {}


class Layer(nn.Module):
    def __init__(self, resolution):
        super().__init__()
        self.in_channels, self.w_dim, self.padding, self.resolution = 4, 3, 1, resolution
        self.weight = nn.Parameter(torch.randn(4, 4, 3, 3))


class Network(nn.Module):
    block_resolutions = (4, 8, 16)

    def __init__(self, spec=None, head="offset"):
        super().__init__()
        for r in self.block_resolutions:
            block = nn.Module()
            block.conv1 = Layer(r)
            setattr(self, f"b{r}", block)
        attach(self, spec, head)
        self.last = nn.Parameter(torch.randn(2))


def test_attach_leaves_the_random_stream_and_its_seed_alone():
    networks = []
    for spec in (None, "low"):
        torch.manual_seed(11)
        networks.append(Network(spec))
        assert torch.initial_seed() == 11
    plain, bent = (dict(n.named_parameters()) for n in networks)
    assert all(torch.equal(p, bent[n]) for n, p in plain.items())
    a, b = networks[1].b8.conv1.mtm.affine_weight, networks[1].b16.conv1.mtm.affine_weight
    assert not torch.equal(a, b)
    torch.manual_seed(12)
    assert not torch.equal(Network("8").b8.conv1.mtm.affine_weight, a)


def test_attach_names_what_a_network_has():
    with pytest.raises(ValueError, match=r"resolutions of this network, 4, 8, 16; got 32 .* --mtm 8,16"):
        Network("low,mid")
    with pytest.raises(TypeError, match="block_resolutions or StyleGAN3's layer_names; got Identity"):
        attach(nn.Identity(), "low")


def bent_case(k, head, dtype=torch.float32, padding=None):
    generator = torch.Generator().manual_seed(k)
    module = ModulatedTransformation(5, 3, k, head, padding=padding)
    for p in module.parameters():
        p.data += torch.randn(p.shape, generator=generator)
    x, w = torch.randn(2, 5, 6, 7, generator=generator).to(dtype), torch.randn(2, 3, generator=generator)
    return module, x, w, torch.randn(4, 5, k, k, generator=generator), torch.randn(2, 5, generator=generator)


@pytest.mark.parametrize("head", list(HEADS))
@pytest.mark.parametrize(("k", "padding"), [(1, 0), (3, 1), (3, 2)])
@pytest.mark.parametrize("demodulate", [True, False])
def test_what_a_snapshot_does_without_the_op_equals_the_op(k, padding, head, demodulate):
    module, x, w, weight, style = bent_case(k, head, padding=padding)
    offset, mask = module(x, w)
    offset.data[0, 0, 0, :3] = torch.tensor([torch.nan, torch.inf, 1e30])
    how = {"mask": mask, "padding": padding, "demodulate": demodulate}
    ours = _sampled_conv2d(x, weight, offset, style, **how)
    theirs = modulated_deform_conv2d(x, weight, offset, style, impl="reference", **how)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_at_takes_the_keywords_of_both_hosts():
    module, x, w, weight, style = bent_case(3, "offset", padding=2)
    gain = torch.tensor(0.5)
    y = module.at(w)(x=x, w=weight, s=style, padding=2, demodulate=True, input_gain=gain)
    offset, mask = module(x * gain, w)
    want = modulated_deform_conv2d(x * gain, weight, offset, style, mask=mask, padding=2)
    torch.testing.assert_close(y, want, rtol=1e-4, atol=1e-5)
    per_channel = module.at(w)(x=x, w=weight, s=style, padding=2, input_gain=gain.expand(5))
    torch.testing.assert_close(per_channel, y)
    noise = torch.randn(2, 1, 8, 9)
    noisy = module.at(w)(x=x, weight=weight, styles=style, padding=2, noise=noise, input_gain=gain, fused_modconv=True)
    torch.testing.assert_close(noisy, y + noise)


def test_at_refuses_another_padding_and_resampling():
    module, x, w, weight, style = bent_case(3, "offset")
    with pytest.raises(ValueError, match="must have padding 1 and not resample; got padding=0, up=1"):
        module.at(w)(x=x, weight=weight, styles=style)
    with pytest.raises(ValueError, match="padding=1, up=2"):
        module.at(w)(x=x, weight=weight, styles=style, padding=1, up=2)


def test_a_half_layer_survives_weights_and_styles_that_overflow_a_half():
    module, x, w, weight, style = bent_case(3, "offset", torch.float16)
    big = module.at(w)(x=x, weight=weight * 1e5, styles=style * 1e5, padding=1)
    assert big.dtype == torch.float16
    torch.testing.assert_close(big, module.at(w)(x=x, weight=weight, styles=style, padding=1), rtol=2e-3, atol=2e-3)


def test_the_modules_file_needs_no_package_around_it():
    from pathlib import Path

    import mtm_ops.module as file

    alone: dict = {"__name__": "alone"}
    exec(Path(file.__file__).read_text(), alone)
    assert alone["ModulatedTransformation"](4, 3).taps == 9
