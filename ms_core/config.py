"""Configuration: frozen, validated models and the presets that share one code path.

A key that no field has, or a value of the wrong type or range, is an error that names both. Every default that the
paper does not give is our choice; `README.md` lists those choices in one place.
"""

import hashlib
import json
import math
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ms_core import paths

PRESET_NAMES = ("smoke", "mini", "paper")


class ConfigError(ValueError):
    """A configuration that cannot be used; the message says which key, what was given and what is allowed."""


class Config(BaseModel):
    """Base of every config: immutable, no unknown keys, no silent conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def digest(self) -> str:
        """The first 12 hex digits of the sha256 of this config's canonical JSON."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


class CodecConfig(Config):
    """A neural codec. `mini` is ours (16 kHz, 50 Hz); `encodec` is the paper's (24 kHz, 75 Hz)."""

    kind: Literal["mini", "encodec"] = "mini"
    sample_rate: int = Field(16_000, gt=0)  # Hz
    hop: int = Field(320, gt=0)  # samples a codec frame
    n_q: int = Field(8, ge=1, le=32)  # N, codebooks (RVQ layers)
    bins: int = Field(1024, ge=2, le=4096)  # entries a codebook
    # the rest is MiniCodec's alone
    n_mels: int = Field(80, gt=0)  # mel bands of one analysis window
    n_fft: int = Field(640, gt=0)  # analysis and synthesis window, samples
    substeps: int = Field(2, ge=1)  # analysis windows a codec frame: the STFT hop is hop / substeps
    latent_dim: int = Field(64, gt=0)  # principal components of a frame's log-mel that the RVQ codes
    decoder_dim: int = Field(384, gt=0)  # ConvNeXt width
    decoder_layers: int = Field(8, gt=0)
    # EncodecCodec's alone
    vocoder: Literal["encodec", "vocos"] = "encodec"

    @property
    def frame_rate(self) -> float:
        """Codec frames a second."""
        return self.sample_rate / self.hop


class ModelConfig(Config):
    """MobileSpeech's parts. The paper's sizes are unknown: all are our choice (paper.md, section 6)."""

    dim: int = Field(256, gt=0)  # d, width of every part
    heads: int = Field(4, gt=0)
    text_layers: int = Field(4, ge=1)
    prompt_layers: int = Field(2, ge=1)
    smd_layers: int = Field(6, ge=1)
    duration_layers: int = Field(2, ge=1)
    ffn_mult: int = Field(2, ge=1)  # width of each feed-forward over d
    conv_kernel: int = Field(9, ge=1)  # depthwise kernel of the Conformer; 9 as in the authors' code lineage
    dropout: float = Field(0.1, ge=0, lt=1)
    prefix: bool = True  # prompt states as extra keys and values of every Conformer layer
    cross_attention: bool = True  # text states attend to prompt states before the SMD
    prompt_durations: bool = True  # the duration predictor sees the prompt's own durations
    codebook_prior: bool = True  # heads start from the codec's codebook geometry
    prompt_copy: bool = True  # the codebook prior also copies code vectors of the prompt; no effect without it
    # what scales and shifts every SMD block for a voice: nothing, the pooled prompt, or a frozen speaker encoder
    speaker: Literal["none", "pooled", "ge2e"] = "none"

    @model_validator(mode="after")
    def _check(self):
        if self.dim % (2 * self.heads):
            raise ValueError(f"dim {self.dim} must be a multiple of twice the heads ({2 * self.heads}): rotary pairs")
        if self.conv_kernel % 2 == 0:
            raise ValueError(f"conv_kernel {self.conv_kernel} must be odd")
        return self


class MaskConfig(Config):
    """The three mask regimes of Figure 1(b)."""

    alpha: float = Field(0.75, ge=0, le=1)  # share of layer-1 examples with a partial mask; else all is masked
    p_rank: Literal["uniform", "lead", "linear", "harmonic"] = "linear"  # law by which the layer to train is drawn
    loss: Literal["chosen", "all"] = "chosen"  # all: also on the layers above, which are masked whole (OmniVoice's)

    def rank_probabilities(self, n_q: int) -> list[float]:
        """P_rank over layers 1..N, summing to 1.

        `lead`: 1 - 2j/(N(N+1)), normalised (a recollection of the paper that no text confirms); `linear`:
        2(N+1-j)/(N(N+1)); `uniform`: 1/N; `harmonic`: 1/j, normalised, for a short training, in which the layers that
        carry the words come first. Which one the paper uses is unknown: ablated in notebook 05.
        """
        ranks = range(1, n_q + 1)
        total = n_q * (n_q + 1)
        weights = {
            "uniform": [1.0 for _ in ranks],
            "lead": [1 - 2 * j / total for j in ranks] if n_q > 1 else [1.0],
            "linear": [2 * (n_q + 1 - j) / total for j in ranks],
            "harmonic": [1 / j for j in ranks],
        }[self.p_rank]
        return [w / math.fsum(weights) for w in weights]


class DecodingConfig(Config):
    """Iterative parallel decoding (section 3 of paper.md; the paper's own default is unknown)."""

    steps: tuple[int, ...] = Field((16, 1, 1, 1, 1, 1, 1, 1), strict=False)  # passes for each layer; may be a list
    temperature: float = Field(1.0, ge=0)  # of the token drawn in a layer of several passes; 0 is greedy
    choice_temperature: float = Field(1.0, ge=0)  # Gumbel noise on confidences, annealed to 0
    duration_scale: float = Field(1.0, gt=0)  # multiplies predicted durations
    copy_sharpness: float = Field(1.0, gt=0)  # above 1, fewer frames of the prompt are copied than in training

    @model_validator(mode="after")
    def _check(self):
        if not self.steps or min(self.steps) < 1:
            raise ValueError(f"steps {list(self.steps)} must be one positive pass count for each codec layer")
        return self


class TrainConfig(Config):
    """One training run (of the model, or of the codec's decoder)."""

    steps: int = Field(1000, ge=1)
    batch_seconds: float = Field(90.0, gt=0)  # speech a batch
    lr: float = Field(1e-3, gt=0)
    warmup: int = Field(200, ge=0)  # steps of linear warm-up, then cosine decay to a tenth
    betas: tuple[float, float] = Field((0.9, 0.95), strict=False)
    muon: bool = False  # the matrices of linear layers by Muon instead of AdamW
    weight_decay: float = Field(0.01, ge=0)
    grad_clip: float = Field(1.0, gt=0)
    ema: float = Field(0.999, ge=0, lt=1)  # decay of the weight average; 0 turns it off
    bf16: bool = True
    seed: int = 0
    log_every: int = Field(20, ge=1)
    eval_every: int = Field(500, ge=1)
    save_every: int = Field(250, ge=1)
    # model only
    duration_weight: float = Field(1.0, ge=0)
    latent_weight: float = Field(0.0, ge=0)  # auxiliary regression of the codec latent; 0 is the paper's pure CE
    prompt_seconds: float = Field(3.0, gt=0)
    max_seconds: float = Field(10.0, gt=0)  # longest training target, cut at a word boundary
    other_utterance: float = Field(0.5, ge=0, le=1)  # share of prompts from another utterance of the speaker
    own_prompt: float = Field(0.0, ge=0, le=1)  # share cut out of the target itself, which teach to copy what is there
    phrases: float = Field(0.0, ge=0, le=1)  # share of targets that are a few words between pauses, where there are
    prompt_lengths: tuple[float, ...] = Field((), strict=False)  # s of a batch's longest, drawn; else `prompt_seconds`
    # variation, of the mini codec's features alone
    timbre_db: float = Field(0.0, ge=0)  # deviation of a random equaliser on prompt and target
    virtual_voices: float = Field(0.0, ge=0, le=1)  # share of examples whose pitch and formants are shifted apart
    noisy_prompts: float = Field(0.0, ge=0, le=1)  # share of prompts with noise or other speech in them
    # codec only
    crop_seconds: float = Field(2.0, gt=0)
    adversarial_from: float = Field(0.5, ge=0, le=1)  # share of the steps after which the discriminator joins

    @property
    def varied(self) -> bool:
        """Whether each example of the training speech is varied anew."""
        return self.timbre_db > 0 or self.virtual_voices > 0 or self.noisy_prompts > 0


class DataConfig(Config):
    """Where speech comes from and which splits play which part; train and dev may be folders of shards ("/" in it)."""

    corpus: Literal["shipped", "librispeech", "libritts", "libriheavy", "speechocean762"] = "librispeech"
    train: str = "train"
    dev: str = "dev-other"
    test: str = "test-clean-24spk"
    min_seconds: float = Field(1.5, gt=0)
    max_seconds: float = Field(25.0, gt=0)
    per_speaker: int | None = Field(None, ge=1)  # utterances of each speaker of train, the first ones; None: all


class Preset(Config):
    """Everything that one replication run needs."""

    name: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*$")  # names folders of `runs/` and `results/`
    data: DataConfig = DataConfig()
    codec: CodecConfig = CodecConfig()
    model: ModelConfig = ModelConfig()
    mask: MaskConfig = MaskConfig()
    decoding: DecodingConfig = DecodingConfig()
    train_codec: TrainConfig = TrainConfig()
    train_model: TrainConfig = TrainConfig()

    @model_validator(mode="after")
    def _check(self):
        if len(self.decoding.steps) != self.codec.n_q:
            raise ValueError(
                f"decoding.steps has {len(self.decoding.steps)} entries for a codec of {self.codec.n_q} layers"
            )
        if self.train_model.varied and self.codec.kind != "mini":
            raise ValueError(
                "train_model.timbre_db, virtual_voices and noisy_prompts work on the mini codec's features alone"
            )
        return self


def parse(cls: type[Config], values: object, origin: str) -> Config:
    """Validate plain values (from YAML or JSON) as `cls`; raises ConfigError that names origin, key and rule."""
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        lines = [
            f"{'.'.join(map(str, e['loc'])) or '(top)'}: {e['msg']} (given: {e['input']!r})" for e in error.errors()
        ]
        raise ConfigError(f"{origin}: " + "; ".join(lines)) from None


def load_preset(name: str | Path) -> Preset:
    """A preset by its name, or a YAML file of the same form.

    Raises ConfigError for an unknown name, a file that cannot be read, an unknown key or an ill-typed value.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        if str(name) not in PRESET_NAMES:
            raise ConfigError(f"unknown preset {str(name)!r}: choose one of {', '.join(PRESET_NAMES)}, or a .yaml file")
        path = paths.PRESETS / f"{name}.yaml"
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"preset {path}: cannot be read ({error})") from None
    return parse(Preset, values, f"preset {path}")


def override(preset: Preset, changes: dict[str, object]) -> Preset:
    """A copy of a preset with dotted keys replaced, e.g. {"mask.alpha": 0.5}; validated anew.

    Raises ConfigError for a key that no config has or a value that its field refuses.
    """
    values = preset.model_dump(mode="json")
    for key, value in changes.items():
        *parents, leaf = key.split(".")
        node = values
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if not isinstance(node, dict) or leaf not in node:
            raise ConfigError(f"unknown key {key!r} in preset {preset.name}")
        node[leaf] = value
    return parse(Preset, values, f"preset {preset.name}")


class Variant(Config):
    """One row of the ablation study."""

    about: str
    changes: dict[str, object] = {}  # of the preset, by dotted keys
    control: str | None = None  # the variant that it is compared with
    network: Literal["masked", "autoregressive", "regression", "flow"] = "masked"  # the others: ms_core.baselines


class Variants(Config):
    """The ablation study: `common` changes of the preset, and what each variant changes besides."""

    common: dict[str, object] = {}
    variants: dict[str, Variant]

    def presets(self, preset: Preset, changes: dict[str, object] | None = None) -> dict[str, Preset]:
        """Each variant of a preset; `changes`, for all of them, go before a variant's own.

        Raises ConfigError for a key that no config has or a value that its field refuses.
        """
        common = {**self.common, **(changes or {})}
        return {name: override(preset, {**common, **variant.changes}) for name, variant in self.variants.items()}


def load_variants(path: Path = paths.PRESETS / "ablations.yaml") -> Variants:
    """Raises ConfigError for a file that cannot be read, an unknown key, or a control that is no variant."""
    found = parse(Variants, yaml.safe_load(path.read_text()), str(path))
    for name, variant in found.variants.items():
        if variant.control is not None and variant.control not in found.variants:
            raise ConfigError(
                f"{path}: {name} has control {variant.control!r}: choose one of {', '.join(found.variants)}"
            )
    return found
