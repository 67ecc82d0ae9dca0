"""Export: torch.export records the op, and ONNX's DeformConv, run by onnxruntime, gives the same results."""

import os
import sys
from collections import Counter
from dataclasses import replace

import forked
import onnx
import onnxruntime
import pytest
import torch
from op_cases import Case, assert_close, one_by_one, sample_inputs
from torch import Tensor, nn

from mtm_ops import ModulatedTransformation, modulated_deform_conv2d
from mtm_ops.onnx import translation_table


def export(network: nn.Module, inputs: tuple, batch_dynamic: bool = False, **options) -> onnx.ModelProto:
    if batch_dynamic:
        options["dynamic_shapes"] = tuple({0: torch.export.Dim.DYNAMIC} for _ in inputs)
    program = torch.onnx.export(
        network.eval(), inputs, dynamo=True, custom_translation_table=translation_table(), verbose=False, **options
    )
    assert program is not None
    return program.model_proto


def run(model: onnx.ModelProto, *inputs: Tensor) -> list[Tensor]:
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    found = session.run(None, {n: t.detach().numpy() for n, t in zip(names, inputs, strict=True)})
    return [torch.from_numpy(y) for y in found]


def kinds(model: onnx.ModelProto) -> Counter:
    return Counter(node.op_type for node in model.graph.node)


class Calls(nn.Module):
    """Several calls of the op in one network, for a single export: one input per tensor, one output per call."""

    def __init__(self, *cases: Case):
        super().__init__()
        self.cases = cases

    def inputs(self) -> tuple[Tensor, ...]:
        return tuple(t for case in self.cases for t in case.tensors().values())

    def forward(self, *tensors: Tensor) -> list[Tensor]:
        given = iter(tensors)
        return [case.map(lambda name, t: next(given)).run("auto") for case in self.cases]


def test_onnxruntime_computes_the_same_for_every_geometry_mask_group_and_modulation():
    network = Calls(
        *(
            sample_inputs(dtype=torch.float32, seed=seed, **options)
            for seed, options in enumerate(
                [
                    {"groups": 2, "style": False},
                    {"groups": 1, "mask": False, "kernel": (2, 3), "stride": (1, 2), "padding": (0, 2)},
                    {"kernel": (1, 1), "B": 3, "O": 5, "dilation": (1, 2), "style": False, "mask": False},
                    {"groups": 4, "demodulate": False, "padding": (2, 3)},
                ]
            )
        )
    )
    model = export(network, network.inputs())
    assert kinds(model)["DeformConv"] == len(network.cases)
    for y, case in zip(run(model, *network.inputs()), network.cases, strict=True):
        assert_close(y, case.run("reference"), torch.float32)


def test_a_modulated_layer_is_mul_deform_conv_mul():
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(6, 4, 3, 3))

        def forward(self, x, offset, style):
            return modulated_deform_conv2d(x, self.weight, offset, style, padding=1)

    case = one_by_one(kernel=(3, 3), padding=(1, 1), dtype=torch.float32)
    model = export(Layer(), (case.x, case.offset, case.style))
    producers = {out: node for node in model.graph.node for out in node.output}
    last = producers[model.graph.output[0].name]
    deform = next(producers[i] for i in last.input if i in producers and producers[i].op_type == "DeformConv")
    assert last.op_type == "Mul"
    assert producers[deform.input[0]].op_type == "Mul"
    assert deform.input[1] in {w.name for w in model.graph.initializer}  # the weight is used unchanged


def test_weight_groups_follow_from_the_shapes():
    """Calls the registered op directly; other tests cover its kernel for grouped weights."""

    class Layer(nn.Module):
        def forward(self, x, weight, offset):
            return torch.ops.mtm_ops.deform_conv2d(x, weight, offset, None, [2, 1], [1, 0], [2, 1])

    case = sample_inputs(C=6, O=4, style=False, mask=False, dtype=torch.float32)
    weight = case.weight[:, :3].contiguous()
    (y,) = run(export(Layer(), (case.x, weight, case.offset)), case.x, weight, case.offset)
    halves = [replace(case, x=case.x[:, i : i + 3], weight=weight[o : o + 2]) for i, o in ((0, 0), (3, 2))]
    assert_close(y, torch.cat([half.run("reference") for half in halves], 1), torch.float32)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64], ids=str)
def test_other_dtypes(dtype):
    case = sample_inputs(style=False, dtype=dtype)
    network = Calls(case)
    (y,) = run(export(network, network.inputs()), *network.inputs())
    assert y.dtype == dtype
    assert_close(y, case.run("reference"), dtype)


def test_places_that_are_not_finite_or_far_away_sample_zero():
    case = sample_inputs(B=1, size=(9, 9), style=False, dtype=torch.float32)
    offset = case.offset.clone()
    bad = torch.tensor([torch.nan, torch.inf, -torch.inf, 1e30, -1e30, 2.0**31, -1.0])
    offset.view(-1)[: 3 * len(bad) : 3] = bad
    network = Calls(replace(case, offset=offset))
    (y,) = run(export(network, network.inputs()), *network.inputs())
    assert_close(y, network.cases[0].run("reference"), torch.float32)


@pytest.mark.parametrize(("head", "input_gain"), [("offset", False), ("offset+mask", True)])
def test_the_module_exports_with_a_dynamic_batch(head, input_gain):
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(6, 4, 3, 3))
            self.mtm = ModulatedTransformation(4, 5, head=head)
            self.mtm.weight.data.normal_()
            self.mtm.bias.data.normal_()

        def forward(self, x, latent, style):
            gain = {"input_gain": torch.full([4], 0.7)} if input_gain else {}
            return self.mtm.at(latent)(x=x, w=self.weight, s=style, padding=1, **gain)

    def inputs(B):
        return torch.randn(B, 4, 7, 6), torch.randn(B, 5), torch.randn(B, 4)

    torch.manual_seed(0)
    network = Layer().eval()
    dynamic = tuple({0: torch.export.Dim("batch")} for _ in range(3))
    program = torch.export.export(network, inputs(2), dynamic_shapes=dynamic)
    model = export(network, inputs(2), batch_dynamic=True)
    assert kinds(model)["DeformConv"] == 1
    for B in (1, 2, 5):
        tensors = inputs(B)
        expected = network(*tensors)
        assert_close(program.module()(*tensors), expected, torch.float32)
        assert_close(run(model, *tensors)[0], expected, torch.float32)


def test_an_opset_without_deform_conv_is_refused():
    case = sample_inputs(style=False, dtype=torch.float32)
    with pytest.raises(torch.onnx.errors.OnnxExporterError) as caught:
        export(Calls(case), Calls(case).inputs(), opset_version=18)
    chain = [error := caught.value]
    while error := error.__cause__:
        chain.append(error)
    assert any("opset_version must be at least 19, the first with DeformConv; got 18" in str(e) for e in chain)


WITHOUT_COMPILER = """
import sys, warnings
warnings.simplefilter("error")
warnings.filterwarnings("ignore", "Guards may run slower", RuntimeWarning)  # torch, on Python 3.13.0 alone
import torch
from mtm_ops import modulated_deform_conv2d
assert not {"onnx", "onnxscript", "mtm_ops.onnx"} & set(sys.modules)

class Layer(torch.nn.Module):
    def forward(self, x, weight, offset):
        y = modulated_deform_conv2d(x, weight, offset, padding=1)
        return y, modulated_deform_conv2d(x, weight, offset, padding=1, impl="native")

inputs = torch.randn(2, 4, 5, 5), torch.randn(3, 4, 3, 3), torch.randn(2, 18, 5, 5)
for strict in (False, True):
    program = torch.export.export(Layer(), inputs, strict=strict)
    print(*(n.target for n in program.graph.nodes if n.op == "call_function"))
"""


def test_export_records_the_op_where_no_compiler_exists(tmp_path):
    env = {**os.environ, "CXX": "/nonexistent/c++", "PATH": "", "MTM_CACHE_DIR": str(tmp_path / "cache")}
    done = forked.run("-c", WITHOUT_COMPILER, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("mtm_ops.deform_conv2d.default") == 4
    assert not (tmp_path / "cache").exists()


def test_missing_onnxscript_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs onnxscript.*pip install onnx onnxscript"):
        translation_table()
