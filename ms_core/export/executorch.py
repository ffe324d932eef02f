"""MobileSpeech as ExecuTorch programs (.pte), fp32 or int8, whose products and convolutions XNNPACK runs, here or on
a phone.

The graphs are those of `ms_core.export.graphs`, as in the ONNX export. ExecuTorch plans memory before it runs, so
every length has a limit (`LIMITS`). ExecuTorch's Python runtime needs torch; on a phone its C++, Java or Swift runtime
takes its place, and what `ms_core.export.runtime` does in numpy is to be written there. Both are our choice.

`python -m ms_core.export.executorch` exports a model in both precisions and records how far they agree with PyTorch.
"""

import argparse
import copy
import re
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from ms_core import paths
from ms_core.checkpoint import CheckpointError
from ms_core.evaluation.conditions import hard_texts
from ms_core.evaluation.records import Provenance, Record, bootstrap, write_records
from ms_core.export.graphs import Graph, graphs
from ms_core.export.onnx import LICENCE, SMALLEST_QUANTISED, ExportError, write_folder
from ms_core.export.parity import agreement, compare_records, mobile_voice
from ms_core.export.runtime.manifest import MobileError
from ms_core.export.runtime.runtime import MobileRuntime
from ms_core.synthesis import MobileSpeech
from ms_core.text import chunks, phonemise
from ms_core.tokens import Voice, VoiceError, shipped_voices
from ms_core.training import runs as training_runs

LIMITS = {"p": 256, "q": 128, "s": 512, "t": 1024, "r": 1024}
"""Greatest lengths: phones of a part and of the prompt, frames of the prompt (10 s), of a part (20 s), to be filled."""
TABLES = ("embedding", "vectors", "head", "residual")  # parameters of graphs from which rows or layers are gathered
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
    `export.to_int8`, but that other weights stay in fp32.
    """
    from torchao.quantization import Int8DynamicActivationIntxWeightConfig, quantize_
    from torchao.quantization.granularity import PerAxis

    def large(layer: nn.Module, name: str) -> bool:
        return isinstance(layer, nn.Linear) and layer.weight.numel() >= SMALLEST_QUANTISED

    module = copy.deepcopy(module)
    quantize_(module, Int8DynamicActivationIntxWeightConfig(weight_granularity=PerAxis(0)), large)
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            if name in TABLES and parameter.numel() >= SMALLEST_QUANTISED:
                setattr(part, name, nn.Parameter(parameter.detach().half(), requires_grad=False))
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

    dims = {name: torch.export.Dim(name, min=1, max=limit) for name, limit in LIMITS.items()}
    shapes = {k: {axis: dims[name] for axis, name in axes.items()} for k, axes in graph.axes.items()}
    # with oneDNN, torch asks whether a convolution is small enough for another kernel, and that answer becomes a limit
    with warnings.catch_warnings(), torch.no_grad(), torch.backends.mkldnn.flags(enabled=False):
        warnings.simplefilter("ignore")
        module = to_int8(graph.module) if int8 else graph.module
        partitioners = [XnnpackDynamicallyQuantizedPartitioner()] * int8 + [XnnpackPartitioner()]
        program = torch.export.export(module, (), kwargs=graph.inputs, dynamic_shapes=shapes, strict=False)
        lowered = to_edge_transform_and_lower(program, partitioner=partitioners).to_executorch()
    plan = lowered.executorch_program.execution_plan[0]
    for (name, example), index in zip(graph.inputs.items(), plan.inputs, strict=True):
        wanted = [LIMITS.get(graph.axes[name].get(axis), length) for axis, length in enumerate(example.shape)]
        if plan.values[index].val.sizes != wanted:  # lowering may narrow a length without a word
            raise ExportError(f"ExecuTorch allows {name} {plan.values[index].val.sizes}, not {wanted}: a bug of ours")
    return lowered.buffer


def export_executorch(
    tts: MobileSpeech,
    folder: str | Path,
    provenance: Mapping[str, object] | None = None,
    licence: str = LICENCE,
    int8: bool = False,
) -> Path:
    """Write the folder that `ExecutorchRuntime` reads, and return it; options and errors as in `export.export`.

    int8: see `to_int8`.
    """
    need_executorch()

    def write(temporary: Path) -> dict[str, object]:
        said = {}
        for name, graph in graphs(tts.model, tts.codec).items():
            (temporary / f"{name}.pte").write_bytes(to_pte(graph, int8))
            shape = {
                k: [graph.axes[k].get(axis, length) for axis, length in enumerate(tensor.shape)]
                for k, tensor in graph.inputs.items()
            }
            said[name] = {"inputs": [[k, shape[k]] for k in graph.inputs], "outputs": list(graph.outputs)}
        precision = "int8" if int8 else "fp32"
        return {"precision": precision, "opset": 0, "runtime": "executorch", "graphs": said, "limits": LIMITS}

    return write_folder(tts, folder, write, MADE_WITH, provenance, licence)


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
        given = [torch.from_numpy(np.ascontiguousarray(inputs[name])) for name in self._shapes]
        return [output.numpy().copy() for output in self._method.execute(given)]


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
        said = self.manifest.graphs[name]
        return Program(self.folder / f"{name}.pte", said["inputs"], said["outputs"], self.manifest.limits)


@torch.inference_mode()
def f0_difference(
    tts: MobileSpeech, runtime: MobileRuntime, texts: Sequence[str], voice: Voice, seed: int
) -> list[float]:
    """Mean |F0 / PyTorch's F0 - 1| of each text's first part, its tokens being PyTorch's."""
    found = []
    for text in texts:
        codes, _ = tts.generate(chunks(phonemise(text), runtime.manifest.chunk_phones)[0], voice, seed)
        latent = tts.codec.dequantise(codes[None])
        theirs = tts.codec.decoder.controls(latent)[0].numpy()
        ours = runtime._run("codec", latent=latent.numpy())[0]
        found.append(float(np.abs(np.expm1(ours - theirs)).mean()))
    return found


def measure(
    tts: MobileSpeech,
    root: Path,
    texts: Sequence[str],
    voice: Voice,
    made: Mapping[str, object],
    provenance: Provenance,
    system: str,
) -> list[Record]:
    """Export to `root`/fp32 and `root`/int8, run both, and return records of systems `<system>-pte-<precision>`.

    Sizes of the whole and of each program, seconds of the export, agreement with PyTorch as in `export_report`, F0.
    Raises ExportError without ExecuTorch, ValueError without a text.
    """
    if not texts:
        raise ValueError("no text: give at least one")
    versions, records = {name: version(name) for name in MADE_WITH}, []
    for precision in ("fp32", "int8"):
        start = time.perf_counter()
        folder = export_executorch(tts, root / precision, made, int8=precision == "int8")
        seconds = time.perf_counter() - start
        runtime, name = ExecutorchRuntime(folder), f"{system}-pte-{precision}"
        states, seed = runtime.enrol(mobile_voice(voice)), provenance.seed or 0
        found = {"texts": len(texts), "size_mb": runtime.manifest.megabytes, "rtf": {}}
        found |= agreement(tts, runtime, texts, voice, states, seed)
        difference = bootstrap(f0_difference(tts, runtime, texts, voice, seed))
        records += compare_records({f"pte-{precision}": found}, provenance, system, 0)
        common = {**provenance.model_dump(), "system": name, "split": "none"}
        records.append(Record(**common, metric="export_seconds", value=seconds, n=1, unit="s",
                              protocol="of all programs, clock time of one run"))  # fmt: skip
        records.append(Record(**common, metric="f0_difference", **difference.fields(), n=len(texts), unit="fraction",
                              protocol="mean |F0 / PyTorch's - 1|, of the same tokens"))  # fmt: skip
        for file, entry in runtime.manifest.files.items():
            if file.endswith(".pte"):
                records.append(Record(**common, metric=f"size_mb_{Path(file).stem}", value=entry["bytes"] / 1e6, n=1,
                                      unit="MB", protocol="one program"))  # fmt: skip
    return [record.model_copy(update={"evaluators": versions}) for record in records]


def summary(records: Sequence[Record]) -> str:
    """What `measure` found, in the words that README.md has."""

    def said(precision: str, metric: str) -> list[Record]:
        found = [r for r in records if r.system.endswith(f"-pte-{precision}") and re.fullmatch(metric, r.metric)]
        if not found:
            raise ValueError(f"no record of {metric} in {precision}: python -m ms_core.export.executorch writes them")
        return found

    parts = []
    for precision in ("fp32", "int8"):
        (size,), (f0,) = said(precision, "size_mb"), said(precision, "f0_difference")
        forced, free = (
            100 * float(np.mean([r.value for r in said(precision, rf"token_agreement_{kind}_layer\d+")]))
            for kind in ("forced", "free")
        )
        parts.append(
            f"in {precision} they take {size.value:.1f} MB and give {forced:.4g} % of PyTorch's tokens where the "
            f"layers below are given, {free:.4g} % alone, with an F0 that differs by {100 * f0.value:.2g} %"
        )
    return f"On {f0.n} texts, {'; '.join(parts)}."


def main(arguments: list[str] | None = None) -> int:
    """Export in both precisions and write records; returns 1 where fp32 has other tokens than PyTorch, 2 for errors."""
    parser = argparse.ArgumentParser(prog="python -m ms_core.export.executorch", description=main.__doc__)
    parser.add_argument("--model", default="mini", help="a shipped model's name, or a folder with codec/ and model/")
    parser.add_argument("--voice", default=shipped_voices()[0], help="a shipped voice's name, or a voice file")
    parser.add_argument("--texts", type=int, default=10, help="hard texts on which tokens are compared")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="for the exports; default: <runs>/<preset>/executorch")
    parser.add_argument("--out", type=Path, help="JSON file for the records; default: results/<preset>/executorch.json")
    given = parser.parse_args(arguments)
    try:
        need_executorch()
        tts, pair = MobileSpeech.from_pretrained(given.model), training_runs.pair_folder(given.model)
        made, every = training_runs.made_with(pair), [hard.text for hard in hard_texts()]
        preset, texts = made["name"], every[:: max(1, len(every) // max(given.texts, 1))][: max(given.texts, 0)]
        provenance = Provenance.of(preset, pair, given.seed, tts.decoding.digest(), torch.get_num_threads())
        root, system = given.folder or paths.run(preset) / "executorch", f"mobilespeech-{preset}"
        records = measure(tts, root, texts, tts.load_voice(given.voice), made, provenance, system)
        write_records(given.out or paths.results(preset) / "executorch.json", records)
    except (CheckpointError, ExportError, MobileError, VoiceError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for record in records:
        print(f"{record.system}\t{record.metric}\t{record.value:g}")
    print(f"README.md, under On a phone: {summary(records)}")
    free = [r.value for r in records if r.system.endswith("-fp32") and r.metric.startswith("token_agreement")]
    return int(min(free) < 1)


if __name__ == "__main__":
    sys.exit(main())
