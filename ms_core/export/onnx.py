"""MobileSpeech as a folder for a phone: ONNX graphs, in fp32 or with 8-bit weights, constants and a manifest.

The paper's aim is speech on a phone (its introduction; paper.md, section 5.4); how the authors brought the model there
is unknown, so all of this is our choice. `graphs.py` says what the graphs are, `ms_core.export.runtime` runs them.
"""

import json
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from safetensors.numpy import save_file

from ms_core.codec.mini import MEL_FLOOR, MiniCodec
from ms_core.detect.watermark import FILE, perth, save_encoder
from ms_core.export.graphs import ANY_LENGTH, Graph, graphs
from ms_core.export.runtime.manifest import FORMAT, NAME, CodecConstants, Decoding, digest
from ms_core.export.runtime.runtime import CONSTANTS, VECTORS
from ms_core.synthesis import CHUNK_PHONES, MobileSpeech
from ms_core.text import phone_table

OPSET = 23  # the first with Attention
# files that graphs share
TABLES = {"model.smd.embedding.weight": "embedding.bin", "model.smd.prior.codebooks": VECTORS}
LICENCE = "Apache-2.0"  # of this project's own weights
SMALLEST_QUANTISED = 1 << 15  # weights; a smaller product gains little from 8 bits


class ExportError(ValueError):
    """A model or a folder that cannot be exported (to); the message says why."""


def to_onnx(graph: Graph) -> onnx.ModelProto:
    """A graph as ONNX of opset `OPSET`, the shared table external, without the exporter's notes on source lines."""
    with _quiet("torch.onnx"):
        program = torch.onnx.export(
            graph.module,
            kwargs=graph.inputs,
            dynamo=True,
            dynamic_shapes=graph.dynamic_shapes(dict.fromkeys(ANY_LENGTH, 1 << 20)),
            opset_version=OPSET,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            verbose=False,
        )
    proto = program.model_proto
    del proto.metadata_props[:]
    del proto.graph.metadata_props[:]
    del proto.functions[:]
    for item in (*proto.graph.node, *proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        item.doc_string = ""
        del item.metadata_props[:]
    return proto


@contextmanager
def _quiet(name: str | None) -> Iterator[None]:
    """Without warnings and what a logger says below an error.

    The exporter's are of torchvision, which we lack, and of axes that share a name, which is meant; the quantiser
    recommends a preprocessing that the exporter has done.
    """
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def to_int8(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Weights of matrix products in 8 bits, a scale for each output channel; activations are quantised as they come.

    Computed in fp32: convolutions, norms, attention, and products of fewer than `SMALLEST_QUANTISED` weights
    (durations, confidence). Their large weights, and tables from which rows or layers are gathered (code embedding,
    code vectors, heads), are stored in fp16, in which a checkpoint has most of them: the choice between 1024 tokens
    does not suffer 8 bits well.
    """
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in proto.graph.initializer}
    products = [node for node in proto.graph.node if node.op_type in ("MatMul", "Gemm")]
    small = [node.name for node in products if sizes.get(node.input[1], 0) < SMALLEST_QUANTISED]
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "fp32.onnx"), Path(folder, "int8.onnx")
        onnx.save(proto, source)
        options = {"per_channel": True, "weight_type": QuantType.QInt8, "nodes_to_exclude": small}
        with _quiet(None):
            quantize_dynamic(source, target, ["MatMul", "Gemm"], **options)
        quantised = onnx.load(target)
    _half(quantised.graph)
    return quantised


def _half(graph: onnx.GraphProto) -> None:
    """Store `TABLES` and large fp32 tensors in fp16; cast to fp32 when a graph is loaded, tables when gathered."""
    for tensor in graph.initializer:
        large = tensor.name in TABLES or np.prod(tensor.dims) >= SMALLEST_QUANTISED
        if tensor.data_type != TensorProto.FLOAT or not large:
            continue
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
        users = [n for n in graph.node if tensor.name in n.input]
        if all(n.op_type in ("Gather", "GatherND") and n.input[0] == tensor.name for n in users):
            for node in users:
                name = node.output[0]
                node.output[0] = f"{name}_fp16"
                cast = helper.make_node("Cast", [node.output[0]], [name], f"{node.name}_cast", to=TensorProto.FLOAT)
                graph.node.insert(list(graph.node).index(node) + 1, cast)
        else:
            name = f"{tensor.name}_fp32"
            for node in users:
                node.input[:] = [name if i == tensor.name else i for i in node.input]
            graph.node.insert(0, helper.make_node("Cast", [tensor.name], [name], f"{name}_cast", to=TensorProto.FLOAT))


def _share(path: Path, data: bytes) -> None:
    """Write a file that several parts of an export read; what is there already has to be the same."""
    if path.is_file() and path.read_bytes() != data:
        raise ExportError(f"the parts do not agree on {path.name}: this is a bug of the exporter")
    path.write_bytes(data)


def _share_tables(proto: onnx.ModelProto, folder: Path) -> None:
    """Move `TABLES` out of a graph into files, each written by the first graph that has it."""
    for tensor in proto.graph.initializer:
        if tensor.name not in TABLES:
            continue
        data, path = tensor.raw_data, folder / TABLES[tensor.name]
        _share(path, data)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", path.name), ("offset", "0"), ("length", str(len(data)))):
            tensor.external_data.add(key=key, value=value)


def convert(tts: MobileSpeech) -> dict[str, onnx.ModelProto]:
    """The graphs of a pair in fp32, by name; minutes of work for the larger models, so both precisions may share it.

    Raises ExportError for a codec other than MiniCodec, whose waveform part is not written for the runtime.
    """
    _check_codec(tts)
    return {name: to_onnx(graph) for name, graph in graphs(tts.model, tts.codec, tts.decoding.copy_sharpness).items()}


def export(
    tts: MobileSpeech,
    folder: str | Path,
    int8: bool = False,
    provenance: Mapping[str, object] | None = None,
    converted: Mapping[str, onnx.ModelProto] | None = None,
    watermark: bool = False,
) -> Path:
    """Write the folder that `ms_core.export.runtime.MobileRuntime` reads, and return it.

    Args:
        folder: new, empty, or an earlier export, which is replaced.
        int8: see `to_int8`.
        provenance: what the manifest shall say about the checkpoint's making; JSON values.
        converted: what `convert(tts)` returned, to spare doing it again.
        watermark: also write what marks speech (`detect.watermark`); raises WatermarkError where it is not installed.

    Raises ExportError for a folder with other files, or another codec than MiniCodec. The folder appears whole or not
    at all.
    """

    if watermark:
        perth()  # minutes of work come before it is written

    def write(temporary: Path) -> dict[str, object]:
        for name, proto in (convert(tts) if converted is None else converted).items():
            copy = onnx.ModelProto()
            copy.CopyFrom(to_int8(proto) if int8 else proto)
            _share_tables(copy, temporary)
            (temporary / f"{name}.onnx").write_bytes(copy.SerializeToString(deterministic=True))
        if watermark:
            save_encoder(temporary / FILE)
        return {"precision": "int8" if int8 else "fp32", "opset": OPSET}

    return write_folder(tts, folder, write, ("torch", "onnx", "onnxruntime"), provenance)


def write_folder(
    tts: MobileSpeech,
    folder: str | Path,
    write: Callable[[Path], dict[str, object]],
    made_with: Sequence[str],
    provenance: Mapping[str, object] | None = None,
) -> Path:
    """An exported folder: graphs that `write` puts into the folder it is given, the codec's constants, a manifest.

    Args:
        write: returns what the manifest shall say of its graphs.
        made_with: packages whose versions the manifest names.

    Raises ExportError for a folder with other files. The folder appears whole or not at all.
    """
    folder = Path(folder).resolve()
    _check_free(folder)
    _check_codec(tts)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        said = write(temporary)
        codec = tts.codec
        vectors = F.pad(codec.books.detach().float(), (0, 0, 0, 1)).numpy()  # MASK, zero, is the last of each layer
        _share(temporary / VECTORS, vectors.astype(np.float16 if said["precision"] == "int8" else np.float32).tobytes())
        tensors = {k: getattr(codec, k) for k in ("mel_basis", "mean", "components")}
        save_file({k: v.detach().float().contiguous().numpy() for k, v in tensors.items()}, temporary / CONSTANTS)
        files = {p.name: {"bytes": p.stat().st_size, "sha256": digest(p)} for p in sorted(temporary.iterdir())}
        manifest = {
            "format": FORMAT,
            **said,
            "files": files,
            "language": tts.language,
            "phones": list(phone_table(tts.language)),
            "codec": codec.config.model_dump(include=set(CodecConstants.__dataclass_fields__))
            | {"mel_floor": MEL_FLOOR},
            "decoding": tts.decoding.model_dump(
                include=set(Decoding.__dataclass_fields__)
            ),  # the rest is in the graphs
            "chunk_phones": CHUNK_PHONES,
            "token_digest": codec.token_digest,
            "checkpoint_sha256": tts.checkpoint,
            "licence": LICENCE,
            "provenance": {**(provenance or {}), "made_with": {k: version(k) for k in made_with}},
        }
        text = json.dumps(manifest, indent=1, sort_keys=True, allow_nan=False) + "\n"
        (temporary / NAME).write_text(text)
        for path in temporary.iterdir():
            path.chmod(0o644)
        temporary.chmod(0o755)
        _check_free(folder)  # minutes have passed
        earlier = folder.with_name(f"{temporary.name}.earlier")
        if folder.exists():
            os.replace(folder, earlier)
        try:
            os.replace(temporary, folder)
        except OSError:
            if earlier.exists():
                os.replace(earlier, folder)
            raise
        shutil.rmtree(earlier, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _check_free(folder: Path) -> None:
    """Raises ExportError for a folder that holds anything but one earlier export, file by file as its manifest says."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ExportError(f"{folder} is a file: give a folder")
    try:
        manifest = json.loads((folder / NAME).read_text())
        own = {NAME, *manifest["files"]} if manifest["format"] == FORMAT else set()
    except (OSError, ValueError, KeyError, TypeError):
        own = set()
    if foreign := sorted(path.name for path in folder.iterdir() if path.name not in own or not path.is_file()):
        raise ExportError(f"{folder} holds {foreign[0]}, which no export wrote: give a new folder, or remove it")


def _check_codec(tts: MobileSpeech) -> None:
    if not isinstance(tts.codec, MiniCodec):
        raise ExportError(f"a codec of kind {tts.codec.config.kind!r} cannot be exported: only 'mini' can")
    if tts.model.speaker is not None:
        raise ExportError(f"speaker={tts.model.config.speaker!r} cannot be exported: only 'none' and 'pooled' can")
