"""One layer for the benchmarks: its inputs, and the calls of plain convolution, ours and others on them."""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mtm_ops import modulated_deform_conv2d

OFFSET_STD_PX = 2.0
ONNX_OPSET = 22


class Problem:
    """Inputs of a layer [B, C, H, H] with a 3x3 kernel and C output channels, and the candidates' calls on them."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        dtype: torch.dtype = torch.float32,
        layout: torch.memory_format = torch.contiguous_format,
        device: str = "cpu",
        seed: int = 0,
    ) -> None:
        B, C, H = self.shape = shape
        generator = torch.Generator(device).manual_seed(seed)
        new = functools.partial(torch.randn, generator=generator, device=device)
        scale = C**-0.5 / 3  # keeps half types finite
        self.x = new(B, C, H, H).to(dtype, memory_format=layout).requires_grad_()
        self.weight = (new(C, C, 3, 3) * scale).to(dtype, memory_format=layout).requires_grad_()
        self.offset = (new(B, 18, H, H) * OFFSET_STD_PX).requires_grad_()
        self.offset_like_x = self.offset.detach().to(dtype).requires_grad_()  # torchvision requires x's dtype
        self.grad_y = new(B, C, H, H).to(dtype, memory_format=layout)

    def plain(self) -> Tensor:
        return F.conv2d(self.x, self.weight, padding=1)

    def ours(self) -> Tensor:
        return modulated_deform_conv2d(self.x, self.weight, self.offset, padding=1, impl="native")

    def torchvision(self) -> Tensor:
        from torchvision.ops import deform_conv2d

        return deform_conv2d(self.x, self.offset_like_x, self.weight, padding=1)

    def onnxruntime(self) -> Tensor:
        feed = {name: getattr(self, name).detach().numpy() for name in ("x", "weight", "offset")}
        return torch.from_numpy(self._session.run(None, feed)[0])

    @functools.cached_property
    def _session(self):
        return onnx_session(self.shape)

    def forward(self, name: str) -> None:
        with torch.no_grad():
            getattr(self, name)()

    def forward_backward(self, name: str) -> None:
        """As in training: gradients accumulate in the leaves, in the leaves' layouts."""
        for leaf in self._leaves(name):
            leaf.grad = None
        torch.autograd.backward(getattr(self, name)(), self.grad_y)

    def double_backward(self, name: str) -> None:
        """Forward, gradient and the gradient's gradient, as in path-length regularisation."""
        leaves = self._leaves(name)
        steered = [t for t in leaves if t is not self.weight]
        grads = torch.autograd.grad(getattr(self, name)(), steered, self.grad_y, create_graph=True)
        torch.autograd.grad(torch.stack([g.float().square().mean() for g in grads]).sum(), leaves, allow_unused=True)

    def _leaves(self, name: str) -> tuple[Tensor, ...]:
        offsets = {"plain": (), "ours": (self.offset,), "torchvision": (self.offset_like_x,)}
        return (self.x, self.weight, *offsets[name])


Pass = Callable[[Problem, str], None]
PASSES: dict[str, Pass] = {
    "forward": Problem.forward,
    "forward+backward": Problem.forward_backward,
    "double backward": Problem.double_backward,
}
_CAN = {"torchvision": {"forward", "forward+backward"}, "onnxruntime": {"forward"}}  # the others support every pass


def can(name: str, what: str) -> bool:
    """Whether a candidate has this pass: torchvision has no second derivative, onnxruntime does not train."""
    return what in _CAN.get(name, PASSES)


def onnx_session(shape: tuple[int, int, int]):
    """onnxruntime's DeformConv on as many threads as torch has, for float32 on the CPU."""
    import onnxruntime
    from onnx import TensorProto, helper

    B, C, H = shape
    sizes = {"x": [B, C, H, H], "weight": [C, C, 3, 3], "offset": [B, 18, H, H], "y": [B, C, H, H]}
    values = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name, size in sizes.items()}
    y = values.pop("y")
    node = helper.make_node("DeformConv", list(values), ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    graph = helper.make_graph([node], "layer", list(values.values()), [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", ONNX_OPSET)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Its threads spin while they wait, like ours, but must not do so while the next candidate runs.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def why_not(name: str, device: str, dtype: torch.dtype) -> str | None:
    """None if the candidate can run here, else the reason."""
    if name == "onnxruntime" and (device != "cpu" or dtype != torch.float32):
        return "timed for float32 on the CPU only"
    try:
        if name == "torchvision":
            from torchvision.ops import deform_conv2d  # noqa: F401
        elif name == "onnxruntime":
            import onnx  # noqa: F401
            import onnxruntime  # noqa: F401
    except Exception as error:  # with a CPU build of torch, torchvision's import fails in many ways
        hint = ". Run: pip install -r requirements-bench.txt" if name == "onnxruntime" else ""
        return f"{type(error).__name__}: {str(error).splitlines()[0]}{hint}"
    return None
