"""MobileSpeech as ExecuTorch programs (.pte), fp32 or int8, whose products and convolutions XNNPACK runs, here or on
a phone.

The graphs are those of `ms_core.export.graphs`, as in the ONNX export. ExecuTorch plans memory before it runs, so
every length has a limit (`LIMITS`). ExecuTorch's Python runtime needs torch; on a phone its C++, Java or Swift runtime
takes its place, and what `ms_core.export.runtime` does in numpy is to be written there. Both are our choice.

`ms_core.evaluation.parity.compare` says how far an export agrees with PyTorch.
"""

import copy
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from ms_core.export.graphs import Graph, graphs
from ms_core.export.onnx import SMALLEST_QUANTISED, ExportError, write_folder
from ms_core.export.runtime.manifest import MobileError
from ms_core.export.runtime.runtime import MobileRuntime
from ms_core.synthesis import MobileSpeech

LIMITS = {"p": 256, "q": 128, "s": 512, "t": 1024, "r": 1024}
"""Greatest lengths: phones of a part and of the prompt, frames of the prompt (10 s), of a part (20 s), to be filled."""
# from which rows or layers are gathered
TABLES = ("smd.embedding.weight", "smd.head", "prior.codebooks", "prior.residual")
MADE_WITH = ("torch", "executorch", "torchao")


def need_executorch() -> None:
    """Raises ExportError where ExecuTorch is not installed, or does not go with the torch that is."""
    try:
        import executorch.exir  # noqa: F401
        import torchao  # noqa: F401
    except ImportError as error:
        raise ExportError(
            f"ExecuTorch cannot be imported beside torch {torch.__version__} ({error}): "
            "pip install 'ms-core[executorch]'"
        ) from None


def to_int8(module: nn.Module) -> nn.Module:
    """A copy of a graph's module with 8-bit weights, a scale for each output channel, in its linear layers.

    Their inputs are quantised as they come, each frame by itself (dynamic quantisation, torchao). All else is computed
    in fp32, as are layers of fewer than `SMALLEST_QUANTISED` weights; large `TABLES` are stored in fp16. As in
    `onnx.to_int8`, but that other weights stay in fp32.
    """
    from torchao.quantization import Int8DynamicActivationIntxWeightConfig, quantize_
    from torchao.quantization.granularity import PerAxis

    def large(layer: nn.Module, name: str) -> bool:
        return isinstance(layer, nn.Linear) and layer.weight.numel() >= SMALLEST_QUANTISED

    module = copy.deepcopy(module)
    quantize_(module, Int8DynamicActivationIntxWeightConfig(weight_granularity=PerAxis(0)), large)
    for path, part in module.named_modules():
        for name, tensor in (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)):
            if f"{path}.{name}".endswith(TABLES) and tensor.numel() >= SMALLEST_QUANTISED:
                half = tensor.detach().half()
                setattr(part, name, nn.Parameter(half, False) if isinstance(tensor, nn.Parameter) else half)
    return module


def to_pte(graph: Graph, int8: bool = False) -> bytes:
    """A graph as an ExecuTorch program with the method `forward`; minutes of work for the larger ones.

    Inputs and outputs stand in the order of `graph.inputs` and `graph.outputs`. Raises ExportError without ExecuTorch.
    """
    need_executorch()
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import (
        XnnpackDynamicallyQuantizedPartitioner,
        XnnpackPartitioner,
    )
    from executorch.exir import to_edge_transform_and_lower

    # with oneDNN, torch asks whether a convolution is small enough for another kernel, and that answer becomes a limit
    with warnings.catch_warnings(), torch.no_grad(), torch.backends.mkldnn.flags(enabled=False):
        warnings.simplefilter("ignore")
        module = to_int8(graph.module) if int8 else graph.module
        partitioners = [XnnpackDynamicallyQuantizedPartitioner()] * int8 + [XnnpackPartitioner()]
        shapes = graph.dynamic_shapes(LIMITS)
        program = torch.export.export(module, (), kwargs=graph.inputs, dynamic_shapes=shapes, strict=False)
        lowered = to_edge_transform_and_lower(program, partitioner=partitioners).to_executorch()
    plan = lowered.executorch_program.execution_plan[0]
    for name, index in zip(graph.inputs, plan.inputs, strict=True):
        expected = graph.shape(name, LIMITS)
        if plan.values[index].val.sizes != expected:  # lowering may narrow a length without a word
            raise ExportError(f"ExecuTorch allows {name} {plan.values[index].val.sizes}, not {expected}: a bug of ours")
    return lowered.buffer


def export_executorch(
    tts: MobileSpeech,
    folder: str | Path,
    provenance: Mapping[str, object] | None = None,
    int8: bool = False,
) -> Path:
    """Write the folder that `ExecutorchRuntime` reads, and return it; options and errors as in `onnx.export`.

    int8: see `to_int8`.
    """
    need_executorch()

    def write(temporary: Path) -> dict[str, object]:
        described = {}
        for name, graph in graphs(tts.model, tts.codec, tts.decoding.copy_sharpness).items():
            (temporary / f"{name}.pte").write_bytes(to_pte(graph, int8))
            inputs = [[key, graph.shape(key, {axis: axis for axis in LIMITS})] for key in graph.inputs]
            described[name] = {"inputs": inputs, "outputs": list(graph.outputs)}
        precision = "int8" if int8 else "fp32"
        return {"precision": precision, "opset": 0, "runtime": "executorch", "graphs": described, "limits": LIMITS}

    return write_folder(tts, folder, write, MADE_WITH, provenance)


class Program:
    """A loaded .pte with the face of an onnxruntime session; `inputs` and `outputs` as in the manifest.

    Raises MobileError for a program that cannot be loaded, and, when it runs, for a length above its limit.
    """

    def __init__(self, path: Path, inputs: Sequence[Sequence], outputs: Sequence[str], limits: Mapping[str, int]):
        from executorch.runtime import Runtime, Verification

        self._shapes, self._limits, self._outputs = dict(inputs), limits, outputs
        try:
            self._program = Runtime.get().load_program(path, verification=Verification.Minimal)
            self._method = self._program.load_method("forward")
        except RuntimeError as error:
            raise MobileError(f"{path} cannot be loaded by ExecuTorch ({error})") from error

    def get_inputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name=name) for name in self._shapes]

    def get_outputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name=name) for name in self._outputs]

    def run(self, names: None, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """All outputs, in order."""
        for name, shape in self._shapes.items():
            for axis, length in zip(shape, inputs[name].shape, strict=True):
                if length > self._limits.get(axis, length):
                    raise MobileError(
                        f"{name} of shape {inputs[name].shape}: this export allows {axis} up to {self._limits[axis]}; "
                        "split the text, or enrol a shorter prompt"
                    )
        tensors = [torch.from_numpy(np.ascontiguousarray(inputs[name])) for name in self._shapes]
        return [output.numpy().copy() for output in self._method.execute(tensors)]


class ExecutorchRuntime(MobileRuntime):
    """`MobileRuntime` over an export to ExecuTorch, on this machine's XNNPACK; `threads` is XNNPACK's own choice.

    Raises MobileError as `MobileRuntime` does, and where ExecuTorch is not installed.
    """

    kind = "executorch"

    def __init__(self, folder: str | Path, check: bool = True):
        try:
            need_executorch()
        except ExportError as error:
            raise MobileError(str(error)) from None
        super().__init__(folder, check=check)

    def _load(self, name: str) -> Program:
        stated = self.manifest.graphs[name]
        return Program(self.folder / f"{name}.pte", stated["inputs"], stated["outputs"], self.manifest.limits)
