"""Robustness: hard texts, prompts with noise, prompts of several lengths, exported models.

The paper names noisy prompts as what its model fails on, without numbers; conditions and their values are our choice. A
study speaks every one of its texts under each of its conditions, so that a condition differs from the control by the
same utterances (paired). A prompt that cannot be enrolled, as noise can make it, is counted as refused: the other
numbers are then of the prompts that could, and say so by their n.

Rows and resuming are those of `evaluate`; a row's system is the `name` of its records.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from ms_core import paths
from ms_core.evaluation.eval_set import EvalSet, Item, Prompt, ProtocolError, read_tsv, rng_of
from ms_core.evaluation.evaluate import RowLog, estimate, keep_wav, make_record, metrics_of, run_header
from ms_core.evaluation.noise import babble, mix, white
from ms_core.evaluation.records import CLEAN, PYTORCH, Provenance, Record, Subject, write_records
from ms_core.evaluation.scoring import SPOKEN, score
from ms_core.export.runtime import MobileRuntime
from ms_core.recordings.align import AlignmentError
from ms_core.recordings.audio import AudioError, load_speech
from ms_core.tokens import Voice, VoiceError

Adapt = Callable[[object, Voice], Voice]  # synthesiser, enrolled voice -> adapted voice

TEXTS = paths.ASSETS / "hard-texts.tsv"  # id kind text; tongue twisters are traditional, all else is our own
SHORT = ("one-word", "two-three-word")  # kinds whose lost and added words are counted together as well
VOICES = 3  # that speak each hard text
NOISES = ("white", "babble")
SNRS = (20, 10, 5, 0)  # dB
LENGTHS = (1, 2, 3, 5, 8)  # seconds of prompt
TALKERS, LEAST_TALKERS = 6, 4  # of a babble
METRICS = ("wer", "cer", "sim_campp", "distillmos")


@dataclass(frozen=True)
class HardText:
    """A text that is hard to speak: its name, its kind (`tongue-twister`, `digits` ...) and its words."""

    name: str
    kind: str
    text: str


def hard_texts(limit: int | None = None) -> list[HardText]:
    """The package's hard texts, or the first `limit` of each kind."""
    kinds: dict[str, list[HardText]] = {}
    for row in read_tsv(TEXTS):
        kinds.setdefault(row["kind"], []).append(HardText(row["id"], row["kind"], row["text"]))
    return [text for texts in kinds.values() for text in texts[:limit]]


@dataclass(frozen=True)
class Case:
    """One text to be spoken under one condition.

    condition: "" where a study has but one; item: the utterance of the voice's speaker whose recording SIM compares
    with, and whose text is spoken but for a `hard` one; wav: the prompt (L,); runtime: what speaks instead of the
    synthesiser, with the voice that this enrolled; adapt: what changes that voice before.
    """

    condition: str
    item: Item
    prompt: Prompt
    wav: np.ndarray
    hard: HardText | None = None
    runtime: MobileRuntime | None = None
    adapt: Adapt | None = None

    @property
    def text(self) -> str:
        """What is spoken."""
        return self.hard.text if self.hard else self.item.text


class Experiment:
    """What is spoken under which conditions; every key is spoken under all of them.

    eval_set: of all utterances of a split; limit: of those that are spoken.
    """

    name = ""  # as records have it
    conditions: Mapping[str, Mapping[str, object]] = {"": {}}  # name -> fields of its records
    control: str | None = None

    def __init__(self, eval_set: EvalSet, limit: int | None = None):
        self.eval_set, self.limit, self.split = eval_set, limit, eval_set.split  # the last, as records name it

    @property
    def place(self) -> str:
        """As `Record.place`, for files."""
        return "-".join(dict.fromkeys((self.split, self.name)))

    @cached_property
    def targets(self) -> dict[str, Item]:
        """The utterances that are spoken, by name."""
        return {item.utt: item for item in self.eval_set.targets[: self.limit]}

    def utterances(self) -> list[str]:
        """Names of what is spoken; each is a row for every condition."""
        return list(self.targets)

    def cases(self, key: str, sample_rate: int) -> list[Case]:
        """What one key says, one case a condition."""
        item = self.targets[key]
        prompt = self.eval_set.prompt(item)
        return [Case(c, item, prompt, self.eval_set.cut_wav(prompt, sample_rate)) for c in self.conditions]

    def describe(self) -> str:
        """The study in words, for records; the same for every limit."""
        raise NotImplementedError

    def note(self) -> str:
        """What has to be said of these very utterances, or nothing."""
        return ""

    def parts(self, rows: Sequence[dict]) -> dict[str | None, list[dict]]:
        """Rows by the kind of text that their records name; None: all."""
        return {None: list(rows)}


class HardTexts(Experiment):
    """The package's hard texts, each in the voices of the split's first speakers; `limit` is of texts of each kind."""

    name = "hard-texts"

    def __init__(self, eval_set: EvalSet, limit: int | None = None, voices: int = VOICES):
        super().__init__(eval_set, limit)
        self.split = self.name  # the texts are the package's, whatever split the voices are of
        self.speakers = {item.speaker: item for item in eval_set.targets[:voices]}
        if (count := len(self.speakers)) < voices:
            raise ProtocolError(f"split {eval_set.split!r} has {count} speakers, {voices} voices are wanted")
        self.texts = {text.name: text for text in hard_texts(limit)}

    def utterances(self) -> list[str]:
        return [f"{name}.{speaker}" for name in self.texts for speaker in self.speakers]

    def cases(self, key: str, sample_rate: int) -> list[Case]:
        name, _, speaker = key.partition(".")
        prompt = self.eval_set.prompt(item := self.speakers[speaker])
        return [Case("", item, prompt, self.eval_set.cut_wav(prompt, sample_rate), self.texts[name])]

    def describe(self) -> str:
        return (
            f"hard texts of the package in {len(self.speakers)} voices of {self.eval_set.split}, each from a prompt of "
            f"about 3 s, prompts of seed {self.eval_set.seed}; n and intervals are of texts; SIM against another "
            "recording of the speaker; figures compared as the words that are said"
        )

    def parts(self, rows: Sequence[dict]) -> dict[str | None, list[dict]]:
        by_kind: dict[str | None, list[dict]] = {None: list(rows)}
        for row in rows:
            by_kind.setdefault(row["kind"], []).append(row)
        short = [row for row in rows if row["kind"] in SHORT]
        return by_kind | ({"one-to-three-words": short} if short else {})


class NoisyPrompts(Experiment):
    """A split's sentences with the protocol's prompts, clean and with white noise or babble."""

    name, control = "noisy-prompts", CLEAN

    def __init__(
        self, eval_set: EvalSet, limit: int | None = None, noises: Sequence[str] = NOISES, snrs: Sequence[float] = SNRS
    ):
        super().__init__(eval_set, limit)
        if unknown := [noise for noise in noises if noise not in NOISES]:
            raise ProtocolError(f"unknown noise {', '.join(unknown)}: choose among {', '.join(NOISES)}")
        self.conditions = {CLEAN: {"condition": CLEAN}}
        self.conditions |= {f"{k}-{snr:g}db": {"condition": k, "snr_db": snr} for k in noises for snr in snrs}
        if "babble" in noises:  # before anything is spoken
            eval_set.others(next(iter(self.targets.values())), TALKERS, LEAST_TALKERS)

    def noise(self, item: Item, kind: str, length: int, sample_rate: int) -> np.ndarray:
        """The noise (L,) behind an utterance's prompt, the same at every level."""
        rng = rng_of(self.eval_set.seed, item.utt, kind)
        if kind == "white":
            return white(length, rng)
        talkers = self.eval_set.others(item, TALKERS, LEAST_TALKERS)
        return babble([load_speech(talker.path, sample_rate) for talker in talkers], length, sample_rate, rng)

    def cases(self, key: str, sample_rate: int) -> list[Case]:
        item = self.targets[key]
        prompt = self.eval_set.prompt(item)
        speech = self.eval_set.cut_wav(prompt, sample_rate)
        kinds = {fields["condition"] for fields in self.conditions.values() if "snr_db" in fields}
        noises = {kind: self.noise(item, kind, len(speech), sample_rate) for kind in kinds}
        return [
            Case(name, item, prompt, mix(speech, noises[f["condition"]], f["snr_db"], sample_rate))
            if "snr_db" in f
            else Case(name, item, prompt, speech)
            for name, f in self.conditions.items()
        ]

    def describe(self) -> str:
        return (
            f"{self.eval_set.describe()}; noise on the prompt, also while it is aligned, at a ratio of active speech "
            f"power to noise power; babble of {LEAST_TALKERS} to {TALKERS} other speakers of the split; refused "
            "prompts have no further number"
        )


class PromptLengths(Experiment):
    """A split's sentences with prompts of several lengths, where the speaker has a recording that gives them all."""

    name, control = "prompt-lengths", "prompt-3s"

    def __init__(self, eval_set: EvalSet, limit: int | None = None, lengths: Sequence[float] = LENGTHS):
        super().__init__(eval_set, limit)
        if 3 not in lengths:
            raise ProtocolError(f"prompt lengths {list(lengths)}: 3 s, the control, has to be among them")
        self.lengths = tuple(sorted(lengths))
        self.conditions = {f"prompt-{length:g}s": {"prompt_seconds": length} for length in self.lengths}

    @cached_property
    def prompts(self) -> dict[str, list[Prompt]]:
        """Prompts by utterance, for the first `limit` that have them all; `skipped` counts those passed over."""
        prompts_of, self.skipped = {}, 0
        for item in self.eval_set.targets:
            if self.limit is not None and len(prompts_of) == self.limit:
                break
            prompts = self.eval_set.prompts(item, self.lengths)
            if prompts is None:
                self.skipped += 1
            else:
                prompts_of[item.utt] = prompts
        if not prompts_of:
            lengths = ", ".join(f"{length:g}" for length in self.lengths)
            raise ProtocolError(f"split {self.eval_set.split!r}: no speaker has recordings for prompts of {lengths} s")
        return prompts_of

    def utterances(self) -> list[str]:
        return list(self.prompts)

    def cases(self, key: str, sample_rate: int) -> list[Case]:
        item, named = self.eval_set.items[key], zip(self.conditions, self.prompts[key], strict=True)
        return [Case(name, item, prompt, self.eval_set.cut_wav(prompt, sample_rate)) for name, prompt in named]

    def describe(self) -> str:
        return f"{self.eval_set.describe()}; prompts of several lengths, from one recording where it is long enough"

    def note(self) -> str:
        shared = sum(len({prompt.utt for prompt in prompts}) == 1 for prompts in self.prompts.values())
        return (
            f"; {shared} of {len(self.prompts)} with all lengths from one recording, {self.skipped} utterances passed "
            "over whose speaker has no recording of such length"
        )


class Adaptation(PromptLengths):
    """A split's sentences in voices that were enrolled from a long prompt, and then adapted to it as well.

    adapt: `training.adapt.adapt` with so many steps; the evaluation imports nothing of the training.
    """

    name, control = "adaptation", "prompt-8s"
    SECONDS = 8.0

    def __init__(self, eval_set: EvalSet, limit: int | None, adapt: Adapt, steps: int):
        Experiment.__init__(self, eval_set, limit)
        self.lengths, self.adapt = (self.SECONDS,), adapt
        enrolled = {"prompt_seconds": self.SECONDS}
        self.conditions = {self.control: enrolled, "adapted": {**enrolled, "condition": f"adapted-{steps}-steps"}}

    def cases(self, key: str, sample_rate: int) -> list[Case]:
        item, (prompt,) = self.eval_set.items[key], self.prompts[key]
        wav, adapts = self.eval_set.cut_wav(prompt, sample_rate), (None, self.adapt)
        return [Case(c, item, prompt, wav, adapt=a) for c, a in zip(self.conditions, adapts, strict=True)]

    def describe(self) -> str:
        return f"{self.eval_set.describe()}; prompts of about {self.SECONDS:g} s, with and without adaptation to them"

    def note(self) -> str:
        return ""


class Exports(Experiment):
    """A split's sentences spoken by PyTorch and by exported folders of the same model, all with the same voices."""

    name, control = "exports", PYTORCH

    def __init__(self, eval_set: EvalSet, limit: int | None = None, folders: Sequence[Path] = ()):
        super().__init__(eval_set, limit)
        runtimes = [MobileRuntime(folder) for folder in folders]
        self.runtimes = {runtime.manifest.precision: runtime for runtime in runtimes}
        if not runtimes or len(self.runtimes) < len(runtimes):
            folders = ", ".join(f"{r.folder} ({r.manifest.precision})" for r in runtimes) or "none"
            raise ProtocolError(f"exported folders: {folders}; give at least one, each of another precision")
        self.conditions = {PYTORCH: {"runtime": PYTORCH}}
        self.conditions |= {name: {"runtime": "onnx", "precision": name} for name in self.runtimes}

    def cases(self, key: str, sample_rate: int) -> list[Case]:
        return [replace(c, runtime=self.runtimes.get(c.condition)) for c in super().cases(key, sample_rate)]

    def describe(self) -> str:
        return f"{self.eval_set.describe()}; exported folders beside PyTorch, with the voices that PyTorch enrolled"


EXPERIMENTS = {kind.name: kind for kind in (HardTexts, NoisyPrompts, PromptLengths, Adaptation, Exports)}


def speak(
    tts, name: str, key: str, case: Case, seed: int, metrics: Sequence[str]
) -> tuple[dict[str, object], np.ndarray | None]:
    """The row of one case and what was spoken; a row with `refused` and None for a prompt that cannot be enrolled."""
    hard, prompt = case.hard, case.prompt
    row = {"utt": key, "unit": hard.name if hard else key, "speaker": case.item.speaker, "system": name}
    row |= {"kind": hard.kind if hard else "", "text": case.text}
    row |= {"prompt": prompt.utt, "prompt_seconds": prompt.seconds}
    try:
        voice = tts.voice(case.wav, text=prompt.text, seconds=None)
        voice = case.adapt(tts, voice) if case.adapt else voice
    except (AlignmentError, AudioError, VoiceError) as error:
        return {**row, "refused": f"{type(error).__name__}: {error}"}, None
    wav = np.asarray((case.runtime or tts).synthesize(case.text, voice, seed=seed), dtype=np.float32)
    reference = load_speech(case.item.path, tts.sample_rate)
    scores = score([wav], tts.sample_rate, [case.text], [reference], metrics)[0]
    return {**row, **{k: round(v, 6) if isinstance(v, float) else v for k, v in scores.items()}}, wav


def names_of(experiment: Experiment, system: str, provenance: Provenance) -> dict[str, str]:
    """Condition -> the `name` of its records."""
    shared = provenance.model_dump()
    return {c: Subject(**shared, system=system, **fields).name for c, fields in experiment.conditions.items()}


def summarise(rows: Sequence[dict], experiment: Experiment, system: str, provenance: Provenance) -> list[Record]:
    """Records of a study's rows: each metric under each condition and its paired difference to the control.

    `enrolment_refused` and `prompt_seconds` are of all rows, the rest of those that were spoken; a difference is over
    the utterances that were spoken under both conditions. A condition that was never spoken has the first two alone.
    """
    about, names = experiment.describe() + experiment.note(), names_of(experiment, system, provenance)
    records: list[Record] = []

    def add(kind, condition: str, metric: str, scored: Sequence[dict], minus: Sequence[dict] | None = None) -> None:
        value, n = estimate(scored, metric, minus)
        pair = names[experiment.control] if minus is not None else None
        fields = {"study": experiment.name, "split": experiment.split, "kind": kind, "n": n, "pair_with": pair}
        fields |= {"protocol": f"{about}; paired difference" if pair else about, **experiment.conditions[condition]}
        records.append(make_record(provenance, system, metric, value, **fields))

    for kind, part in experiment.parts(rows).items():
        tried = {c: [row for row in part if row["system"] == name] for c, name in names.items()}
        spoken = {c: {row["utt"]: row for row in tried[c] if "refused" not in row} for c in tried}
        base = spoken.get(experiment.control)
        for condition, rows_by_utt in spoken.items():
            everything = [{**row, "enrolment_refused": float("refused" in row)} for row in tried[condition]]
            for metric in ("enrolment_refused", "prompt_seconds"):
                add(kind, condition, metric, everything)
            both = [utt for utt in rows_by_utt if base and utt in base] if rows_by_utt is not base else []
            for metric in metrics_of(next(iter(rows_by_utt.values()), {})):
                add(kind, condition, metric, list(rows_by_utt.values()))
                if both:
                    add(kind, condition, metric, [rows_by_utt[utt] for utt in both], [base[utt] for utt in both])
    return records


def evaluate_experiment(
    tts,
    system: str,
    experiment: Experiment,
    out: Path,
    provenance: Provenance,
    metrics: Sequence[str] = METRICS,
    keep_audio: bool = False,
) -> list[Record]:
    """Let a synthesiser speak a study and score it; returns the records and writes them, with a JSONL of rows.

    tts: as in `evaluate.evaluate`, its `voice` with `seconds` as well; system, provenance, keep_audio and resuming
    as there. The files are `<out>/<study's place>.<system>.json` and `.jsonl`. Raises ValueError for a metric that
    cannot be taken of new speech, ProtocolError where the split cannot give what the study asks for, EvaluatorError for
    a missing evaluator.
    """
    if unknown := [m for m in metrics if m not in SPOKEN]:
        raise ValueError(f"metrics {unknown} cannot be taken of a study: choose among {', '.join(SPOKEN)}")
    own, names = Subject(**provenance.model_dump(), system=system).name, names_of(experiment, system, provenance)
    stem = Path(out) / f"{experiment.place}.{own}".replace("/", "_")
    run = run_header(tts, own, experiment.describe(), provenance, metrics)
    run |= {"conditions": list(experiment.conditions), "keep_audio": keep_audio}

    def rows_of(key: str) -> list[dict]:
        rows = []
        for case in experiment.cases(key, tts.sample_rate):
            row, wav = speak(tts, names[case.condition], key, case, provenance.seed or 0, metrics)
            rows.append(row)
            if keep_audio and wav is not None:
                keep_wav(out, row["system"], key, wav, tts.sample_rate)
        return rows

    keys = experiment.utterances()
    log = RowLog(stem.with_name(f"{stem.name}.jsonl"), run, systems=len(experiment.conditions))
    rows = log.complete(keys, rows_of, f"{own}: {experiment.place}")
    records = summarise(rows, experiment, system, provenance)
    write_records(stem.with_name(f"{stem.name}.json"), records)
    return records
