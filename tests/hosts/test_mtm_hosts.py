"""The functions that our inserted lines call, tested alone, without an official checkout."""

import contextlib
import functools
import hashlib
import inspect
import io
import os
import pickle
import re
import sys
import types
import zipfile
from pathlib import Path

import forked
import numpy as np
import pytest
import torch
from torch import nn

from mtm_hosts import compat, hosts, launch, metrics, mtm, resume, snapshots
from mtm_hosts.layers import attach, described
from mtm_ops import ModulatedTransformation, modulated_deform_conv2d
from mtm_ops.module import HEADS, _sampled_conv2d

ROOT = Path(__file__).resolve().parents[2]


def child(code: str, **env: str) -> str:
    """What a separate process prints. Some of these modules change torch on import."""
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", **env}
    done = forked.run("-c", code, cwd=ROOT, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_hosts_package_imports_no_op():
    names = ("compat", "cpu", "launch", "mtm", "metrics", "resume", "video")
    child("".join(f"import mtm_hosts.{name}\n" for name in names) + "import sys; assert 'mtm_ops' not in sys.modules")


def test_heads_are_the_modules_heads():
    assert set(mtm.HEADS) == set(HEADS)


def test_stand_ins_read_versions_and_booleans():
    import pkg_resources

    assert pkg_resources.parse_version("1.10") > pkg_resources.parse_version("1.9")
    assert pkg_resources.parse_version(torch.__version__) >= pkg_resources.parse_version("1.11.0a")
    assert (compat.strtobool("Yes"), compat.strtobool("0")) == (True, False)
    with pytest.raises(ValueError, match="got 'maybe'"):
        compat.strtobool("maybe")


@pytest.mark.parametrize("name", ["pkg_resources", "distutils"])
def test_another_packages_stub_without_a_spec_is_left_alone(name):
    code = f"import sys, types; stub = sys.modules[{name!r}] = types.ModuleType({name!r}); stub.__spec__ = None\n"
    code += f"from mtm_hosts import compat; compat.provide_{name}(); assert sys.modules[{name!r}] is stub"
    child(code)


@pytest.mark.parametrize("new_scipy", [False, True])
def test_sqrtm_answers_disp_under_old_and_new_scipy(new_scipy):
    import scipy.linalg

    real = inspect.unwrap(scipy.linalg.sqrtm)
    a = np.diag([4.0, 9.0])
    root, error = compat._sqrtm_of((lambda A: real(A)) if new_scipy else real)(a, disp=False)
    np.testing.assert_allclose(root, np.diag([2, 3]))
    assert error < 1e-12


def test_samplers_take_the_data_and_adam_takes_an_integer_beta():
    torch.utils.data.Sampler([1, 2])
    p = nn.Parameter(torch.zeros(1))
    for betas in ([0, 0.99], (0.0, 0.99)):
        assert torch.optim.Adam([p], betas=betas).param_groups[0]["betas"] == (0.0, 0.99)
    with pytest.raises(ValueError, match="beta"):
        torch.optim.Adam([p], betas=[1, 0.99])


def test_without_a_gpu_the_hosts_cuda_is_the_cpu_and_torchs_own_is_not_touched():
    said = child(
        "import copy, pickle, torch, mtm_hosts.cpu, mtm_hosts.device\n"
        "gpu = torch.device('cuda', 3)\n"
        "print(gpu, torch.device('meta'), isinstance(gpu, torch.device), issubclass(type(gpu), torch.device))\n"
        "print(pickle.loads(pickle.dumps(gpu)), copy.deepcopy(gpu), b'mtm_hosts' in pickle.dumps(gpu))\n"
        "print(eval('torch.device(\"cuda\")', {'torch': torch, '__name__': 'torch.something'}))\n"
        "start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event()\n"
        "start.time_s, end.time_s = 1.0, 1.25\n"
        "print(start.elapsed_time(end), torch.zeros(2, device=gpu).pin_memory().device)\n"
    )
    assert said.split("\n")[:4] == ["cpu meta True True", "cpu cpu False", "cuda", "250.0 cpu"]


def test_torch_still_writes_devices_into_the_code_of_graphs():
    """torch.export and torch.compile run such code."""
    child(
        "import torch, torch.fx, mtm_hosts.cpu\n"
        "graph = torch.fx.Graph()\n"
        "graph.output(graph.call_function(torch.zeros, (2,), {'device': torch.device('cpu')}))\n"
        "assert torch.fx.GraphModule(torch.nn.Module(), graph)().shape == (2,)"
    )


def test_with_a_gpu_nothing_is_replaced():
    child(
        "import torch; torch.cuda.is_available = lambda: True; before = torch.device, torch.cuda.Event\n"
        "import mtm_hosts.cpu, mtm_hosts.launch; assert before == (torch.device, torch.cuda.Event)"
    )


RANK_5 = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "h"}


def test_torchrun_gives_each_process_its_local_gpu():
    code = "import torch; torch.cuda.is_available = lambda: True; import mtm_hosts.launch\n"
    code += "print(torch.device('cuda', 5), torch.device('cuda', 0), torch.device('cpu'))\n"
    code += "print(mtm_hosts.launch.under_torchrun())"
    assert child(code, **RANK_5) == "cuda:1 cuda:0 cpu\nTrue\n"
    assert child(code) == "cuda:5 cuda:0 cpu\nFalse\n"


def test_torchrun_with_another_number_of_gpus_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "8")
    with pytest.raises(SystemExit, match=r"that torchrun starts, 8; got 4\. Pass --gpus=8"):
        launch.train(lambda *a: None, types.SimpleNamespace(num_gpus=4))


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


@pytest.fixture
def official(tmp_path, monkeypatch):
    """The file in the `make weights` folder that holds the official pickle for an address."""
    from experiments import weights

    pickled = pickle.dumps(nn.Identity())
    facts = {"file": "inception.pkl", "url": "https://example.org/net-1.0.pkl", "title": "A net", "licence": "MIT"}
    entry = weights.Weights(name="net", sha256=hashlib.sha256(pickled).hexdigest(), **facts)
    monkeypatch.setattr(weights, "WEIGHTS", {"net": entry})
    monkeypatch.setenv("MTM_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.delenv("MTM_DETECTORS", raising=False)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / entry.file).write_bytes(pickled)
    return tmp_path / "weights" / entry.file


def test_official_detectors_come_from_the_folder_of_make_weights(official, tmp_path, monkeypatch):
    url, device, cache = "https://example.org/net-1.0.pkl", torch.device("cpu"), {}
    metrics.provide(cache, url, device)
    assert isinstance(cache[url, device], nn.Identity)
    assert metrics.cache_facts(url) == {}  # so that the host finds the statistics from its own download again
    cache = {}
    metrics.provide(cache, "https://example.org/other.pkl", device)
    assert cache == {}
    (tmp_path / "net-1.0.pkl").write_bytes(pickle.dumps(nn.ReLU()))
    monkeypatch.setenv("MTM_DETECTORS", str(tmp_path))
    metrics.provide(cache, url, device)
    assert isinstance(cache[url, device], nn.ReLU)


class Trap:
    """Makes a folder when it is unpickled."""

    def __reduce__(self):
        return (os.mkdir, (os.environ["TRAP"],))


def test_other_bytes_end_the_program_before_anything_unpickles_them(official, tmp_path, monkeypatch):
    monkeypatch.setenv("TRAP", str(tmp_path / "sprung"))
    official.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(SystemExit, match=r"net: wrong \(its sha256 must be"):
        metrics.provide({}, "https://example.org/net-1.0.pkl", torch.device("cpu"))
    assert not (tmp_path / "sprung").exists()
    pickle.loads(official.read_bytes())
    assert (tmp_path / "sprung").exists()  # the trap works


def test_stand_ins_of_that_folder_are_not_taken_for_official_detectors(official, monkeypatch):
    from experiments import weights

    official.write_bytes(pickle.dumps(nn.ReLU()))
    weights.record_stand_in("net", official.parent)
    cache = {}
    metrics.provide(cache, "https://example.org/net-1.0.pkl", torch.device("cpu"))
    assert cache == {}


def test_an_environment_without_what_experiments_needs_downloads_as_upstream_does(official, monkeypatch):
    monkeypatch.delitem(sys.modules, "experiments.weights")
    monkeypatch.delattr("experiments.weights")
    monkeypatch.setitem(sys.modules, "pydantic", None)
    cache = {}
    metrics.provide(cache, "https://example.org/net-1.0.pkl", torch.device("cpu"))
    assert cache == {}


def test_the_video_hosts_launcher_starts_train_py_with_this_python_or_another_launcher(monkeypatch):
    line = "A=b cd folder && python src/train.py hydra.run.dir=."
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    start, end = f"A=b cd folder && PYTHONPATH={ROOT}:/elsewhere ", " src/train.py hydra.run.dir=."
    assert launch.command(line) == f"{start}{sys.executable}{end}"
    spaced = launch.command(line.replace("folder", "/a folder/b=c"))
    assert spaced.startswith("A=b cd '/a folder/b=c' && PYTHONPATH=")
    assert launch.command(line.replace("python", "/old/env/bin/python")) == f"{start}{sys.executable}{end}"
    monkeypatch.setenv("MTM_LAUNCHER", "torchrun --nproc-per-node=2")
    assert launch.command(line) == f"{start}torchrun --nproc-per-node=2{end}"


def test_resume_latest_reaches_the_configuration_of_a_folder_that_is_there(monkeypatch, tmp_path):
    config = tmp_path / "experiment_config.yaml"
    written = "sampling: random\ntraining:\n  resume: null\n  how: ${sampling}\n"
    config.write_text(written)
    for words, want in (([], "null"), (["training.resume=latest"], "latest")):
        monkeypatch.setattr(sys, "argv", ["launch.py", *words])
        launch.command(f"A=b cd {tmp_path} && python src/train.py hydra.run.dir=.")
        launch.command(f"A=b cd {tmp_path}/absent && python src/train.py hydra.run.dir=.")
        assert config.read_text() == written.replace("null", want)


@pytest.mark.parametrize("code", [0, 3])
def test_the_video_hosts_launcher_ends_as_the_training_ends(code):
    with pytest.raises(SystemExit) as ended:
        launch.run(f"exit {code}")
    assert ended.value.code == code


def test_messages_name_options_as_the_video_hosts_read_them(monkeypatch):
    said = "--resume: --mtm must be low; pass --mtm 8,16 --mtm-head offset, or --gpus=2 with a --batch that it divides."
    with pytest.raises(SystemExit, match="^Error: " + said):
        hosts.fail(said)
    monkeypatch.setitem(sys.modules, "src.dnnlib", types.ModuleType("src.dnnlib"))
    # Hydra rejects mtm=8,16 as ambiguous.
    want = "training.resume: mtm must be low; pass 'mtm=[8,16]' mtm_head=offset, or num_gpus=2 with a training.batch"
    with pytest.raises(SystemExit, match="^Error: " + re.escape(want)):
        hosts.fail(said)


def test_what_is_no_network_pickle_ends_in_one_line(monkeypatch, tmp_path):
    util = types.SimpleNamespace(open_url=lambda path, verbose: io.BytesIO(Path(path).read_bytes()))
    legacy = types.SimpleNamespace(load_network_pkl=pickle.load)
    monkeypatch.setattr(snapshots, "module", {"dnnlib.util": util, "legacy": legacy}.__getitem__)
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("a.png", b"")
    torch.save({"counters": {}}, tmp_path / "training-state-000000.pt")
    (tmp_path / "other.pkl").write_bytes(pickle.dumps({"a": 1}))
    (tmp_path / "damaged.pkl").write_bytes(b"no pickle")
    for name in ("data.zip", "training-state-000000.pt", "other.pkl", "damaged.pkl"):
        with pytest.raises(SystemExit) as ended:
            snapshots.read(str(tmp_path / name))
        assert str(ended.value).startswith(f"Error: --resume: cannot read {tmp_path / name} as a network pickle: ")
        assert len(str(ended.value).splitlines()) == 1
    with pytest.raises(SystemExit, match=r"no\.pkl must be a network pickle; got no such file, seen from "):
        snapshots.read("no.pkl")
    torch.save({"G": {}}, tmp_path / "tensors.pt")
    assert snapshots.read(str(tmp_path / "tensors.pt")) == {"G": {}}


def test_layers_from_hydra_are_lists_numbers_or_words():
    given = ("low", " low ", ["low", "mid"], 8, [4, 8], "8,16", None, "None", "", "none")
    assert [mtm._spec(value) for value in given] == ["low", "low", "low,mid", "8", "4,8", "8,16", *["none"] * 4]


def check_previews():
    import types

    import torch

    from mtm_hosts import cpu

    labels, vis = torch.arange(480), types.SimpleNamespace(num_videos=36)

    def grid(data, random_seed=0):
        return (30, 16), labels, labels + random_seed

    def videos(G, z, c, ts, addition=None, motion_z=None):
        return [x if x is None else x.shape for x in (z, c, ts, addition, motion_z)]

    small, few = cpu.small_previews(grid, videos)
    assert len(small(None)[1]) == vis.num_videos
    cpu.few_previews(vis)
    size, images, other = small(None, random_seed=1)
    assert (size, len(images), vis.num_videos) == ((2, 2), 4, 1)
    assert torch.equal(images + 1, other)
    shapes = few(None, torch.zeros(36, 5), torch.zeros(36, 0), torch.zeros(36, 150), None, motion_z=torch.zeros(36, 7))
    assert shapes == [(1, 5), (1, 0), (1, 4), None, (1, 7)]
    torch.cuda.is_available = lambda: True
    cpu.few_previews(vis := types.SimpleNamespace(num_videos=36))
    assert (cpu.small_previews(grid, videos), vis.num_videos) == ((grid, videos), 36)


def test_previews_are_small_without_a_gpu_and_the_hosts_own_with_one():
    """Runs in a separate process, because the module changes torch on import."""
    child(inspect.getsource(check_previews) + "check_previews()")


def test_stylesvs_cached_statistics_are_named_by_all_that_they_depend_on(monkeypatch, tmp_path):
    url, facts = "https://example.org/net.pkl", {"dataset_kwargs": {"resolution": 128}, "max_items": 5}
    first = metrics.whole_tag("clips-net", url, **facts)
    assert first.startswith("clips-net-")
    assert metrics.whole_tag("clips-net", url, **dict(reversed(facts.items()))) == first
    others = [{**facts, "max_items": 6}, {**facts, "dataset_kwargs": {"resolution": 256}}]
    tags = {first, *(metrics.whole_tag("clips-net", url, **other) for other in others)}
    (tmp_path / "net.pkl").write_bytes(b"1")
    monkeypatch.setenv("MTM_DETECTORS", str(tmp_path))
    assert len({*tags, metrics.whole_tag("clips-net", url, **facts)}) == 4
    assert metrics.folder() == str(tmp_path)


class Layer(nn.Module):
    def __init__(self, resolution):
        super().__init__()
        self.padding, self.resolution = 1, resolution
        self.affine = nn.Linear(3, 4)  # from w to the channels of the input
        self.weight = nn.Parameter(torch.randn(4, 4, 3, 3))


class Network(nn.Module):
    block_resolutions = (4, 8, 16)

    def __init__(self, spec=None, head="offset", extra=0):
        super().__init__()
        for r in self.block_resolutions:
            block = nn.Module()
            block.conv1 = Layer(r)
            setattr(self, f"b{r}", block)
        attach(self, spec, head, extra)
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


def test_the_hosts_flag_for_weight_gradients_reaches_the_op(monkeypatch):
    seen = []

    @contextlib.contextmanager
    def flag(name, disable=True):
        seen.append((name, disable))
        yield

    gradfix = types.ModuleType("src.torch_utils.ops.conv2d_gradfix")
    gradfix.no_weight_gradients = functools.partial(flag, "theirs")
    monkeypatch.setitem(sys.modules, gradfix.__name__, gradfix)
    monkeypatch.setattr("mtm_ops.no_weight_gradients", functools.partial(flag, "ours"), raising=False)
    for _ in range(2):  # a second network must not wrap it again
        Network("low")
    with gradfix.no_weight_gradients(False), gradfix.no_weight_gradients():
        pass
    assert seen == [("theirs", False), ("ours", False), ("theirs", True), ("ours", True)]


def test_the_video_hosts_flag_takes_no_argument(monkeypatch):
    @contextlib.contextmanager
    def flag():
        yield

    gradfix = types.ModuleType("src.torch_utils.ops.conv2d_gradfix")
    gradfix.no_weight_gradients = flag
    monkeypatch.setitem(sys.modules, gradfix.__name__, gradfix)
    Network("low")
    with gradfix.no_weight_gradients():
        pass


def test_described_says_where_the_module_is():
    assert described(nn.Sequential(Network("low"))) == "resolutions 8, 16"
    assert described(Network()) == ""


def test_more_than_w_can_drive_the_offsets():
    assert Network("8", extra=2).b8.conv1.mtm.w_dim == 5


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
    import mtm_ops.module as file

    alone: dict = {"__name__": "alone"}
    exec(Path(file.__file__).read_text(), alone)
    assert alone["ModulatedTransformation"](4, 3).taps == 9


def test_mtm_kimg_sets_length_and_ticks_and_nothing_else(monkeypatch, capsys):
    options = {"resume_pkl": None, "total_kimg": 25000, "kimg_per_tick": 4}
    assert configured(options) == options
    monkeypatch.setenv("MTM_KIMG", "0.032")
    assert configured(options) == {**options, "total_kimg": 0.032, "kimg_per_tick": 0.016}
    assert "0.032 kimg, as MTM_KIMG says" in capsys.readouterr().out
    assert configured({"resume_pkl": None})["kimg_per_tick"] == 0.016  # the video hosts set it in their loop
    monkeypatch.setenv("MTM_KIMG", "100")
    assert configured(options) == {**options, "total_kimg": 100}
    for wrong in ("none", "0", "-1", "nan", "inf"):
        monkeypatch.setenv("MTM_KIMG", wrong)
        with pytest.raises(SystemExit, match=f"MTM_KIMG must be a number above 0, .* got '{wrong}'"):
            configured(options)


def configured(options):
    class Options(dict):
        __getattr__, __setattr__ = dict.__getitem__, dict.__setitem__

    c = Options(options)
    resume.configure(c)
    return c


def test_misspelt_words_are_refused(monkeypatch):
    monkeypatch.setenv("MTM_RESUME", "weight")
    with pytest.raises(SystemExit, match="MTM_RESUME must be weights, or not set; got 'weight'"):
        configured({"resume_pkl": None})
    monkeypatch.setitem(sys.modules, "src.dnnlib", types.ModuleType("src.dnnlib"))
    with pytest.raises(SystemExit, match=r"mtm_head must be offset or offset\+mask; got .mask.\. Pass"):
        mtm.configure({}, types.SimpleNamespace(mtm="none", mtm_head="mask"))


def test_what_a_resume_without_a_state_begins_with_is_said(capsys, tmp_path):
    pkl = str(tmp_path / "network-snapshot-000001.pkl")
    configured({"resume_pkl": pkl})
    assert capsys.readouterr().out == f"Resume: {pkl} as upstream does: the weights alone, from kimg 0\n"
    # StyleGAN-V's "latest" restores optimisers and counters, too.
    configured({"resume_pkl": pkl, "resume_whole_state": True})
    assert capsys.readouterr().out == f"Resume: {pkl} as upstream does: not to the bit\n"


def test_without_a_gpu_few_images_show_progress():
    """Runs in a separate process and uses the module's own size."""
    child(
        "from mtm_hosts import cpu\n"
        "asked = []\n"
        "def grid(training_set, random_seed=0):\n"
        "    asked.append((training_set, random_seed))\n"
        "    return (32, 32), list(range(1024)), list(range(1024))\n"
        "small = cpu.small_grid(grid, 3)\n"
        "assert small('data', random_seed=7) == ((3, 3), list(range(9)), list(range(9)))\n"
        "assert asked == [('data', 7)]\n"
        "import torch\n"
        "torch.cuda.is_available = lambda: True\n"
        "assert cpu.small_grid(grid, 3) is grid\n"
    )
