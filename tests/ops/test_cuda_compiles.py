"""The CUDA build, tested without a GPU.

The slow tests need nvcc: they compile for every architecture and read the register report and the machine code (no
spills, 16-byte loads, no atomics). The others use a stand-in nvcc and check how it is called.
"""

import dataclasses
import os
import re
import shutil
from pathlib import Path

import pytest
import torch

from mtm_ops import _build
from tools import cuda_report, cuda_sass

ARCHITECTURES = ["sm_75", "sm_80", "sm_90", "sm_120"]
# Sampling: 5 kernels (gather, and two kernels for each of two orders) in 4 dtypes, for 3 teams with vectors and 2
# without. The index: one kernel for each of 2 offset dtypes. Demodulation: forward and backward in 4 dtypes.
# Transposition: 4 kernels (2 bytes one and two at a time, 4 bytes, 8 bytes).
KERNELS = 5 * 4 * 5 + 2 + 2 * 4 + 4
needs_nvcc = pytest.mark.skipif(_build.find_nvcc() is None, reason="nvcc is not installed")


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> cuda_report.Build:
    return cuda_report.compile_all(tmp_path_factory.mktemp("cuda") / "cuda.so")


@pytest.mark.slow
@needs_nvcc
def test_compiles_for_every_architecture_without_warnings(built):
    assert {k.architecture for k in built.kernels} == set(ARCHITECTURES)
    assert "warning" not in built.log.lower()
    per_architecture = len(built.kernels) // len(ARCHITECTURES)
    assert per_architecture == KERNELS


@pytest.mark.slow
@needs_nvcc
def test_no_kernel_spills(built):
    spilling = [k for k in built.kernels if k.spill_bytes or k.stack_bytes]
    assert not spilling, "\n".join(map(str, spilling))


@pytest.mark.slow
@needs_nvcc
def test_registers_leave_room_for_two_blocks_in_the_kernels_of_training(built):
    """float32 and half types: at least 16 warps per multiprocessor, so that loads overlap."""
    for k in built.kernels:
        assert k.storage == "float64" or k.registers <= 128, k


@pytest.mark.slow
@needs_nvcc
def test_vectors_are_moved_16_bytes_at_a_time_and_nothing_is_added_atomically(built):
    if cuda_sass.find_cuobjdump() is None:
        pytest.skip("cuobjdump is not installed")
    codes = {c.symbol: c for c in cuda_sass.disassemble(built.library, "sm_90")}
    assert len(codes) == KERNELS
    for symbol, code in codes.items():
        assert code.count("RED.") + code.count("ATOMG") + code.count("ATOM.") == 0, symbol
        narrow = not re.search(r"Li[248]ELi\d+E", symbol)  # matches the sampling kernels with vectors
        assert narrow or code.count("STG.E.128") > 0, symbol
        assert narrow or code.loop("LDG.E.128") is not None, symbol


def test_the_listing_of_machine_code_is_read():
    listing = """
		Function : _Z1aPf
	.headerflags	@"EF_CUDA_SM90"
        /*0000*/                   LDC R1, c[0x0][0x28] ;          /* 0x00000a00ff017b82 */
        /*0010*/                   LDG.E.128 R4, desc[UR4][R2.64] ;  /* 0x0 */
        /*0020*/                   FADD R4, R4, R5 ;               /* 0x0 */
        /*0030*/              @!P0 BRA 0x10 ;                      /* 0x0 */
        /*0040*/                   STG.E.128 desc[UR4][R2.64], R4 ;  /* 0x0 */
        /*0050*/              @P1  BRA P2, 0x0 ;                   /* 0x0 */
        /*0060*/                   BRA 0x60;                       /* 0x0 */
        /*0070*/                   NOP;                            /* 0x0 */
		Function : _Z1bPf
        /*0000*/                   EXIT ;                          /* 0x0 */
"""
    a, b = cuda_sass.parse(listing)
    assert (a.symbol, len(a.lines), b.symbol, len(b.lines)) == ("_Z1aPf", 7, "_Z1bPf", 1)
    assert (a.count("STG.E.128"), a.count("LDG"), a.count("DG")) == (1, 1, 0)
    assert len(a.loop("LDG.E.128").lines) == 3
    assert len(a.loop("STG.E.128").lines) == 6
    assert b.loop("LDG") is None


def test_the_report_reads_ptxas_and_marks_spills():
    log = """
ptxas info    : Compiling entry function '_ZN39_GLOBAL__N__e0_7_cuda_cu_6c444f6819tap_gradient_kernelI6__halffLi8ELi32ELb1EEEv12SampleParamsNS_5ChunkEj' for 'sm_75'
ptxas info    : Function properties for _ZN39_GLOBAL__N__e0b08ae1_7_cuda_cu_6c444f6819tap_gradient_kernel
    8 bytes stack frame, 8 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 128 registers, used 0 barriers, 8 bytes cumulative stack size, 584 bytes cmem[0]
ptxas info    : Compiling entry function '_ZN39_GLOBAL__N__e0_7_cuda_cu_6c444f6812index_kernelIdEEv12SampleParamsNS_5ChunkE' for 'sm_90'
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 80 registers, used 0 barriers
"""  # noqa: E501
    kernels = cuda_report.parse(log)
    assert kernels == [
        cuda_report.Kernel("tap_gradient_kernel", "float16", (8, 32, 1), "sm_75", 128, 8, 24),
        cuda_report.Kernel("index_kernel", "float64", (), "sm_90", 80, 0, 0),
    ]
    assert [k.occupancy() for k in kernels] == [0.5, 0.375]
    shown = "\n".join(cuda_report.table(kernels, every_variant=True))
    assert "vector 8, team 32, second order" in shown
    assert "128 50% !24B" in shown


@pytest.mark.parametrize(
    ("listed", "wanted"),
    [
        ("9.0", [(90, "sm")]),
        ("8.0;9.0+PTX", [(80, "sm"), (90, "sm"), (90, "compute")]),
        (" 7.5 12.0 ", [(75, "sm"), (120, "sm")]),
        ("9.0a", [("90a", "sm")]),
        ("12.0f+PTX", [("120f", "sm"), ("120f", "compute")]),
    ],
)
def test_arch_flags(listed, wanted):
    assert _build.arch_flags(listed) == [f"-gencode=arch=compute_{n},code={code}_{n}" for n, code in wanted]


@pytest.mark.parametrize("listed", ["Hopper", "9", "9.0+ptx", "+PTX", "8.0 nine", "9.0,8.0", "-1.0", "9.0x", "9.0aa"])
def test_arch_list_that_cannot_be_read_is_named(listed):
    with pytest.raises(_build.BuildError, match=r"TORCH_CUDA_ARCH_LIST must list compute capabilities.*unset it"):
        _build.arch_flags(listed)


class Nvcc:
    """A stand-in nvcc in its own CUDA_HOME. It copies this machine's CPU library and logs its calls."""

    def __init__(self, home: Path) -> None:
        self.path, self.log = home / "bin" / "nvcc", home / "calls.txt"
        self.path.parent.mkdir(parents=True)
        library = _build.load_cpu()._name
        self.path.write_text(
            f"""#!/bin/sh
if [ "$1" = --version ]; then echo "stand-in nvcc"; exit 0; fi
echo "$TORCH_CUDA_ARCH_LIST|$*" >> "{self.log}"
for word in "$@"; do if [ "$last" = -o ]; then out="$word"; fi; last="$word"; done
cp "{library}" "$out"
"""
        )
        self.path.chmod(0o755)

    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def nvcc(tmp_path, monkeypatch) -> Nvcc:
    if os.name != "posix":
        pytest.skip("the stand-in is a shell script")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    monkeypatch.setenv("MTM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    return Nvcc(tmp_path / "cuda")


def test_nvcc_is_found_in_cuda_home_then_cuda_path_then_on_path(tmp_path, nvcc, monkeypatch):
    assert _build.find_nvcc() == str(nvcc.path)
    other = Nvcc(tmp_path / "other")
    monkeypatch.setenv("CUDA_PATH", str(tmp_path / "other"))
    assert _build.find_nvcc() == str(nvcc.path)
    monkeypatch.delenv("CUDA_HOME")
    assert _build.find_nvcc() == str(other.path)
    monkeypatch.delenv("CUDA_PATH")
    monkeypatch.setenv("PATH", str(nvcc.path.parent))
    assert _build.find_nvcc() == str(nvcc.path)


def test_no_nvcc_says_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(_build.BuildError, match=r"no nvcc found: looked in \$CUDA_HOME/bin, on PATH and in .*Install"):
        _build.cuda_recipe((9, 0))


def test_build_is_one_call_for_the_gpu_at_hand_and_is_remembered(nvcc, capfd):
    library = _build.load_cuda((99, 1))  # loaded libraries stay in the process, so use a number that no GPU has
    assert _build.load_cuda((99, 1)) is library
    (call,) = nvcc.calls()
    arch_list, words = call.split("|", 1)
    assert arch_list == ""
    flags = words.split()
    assert flags.count("-gencode=arch=compute_991,code=sm_991") == 1
    assert sum(flag.startswith("-gencode") for flag in flags) == 1
    assert not any("fast" in flag for flag in flags)
    assert str(_build.CSRC / "cuda.cu") in flags
    said = capfd.readouterr().err
    assert "building the CUDA-SM991 kernel with" in said
    assert "s, once)" in said


def test_arch_list_of_the_environment_is_used_and_left_alone(nvcc, monkeypatch):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0;9.0+PTX")
    _build.load_cuda((99, 2))
    (call,) = nvcc.calls()
    arch_list, words = call.split("|", 1)
    assert arch_list == "8.0;9.0+PTX"
    assert [w for w in words.split() if w.startswith("-gencode")] == _build.arch_flags("8.0 9.0+PTX")
    assert os.environ["TORCH_CUDA_ARCH_LIST"] == "8.0;9.0+PTX"


@pytest.mark.parametrize("blank", ["", " ", ";"])
def test_blank_arch_list_means_the_gpu_at_hand(blank, nvcc, monkeypatch):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", blank)
    assert "-gencode=arch=compute_90,code=sm_90" in _build.cuda_recipe((9, 0)).flags


def test_bad_arch_list_is_an_error_that_is_remembered(nvcc, monkeypatch):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "Hopper")
    for _ in range(2):
        with pytest.raises(_build.BuildError, match="got 'Hopper'"):
            _build.load_cuda((99, 3))
    assert nvcc.calls() == []


def test_key_differs_by_architecture_arch_list_toolkit_and_torchs_cuda(nvcc, monkeypatch):
    def key(capability=(9, 0)) -> str:
        return _build._cache_key(_build.cuda_recipe(capability))

    keys = [key(), key((8, 0)), key((12, 0))]
    assert key() == keys[0]
    with monkeypatch.context() as patch:
        patch.setattr(torch.version, "cuda", "99.9")
        keys.append(key())
    with monkeypatch.context() as patch:
        patch.setenv("TORCH_CUDA_ARCH_LIST", "9.0+PTX")
        keys.append(key())
    nvcc.path.write_text(nvcc.path.read_text().replace("stand-in nvcc", "stand-in nvcc, newer"))
    keys.append(key())
    assert len(set(keys)) == len(keys)
    assert key() != _build._cache_key(dataclasses.replace(_build.cuda_recipe((9, 0)), name="other"))
