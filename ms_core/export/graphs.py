"""The parts of MobileSpeech as modules that become programs of a phone, each for one utterance, without padding.

They are the model's own forwards; what the decoder keeps of a voice goes from one to the next as tensors.

`text`, then `prompt` run once for a voice; `text`, `duration` (whose `prompt` are the voice's `duration_states`) and
`condition` once for an utterance; `smd` once for a decoding pass: it yields logits of layer `layer` at the asked
`frames`; `codec` last. `cross` and `prefix` hold attention keys, then values. What a config switches off has no input
and no output.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ms_core.codec.mini import MiniCodec
from ms_core.encoder import Frames
from ms_core.model import MobileSpeechModel
from ms_core.prompt import Condition, PromptStates

ANY_LENGTH = {"p": 11, "q": 7, "s": 23, "t": 37, "r": 19}
"""Axes that may have any length (phones of a text and of a prompt, frames of a prompt, of a text, asked ones), with
those of the examples: all different, so that no two are taken for one."""
SHAPES = {
    "text": {"phones": "1 p"},
    "prompt": {"codes": "1 n s", "phones": "1 q", "index": "1 s", "position": "1 s 2", "states": "1 q d",
               "durations": "1 q"},
    "duration": {"states": "1 p d", "prompt": "1 q d"},
    "condition": {"states": "1 p d", "index": "1 t", "position": "1 t 2", "prompt_mean": "1 d",
                  "cross": "2 1 h s c", "copy_latents": "1 m s v", "content_keys": "1 h s c"},
    "smd": {"text": "1 t d", "codes": "1 n t", "layer": "1", "frames": "r", "prefix": "2 l 1 h s c",
            "copy_keys": "1 h s c", "copy_latents": "1 m s v", "modulation": "1 l 2 d", "content_scores": "1 h t s"},
    "codec": {"latent": "1 v t"},
}  # fmt: skip
"""Of the inputs: n codec layers, m = n + 1 sums of their vectors, d states, h heads of c, l blocks, v latent."""
INTEGERS = {"phones", "codes", "index", "durations", "layer", "frames"}
OUTPUTS = {
    "text": ("states",),
    "prompt": ("prompt_mean", "cross", "prefix", "copy_keys", "copy_latents", "content_keys", "modulation",
               "duration_states"),
    "duration": ("log_durations",),
    "condition": ("text", "content_scores"),
    "smd": ("logits",),
    "codec": ("log_f0", "pulse", "phase", "noise"),
}  # fmt: skip


def present(*tensors: Tensor | None) -> tuple[Tensor, ...]:
    """Those that the config has not switched off."""
    return tuple(tensor for tensor in tensors if tensor is not None)


class TextGraph(nn.Module):
    """Phone encoder."""

    def __init__(self, model: MobileSpeechModel):
        super().__init__()
        self.text = model.text

    def forward(self, phones: Tensor) -> Tensor:
        return self.text(phones, padded=False)


class PromptGraph(nn.Module):
    """Everything of a voice: `MobileSpeechModel.prompt_states` and the duration extractor."""

    def __init__(self, model: MobileSpeechModel):
        super().__init__()
        self.model = model

    def forward(
        self, codes: Tensor, phones: Tensor, index: Tensor, position: Tensor, states: Tensor,
        durations: Tensor | None = None,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        prompt = self.model.prompt_states(codes, phones, Frames(index, position, None), states)
        cross = None if prompt.cross is None else torch.stack(prompt.cross)
        prefix = torch.stack([torch.stack(cache) for cache in prompt.prefix], 1) if prompt.prefix else None
        words = None if durations is None else self.model.extractor(phones, durations, padded=False)
        copy = prompt.copy or (None, None)
        return present(prompt.mean, cross, prefix, *copy, prompt.content_keys, prompt.modulation, words)


class ConditionGraph(nn.Module):
    """Length regulator and cross-attention: `MobileSpeechModel.condition`."""

    def __init__(self, model: MobileSpeechModel):
        super().__init__()
        self.model = model

    def forward(
        self, states: Tensor, index: Tensor, position: Tensor, prompt_mean: Tensor, cross: Tensor | None = None,
        copy_latents: Tensor | None = None, content_keys: Tensor | None = None,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        cross = None if cross is None else (cross[0], cross[1])
        copy = None if copy_latents is None else (None, copy_latents)
        prompt = PromptStates(None, prompt_mean, cross, (), copy, content_keys)
        condition = self.model.condition(states, Frames(index, position, None), prompt)
        return present(condition.text, condition.content_scores)


class SmdGraph(nn.Module):
    """One pass of the speech mask decoder: `SpeechMaskDecoder.forward` at the asked frames."""

    def __init__(self, model: MobileSpeechModel, sharpness: float):
        super().__init__()
        self.model, self.sharpness = model, sharpness

    def forward(
        self, text: Tensor, codes: Tensor, layer: Tensor, frames: Tensor, prefix: Tensor | None = None,
        copy_keys: Tensor | None = None, copy_latents: Tensor | None = None, modulation: Tensor | None = None,
        content_scores: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        smd = self.model.smd
        caches = () if prefix is None else tuple((prefix[0, i], prefix[1, i]) for i in range(len(smd.blocks)))
        copy = None if copy_latents is None else (copy_keys, copy_latents)
        prompt = PromptStates(None, None, None, caches, copy, None, modulation)
        states, copied = smd.states(Condition(text, prompt, content_scores, self.sharpness), codes, layer, None)
        copied = None if copied is None else copied.index_select(1, frames)
        return smd.logits(states.index_select(1, frames), copied, layer)[0]


class CodecGraph(nn.Module):
    """The codec's network, time before frequency."""

    def __init__(self, codec: MiniCodec):
        super().__init__()
        self.decoder = codec.decoder

    def forward(self, latent: Tensor) -> tuple[Tensor, ...]:
        log_f0, *filters = self.decoder.controls(latent)
        return log_f0, *(x.transpose(1, 2) for x in filters)


@dataclass(frozen=True)
class Graph:
    """A module with an example of each input, the axes that may have any length, and its outputs' names."""

    module: nn.Module
    inputs: dict[str, Tensor]
    axes: dict[str, dict[int, str]]
    outputs: tuple[str, ...]

    def shape(self, name: str, lengths: Mapping[str, Any]) -> list:
        """The shape of an input where each axis that may have any length has that of `lengths`."""
        return [lengths.get(self.axes[name].get(i), size) for i, size in enumerate(self.inputs[name].shape)]

    def dynamic_shapes(self, limits: Mapping[str, int]) -> dict[str, dict[int, Any]]:
        """As torch.export takes them: every such axis may be from 1 to its limit."""
        dims = {name: torch.export.Dim(name, min=1, max=limit) for name, limit in limits.items()}
        return {k: {axis: dims[name] for axis, name in axes.items()} for k, axes in self.axes.items()}


def graphs(model: MobileSpeechModel, codec: MiniCodec, sharpness: float = 1.0) -> dict[str, Graph]:
    """The graphs of a codec and its model; sharpness: `DecodingConfig.copy_sharpness`."""
    config, n = model.config, codec.config.n_q
    sizes = {"n": n, "m": n + 1, "d": config.dim, "h": config.heads, "c": config.dim // config.heads,
             "l": config.smd_layers, "v": codec.config.latent_dim, **ANY_LENGTH}  # fmt: skip
    modules = {
        "text": TextGraph(model),
        "prompt": PromptGraph(model),
        "duration": model.duration,
        "condition": ConditionGraph(model),
        "smd": SmdGraph(model, sharpness),
        "codec": CodecGraph(codec),
    }
    switches = {
        "cross": config.cross_attention,
        "prefix": config.prefix,
        "modulation": model.modulation is not None,
        **dict.fromkeys(("durations", "prompt", "duration_states"), config.prompt_durations),
        **dict.fromkeys(("copy_keys", "copy_latents", "content_keys", "content_scores"), model.smd.copy is not None),
    }
    parts = {}
    for graph, module in modules.items():
        shapes = {name: shape.split() for name, shape in SHAPES[graph].items() if switches.get(name, True)}
        inputs = {
            name: torch.ones(
                [sizes.get(axis) or int(axis) for axis in shape], dtype=torch.int64 if name in INTEGERS else None
            )
            for name, shape in shapes.items()
        }
        axes = {k: {i: axis for i, axis in enumerate(shape) if axis in ANY_LENGTH} for k, shape in shapes.items()}
        outputs = tuple(name for name in OUTPUTS[graph] if switches.get(name, True))
        parts[graph] = Graph(module.eval(), inputs, axes, outputs)
    return parts
