"""float32 matmuls on CUDA follow the convolutions' TF32 switch, and leave torch's own switches unchanged."""

import json
import os

import forked
import pytest

STATES = {
    "defaults": ("", True),
    "cudnn off": ("torch.backends.cudnn.allow_tf32 = False", False),
    "new, conv off": ("torch.backends.cudnn.conv.fp32_precision = 'ieee'", False),
    "matmul high": ("torch.set_float32_matmul_precision('high')", True),
    "matmul medium": ("torch.set_float32_matmul_precision('medium')", True),
    "matmul high, cudnn off": (
        "torch.set_float32_matmul_precision('high'); torch.backends.cudnn.allow_tf32 = False",
        False,
    ),
    "matmul medium, cudnn off": (
        "torch.set_float32_matmul_precision('medium'); torch.backends.cudnn.allow_tf32 = False",
        False,
    ),
    "new, matmul on": ("torch.backends.cuda.matmul.fp32_precision = 'tf32'", True),
    "new, matmul on, conv off": (
        "torch.backends.cuda.matmul.fp32_precision = 'tf32'; torch.backends.cudnn.conv.fp32_precision = 'ieee'",
        False,
    ),
    "new, matmul off": ("torch.backends.cuda.matmul.fp32_precision = 'ieee'", True),
    "new, all on, conv off": (
        "torch.backends.fp32_precision = 'tf32'; torch.backends.cudnn.conv.fp32_precision = 'ieee'",
        False,
    ),
    "new, all off": (
        "torch.backends.fp32_precision = 'ieee'; torch.backends.cudnn.conv.fp32_precision = 'none'",
        False,
    ),
}


# Each runs in its own process: the switches are global, and torch has no function to leave some of their states.
LOOK = """
import json, os, sys, warnings
import torch
from mtm_ops._precision import convolutions_in_tf32, precision_of_convolutions

warnings.simplefilter("error")

def precision(op="matmul", backend="cuda"):
    return torch._C._get_fp32_precision_getter(backend, op)

def ask(function):
    try:
        return function()
    except RuntimeError:
        return "contradiction"

def state():
    precisions = [precision(o, b) for b in ("cuda", "mkldnn") for o in ("matmul", "conv", "all")]
    return *precisions, ask(torch.get_float32_matmul_precision)

def look(name, setup, wanted):
    exec(setup)
    before = state()
    try:
        with precision_of_convolutions():
            inside, legacy = precision() == "tf32", ask(torch._C._get_cublas_allow_tf32)
            raise KeyError
    except KeyError:
        pass
    assert inside == wanted, inside
    assert legacy == wanted or state() == before and before[-1] == "contradiction", legacy  # then nothing was changed
    assert state() == before, (before, state())
    convolutions = ask(torch._C._get_cudnn_allow_tf32)
    try:
        with convolutions_in_tf32():
            assert precision("conv") == "tf32"
            torch.conv2d(torch.ones(1, 1, 3, 3), torch.ones(1, 1, 2, 2))  # torch finds no contradiction
            raise KeyError
    except KeyError:
        pass
    assert (state(), ask(torch._C._get_cudnn_allow_tf32)) == (before, convolutions), state()
    torch.backends.fp32_precision = "ieee"  # what was inherited still is
    assert precision() == (before[0] if "matmul" in name else "ieee"), precision()
    if "conv.fp32_precision = 'none'" in setup:
        torch.backends.fp32_precision = "tf32"
        assert precision("conv") == "tf32", precision("conv")

for name, (setup, wanted) in json.load(sys.stdin).items():
    if (child := os.fork()) == 0:
        try:
            look(name, setup, wanted)
        except BaseException as error:
            print(f"{name}: {type(error).__name__} {error}", flush=True)
        os._exit(0)
    os.waitpid(child, 0)
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_products_follow_the_convolutions_and_the_switches_are_restored():
    done = forked.run("-c", LOOK, input=json.dumps(STATES))
    assert (done.stdout, done.returncode) == ("done\n", 0), done.stdout + done.stderr
