"""experiments.snapshots opens pickles of stylegan3 with patched and unpatched checkouts."""

import pytest
import torch
from click.testing import CliRunner

from experiments.files import UserError
from experiments.images import offset_fields
from experiments.snapshots import HostSnapshot, host_of, open_snapshot
from tools.images import main


@pytest.fixture(scope="module", params=[("stylegan2", "offset+mask"), ("stylegan3-t", "offset")], ids=lambda p: p[0])
def written(request, stylegan3, tmp_path_factory):
    """A snapshot's path, its kind, and what its network drew originally."""
    kind, head = request.param
    path = tmp_path_factory.mktemp("snapshot") / "network-snapshot-000001.pkl"
    return path, kind, stylegan3["patched"].probe("snapshot", path=str(path), kind=kind, head=head)["image"]


def latents() -> torch.Tensor:
    """Only the first of the probe's latents, because stylegan3's layers are slow on a CPU."""
    return torch.randn([2, 16], generator=torch.Generator().manual_seed(1))[:1]


@pytest.fixture(scope="module")
def opened(stylegan3, written):
    """The snapshot, opened with the patched checkout."""
    with open_snapshot(written[0], "cpu", vendor=stylegan3["patched"].folder.parent) as snapshot:
        yield snapshot


def assert_draws(snapshot, image):
    images = snapshot.generate(latents())
    expected = (image[:1] * 127.5 + 128).clamp(0, 255).to(torch.uint8)
    assert (images.int() - expected.int()).abs().max() <= 1  # the number of threads changes rounding
    assert not torch.equal(snapshot.generate(latents(), strength=0.0), images)


def test_a_pickle_draws_what_it_drew_in_its_training(opened, written):
    assert isinstance(opened, HostSnapshot)
    assert_draws(opened, written[2])


def test_an_unpatched_checkout_does_too_in_a_process_that_ends(stylegan3, written):
    path, _, image = written
    with open_snapshot(path, "cpu", vendor=stylegan3["pristine"].folder.parent) as snapshot:
        assert_draws(snapshot, image)
    assert snapshot._process.exitcode == 0


def test_facts_and_offsets_of_the_deformable_layers(opened, written):
    facts, kind = opened.facts, written[1]
    assert (facts.trainer, facts.z_dim, facts.c_dim, facts.resolution) == ("stylegan3", 16, 0, 32)
    assert 0 < facts.mtm_parameters < facts.parameters
    images, offsets = opened.offsets(latents())
    assert tuple(offsets) == facts.layers
    assert [layer.resolution for layer in facts.layers] == ([8, 16] if kind == "stylegan2" else [16, 32])
    for layer, field in offsets.items():
        assert field.shape[:3] == (1, 9, 2)
        assert min(field.shape[3:]) >= layer.resolution  # StyleGAN3's layers have margins
    assert offset_fields(images, offsets).axes


def test_the_global_stream_moves_on_as_if_the_network_were_here(opened, written):
    torch.manual_seed(4)
    before = torch.get_rng_state()
    opened.generate(latents())
    assert torch.equal(torch.get_rng_state(), before)
    opened.generate(latents(), noise=True)
    assert torch.equal(torch.get_rng_state(), before) == (written[1] != "stylegan2")  # StyleGAN3 draws no noise


def test_the_tool_draws_a_hosts_images(written, tmp_path):
    path, kind, _ = written
    if kind != "stylegan2":
        pytest.skip("the tool does the same for both, and this one is slow")
    done = CliRunner().invoke(main, [str(path), "--outdir", str(tmp_path), "--count=4"])
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines()[0] == f"{path}: stylegan3, 32 px, deformable layers: b8.conv1, b16.conv1"
    assert "only open files that you trust" in done.stderr
    off, on = ((tmp_path / f"strength-{strength}.png").read_bytes() for strength in ("0.0", "1.5"))
    assert len(list(tmp_path.iterdir())) == 10
    assert off != on


def test_a_process_that_ends_is_reported_with_the_file(opened):
    """Must be the last test of each kind that uses the open snapshot."""
    opened._process.kill()
    with pytest.raises(UserError, match=r"network-snapshot-000001\.pkl: the process that ran stylegan3's .* \(exit -9"):
        opened.generate(latents())


def test_a_pickle_that_its_host_cannot_open_is_one_line(stylegan3, tmp_path):
    path = tmp_path / "no-networks.pkl"
    path.write_bytes(b"\x80\x04}\x94.")  # an empty dictionary
    done = CliRunner().invoke(main, [str(path), "--outdir", str(tmp_path / "out"), "--host", "stylegan3"])
    assert done.exit_code == 1
    assert f"{path}: stylegan3's loader cannot open it (KeyError: 'G')" in done.stderr.splitlines()[-1]


def test_the_host_is_told_by_the_source_in_the_pickle(written, tmp_path):
    path, _, _ = written
    assert host_of(path) == "stylegan3"
    for name, mark in (("eg3d", b"class TriPlaneGenerator("), ("stylesv", b"class SynthesisNetwork3v(")):
        (tmp_path / name).write_bytes(path.read_bytes() + mark)
        assert host_of(tmp_path / name) == name
