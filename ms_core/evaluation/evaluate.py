"""Evaluation: a system speaks a split, evaluators score it beside the recordings, and records carry the numbers.

The paper's tables could not be read; the protocol is VALL-E's (`eval_set.py`), the evaluators are ours (`metrics.py`).
Three rows share each utterance: the system, the recording (`ground-truth`) and the recording through the system's codec
(`ground-truth-codec`). Controls that say whether a number means anything: WER against another sentence's text, and the
similarity to the own speaker less that to a impostor_wav.

Each scored utterance is one line of `<out>/<split>.<system>.jsonl`, so that a run that was cut off goes on where it
stopped; the records follow in `<out>/<split>.<system>.json`. Scores of the recordings are kept apart as well, in
`<out>/<split>.recordings.jsonl`, for the next model that speaks the same split with the same codec.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from ms_core.evaluation.eval_set import DEMO, PROMPT_SECONDS, EvalSet, Item, ProtocolError, demo_rows
from ms_core.evaluation.metrics import count_errors, versions
from ms_core.evaluation.records import Interval, Provenance, Record, Subject, bootstrap, write_records
from ms_core.evaluation.scoring import ALIGNED, SIMS, SPOKEN, score
from ms_core.files import write_atomic, write_wav
from ms_core.recordings.audio import load_speech

RATIO_RANGE = (0.85, 1.15)  # of the length of an output to its recording's
RATIOS = ("duration_ratio", "speech_ratio")  # of whole lengths, and without the silences at both ends
SPEECH_PART = 0.4
EDITS = {  # metric -> the edits that it counts, over the reference words: those of WER apart, and words lost or added
    "wer_sub": "s",
    "wer_del": "d",
    "wer_ins": "i",
    "wer_del_ins": "di",
}
GROUND_TRUTH, GROUND_TRUTH_CODEC = "ground-truth", "ground-truth-codec"
PROMPT = "prompt"  # the folder of prompts among the kept audio


def through_codec(codec, wav: np.ndarray, device: str = "cpu") -> np.ndarray:
    """A waveform (L,) encoded and decoded, cut to its own length."""
    codes = codec.encode(torch.from_numpy(wav)[None, None].to(device))
    return codec.decode(codes)[0, 0, : len(wav)].float().cpu().numpy()


def speech_seconds(wav: np.ndarray, rate: int) -> float:
    """Length from the first to the last 20 ms of speech: silence at both ends is left out, for no text tells how much
    of it a recording has.

    Speech is what lies above `SPEECH_PART` of the way, in dB, from a recording's quiet frames to its loud ones: on
    dev-other, some of it noisy, this is within .02 s of the alignment's ends in the median.
    """
    width = rate // 50
    power = np.square(wav[: len(wav) // width * width], dtype=np.float64).reshape(-1, width).mean(1)
    level = 10 * np.log10(power + 1e-12)
    quiet, loud = np.percentile(level, (3, 95))
    quiet = max(quiet, loud - 60)  # synthetic silence may be nothing at all
    loud = np.flatnonzero(level >= quiet + SPEECH_PART * (loud - quiet))
    return float(loud[-1] + 1 - loud[0]) * width / rate


def _row(item: Item, system: str, scores: dict, wav: np.ndarray, original: np.ndarray, rate: int) -> dict[str, object]:
    row = {"utt": item.utt, "speaker": item.speaker, "system": system, "text": item.text, **scores}
    row["duration_ratio"] = len(wav) / len(original)
    row["speech_ratio"] = speech_seconds(wav, rate) / speech_seconds(original, rate)
    return {key: round(value, 6) if isinstance(value, float) else value for key, value in row.items()}


def _speak(tts, eval_set: EvalSet, item: Item, seed: int) -> np.ndarray:
    """What the system says (L,)."""
    voice = tts.voice(eval_set.prompt_wav(item, tts.sample_rate), eval_set.prompt(item).text, PROMPT_SECONDS)
    return np.asarray(tts.synthesize(item.text, voice, seed=seed), dtype=np.float32)


def _recordings(tts, eval_set: EvalSet, item: Item) -> dict[str, np.ndarray]:
    """Waveforms of the baselines; the recording itself is none where it would be compared with itself."""
    original = load_speech(item.path, tts.sample_rate)
    coded = {GROUND_TRUTH_CODEC: through_codec(tts.codec, original, str(getattr(tts, "device", "cpu")))}
    return coded if eval_set.split == DEMO else {GROUND_TRUTH: original, **coded}


def _rows(
    eval_set: EvalSet, item: Item, wavs: dict[str, np.ndarray], rate: int, metrics: Sequence[str]
) -> list[dict[str, object]]:
    """Scored rows of waveforms that say one utterance, by system."""
    original, reference = load_speech(item.path, rate), eval_set.reference(item, rate)
    count = len(wavs)
    spoken = [m for m in metrics if m in SPOKEN]
    scored = score(list(wavs.values()), rate, [item.text] * count, [reference] * count, spoken)
    pairs = zip(wavs.items(), scored, strict=True)
    rows = [_row(item, name, scores, wav, original, rate) for (name, wav), scores in pairs]
    if sims := [m for m in metrics if m in SIMS]:
        impostor_wav = eval_set.reference(eval_set.impostor(item), rate)
        others = score(list(wavs.values()), rate, None, [impostor_wav] * count, sims)
        for row, scores in zip(rows, others, strict=True):
            row |= {f"{m}_other": round(scores[m], 6) for m in sims}
    aligned = [m for m in metrics if m in ALIGNED]
    if aligned and GROUND_TRUTH_CODEC in wavs:
        scores = score([wavs[GROUND_TRUTH_CODEC]], rate, None, [original], aligned)[0]
        rows[list(wavs).index(GROUND_TRUTH_CODEC)] |= {m: round(scores[m], 6) for m in aligned}
    prompt = eval_set.prompt(item)
    for row in rows:
        row |= {"prompt": prompt.utt, "prompt_seconds": prompt.seconds, "prompt_text": prompt.text}
    return rows


class RowLog:
    """Rows of a run in a JSONL file whose first line tells the run.

    A file of another run is never overwritten: it is put aside as `<name>.<digest of its first line>.kept`, and comes
    back when that run goes on.

    systems: how many rows an utterance has; utterances with fewer (the run was cut off there) are dropped.
    """

    def __init__(self, path: Path, run: dict[str, object], systems: int | None = None):
        self.path, header = Path(path), json.dumps({"run": run}, sort_keys=True)
        lines = self.path.read_text().splitlines() if self.path.is_file() else []
        if lines and lines[0] != header:
            os.replace(self.path, self._kept(lines[0]))
            lines = []
        if not lines and self._kept(header).is_file():
            os.replace(self._kept(header), self.path)
            lines = self.path.read_text().splitlines()
        rows = []
        for line in lines[1:]:
            try:
                rows.append(json.loads(line))
            except ValueError:  # the last line of a run that was cut off
                break
        counts = Counter(row["utt"] for row in rows)
        self.rows = [row for row in rows if systems in (None, counts[row["utt"]])]
        text = "".join(line + "\n" for line in (header, *map(self._line, self.rows)))
        write_atomic(self.path, lambda temporary: temporary.write_text(text))

    def _kept(self, header: str) -> Path:
        return self.path.with_name(f"{self.path.name}.{hashlib.sha256(header.encode()).hexdigest()[:12]}.kept")

    @staticmethod
    def _line(row: dict) -> str:
        return json.dumps(row, allow_nan=False)

    def add(self, rows: Iterable[dict]) -> None:
        """Append the rows of one utterance, at once."""
        rows = list(rows)
        with open(self.path, "a") as file:
            file.write("".join(self._line(row) + "\n" for row in rows))
            file.flush()
            os.fsync(file.fileno())
        self.rows += rows

    def complete(self, utts: Iterable[str], rows_of: Callable[[str], list[dict]], title: str) -> list[dict]:
        """The rows of utterances; those of which there are none are made by `rows_of`, and added one by one."""
        utts, done = list(utts), {row["utt"] for row in self.rows}
        for utt in tqdm(utts, desc=title, unit="utt", disable=None):
            if utt not in done:
                self.add(rows_of(utt))
        return [row for row in self.rows if row["utt"] in set(utts)]


def keep_wav(out: Path, system: str, utt: str, wav: np.ndarray, sample_rate: int) -> None:
    """Write `<out>/audio/<system>/<utt>.wav`."""
    folder = Path(out) / "audio" / system.replace("/", "_")
    folder.mkdir(parents=True, exist_ok=True)
    write_wav(folder / f"{utt}.wav", wav, sample_rate)


def evaluate(
    tts,
    system: str,
    eval_set: EvalSet,
    out: Path,
    provenance: Provenance,
    metrics: Sequence[str] = (*SPOKEN, *ALIGNED),
    baselines: bool = True,
    keep_audio: bool = False,
) -> list[Record]:
    """Let a synthesiser speak a split and score it; returns the records and writes them, with a JSONL of utterances.

    tts: an object with `sample_rate`, `codec`, `voice(wav, text)` and `synthesize(text, voice, seed)`, as MobileSpeech
    has; system: see `records.Subject`; eval_set: see `EvalSet.of_split`; provenance: what made the system, its `seed`
    being that of the synthesis (0 where None), its `steps` what `tts` decodes with where those are not its own.
    baselines: also score the recordings and the codec. keep_audio: write `<out>/audio/<name>/<utt>.wav`, the
    recordings and the prompts (`audio/prompt/`) as well. A run that was cut off goes on from its JSONL when all that
    makes it is the same. Raises ValueError for an unknown metric, ProtocolError where the split cannot give pairs,
    EvaluatorError for a missing evaluator.
    """
    if unknown := [m for m in metrics if m not in (*SPOKEN, *ALIGNED)]:
        raise ValueError(f"unknown metrics {unknown}: choose among {', '.join((*SPOKEN, *ALIGNED))}")
    out, own = Path(out), Subject(**provenance.model_dump(), system=system)
    stem = f"{eval_set.split}.{own.name.replace('/', '_')}"
    seed, rate, items = provenance.seed or 0, tts.sample_rate, {item.utt: item for item in eval_set.targets}
    run = run_header(tts, own.name, eval_set.describe(), provenance, metrics)
    run |= {"baselines": baselines, "keep_audio": keep_audio}
    count = baselines * (1 if eval_set.split == DEMO else 2)
    log = RowLog(out / f"{stem}.jsonl", run, systems=1 + count)
    if baselines:  # the model has no part in their scores: those of an evaluation before are taken
        known = {key: run[key] for key in ("codec_sha256", "protocol", "metrics", "judges")}
        recordings = RowLog(out / f"{eval_set.split}.recordings.jsonl", known, systems=count)

    def rows_of(utt: str) -> list[dict]:
        item = items[utt]
        wavs = {own.name: _speak(tts, eval_set, item, seed)}
        rows = _rows(eval_set, item, wavs, rate, metrics)
        if baselines:
            reference_rows = [row for row in recordings.rows if row["utt"] == utt]
            coded = _recordings(tts, eval_set, item) if keep_audio or not reference_rows else {}
            if not reference_rows:
                reference_rows = _rows(eval_set, item, coded, rate, metrics)
                recordings.add(reference_rows)
            wavs |= coded
            rows += reference_rows
        if keep_audio:
            wavs |= {PROMPT: eval_set.prompt_wav(item, rate), GROUND_TRUTH: load_speech(item.path, rate)}
            for name, wav in wavs.items():
                keep_wav(out, name, utt, wav, rate)
        return rows

    rows = log.complete(items, rows_of, f"{own.name} on {eval_set.split}")
    records = aggregate(rows, provenance, eval_set.split, eval_set.describe(), {own.name: {"system": system}})
    write_records(out / f"{stem}.json", records)
    return records


def run_header(tts, system: str, protocol: str, provenance: Provenance, metrics: Sequence[str]) -> dict[str, object]:
    """What makes a run of an evaluation, for the first line of its `RowLog`."""
    run = provenance.model_dump(include={"preset", "config_hash", "checkpoint_sha256", "codec_sha256"})
    run |= {"system": system, "protocol": protocol, "seed": provenance.seed or 0, "metrics": sorted(metrics)}
    run |= {"judges": _evaluators(metrics)}
    return {**run, "decoding": tts.decoding.model_dump(mode="json") if hasattr(tts, "decoding") else None}


def _evaluators(metrics: Sequence[str]) -> dict[str, str]:
    return {name: text for metric in metrics for name, text in versions(metric).items()}


def shuffled_counts(rows: Sequence[dict], seed: int) -> list[dict[str, int]]:
    """Edits of each transcript against another row's text: the WER of a system that says something else."""
    shift = int(np.random.default_rng(seed).integers(1, len(rows)))
    return [count_errors(rows[(i + shift) % len(rows)]["text"], row["hypothesis"]) for i, row in enumerate(rows)]


def columns_of(rows: Sequence[dict], metric: str) -> tuple[list[float], list[float] | None]:
    """Numbers of a metric an utterance and, for a rate of the corpus, their weights."""
    if metric in ("wer", "cer", *EDITS):
        base = metric.partition("_")[0]
        edits = [sum(row[f"{base}_{edit}"] for edit in EDITS.get(metric, "sdi")) for row in rows]
        return edits, [row[f"{base}_n"] for row in rows]
    if metric.endswith("_margin"):
        base = metric.removesuffix("_margin")
        return [row[base] - row[f"{base}_other"] for row in rows], None
    if metric.endswith("_ratio_share"):
        base = metric.removesuffix("_share")
        return [float(RATIO_RANGE[0] <= row[base] <= RATIO_RANGE[1]) for row in rows], None
    return [row[metric] for row in rows], None


def estimate(rows: Sequence[dict], metric: str, minus: Sequence[dict] | None = None) -> tuple[Interval, int]:
    """A metric, or its paired difference to rows of the same utterances, and n, the number of what is resampled.

    That is the row's `unit`, by default its utterance; a unit that several speakers speak is of no speaker.
    """
    sides = [_by_unit(side, metric) for side in (rows, minus) if side is not None]
    columns = [(side["top"].tolist(), side["bottom"].tolist()) for side in sides]
    return bootstrap(*columns[0], *columns[1:], speakers=sides[0]["speaker"].tolist()), len(sides[0])


def _by_unit(rows: Sequence[dict], metric: str) -> pd.DataFrame:
    """Sums of a metric (`top`) and of its weights (`bottom`) over the rows of each unit, and who speaks it, by unit."""
    values, weights = columns_of(rows, metric)
    table = pd.DataFrame({"top": values, "bottom": 1.0 if weights is None else weights})
    table["unit"] = [row.get("unit", row["utt"]) for row in rows]
    table["speaker"] = [row.get("speaker", "") for row in rows]
    alone = {"top": "sum", "bottom": "sum", "speaker": lambda names: names.iloc[0] if names.nunique() == 1 else ""}
    return table.groupby("unit").agg(alone)


def metrics_of(row: dict) -> list[str]:
    """The metrics that a row can give."""
    names = [m for m in ("wer", "cer") if f"{m}_n" in row] + [m for m in EDITS if "wer_n" in row]
    names += [m for m in (*SPOKEN, *ALIGNED) if m in row]
    names += [f"{m}_margin" for m in SIMS if f"{m}_other" in row]
    return names + [f"{ratio}{kind}" for ratio in RATIOS if ratio in row for kind in ("", "_share")]


def _check_balance(by_system: dict[str, list[dict]]) -> None:
    utts = {system: [row["utt"] for row in rows] for system, rows in by_system.items()}
    first = next(iter(utts.values()), [])
    if not first or len(set(first)) < len(first) or any(names != first for names in utts.values()):
        counts = {system: len(names) for system, names in utts.items()}
        raise ValueError(f"systems must have the same utterances, each once; their rows: {counts}")


def provenance_of(system: str, provenance: Provenance) -> Provenance:
    """What of a run's provenance holds for one of its systems.

    What is not a synthesiser of ours carries no seed, decoding or checkpoint; only recordings through our codec carry
    the codec's hash.
    """
    if system not in (GROUND_TRUTH, GROUND_TRUTH_CODEC) and not system.startswith("authors/"):
        return provenance
    bare = {"seed": None, "config_hash": None, "checkpoint_sha256": None, "steps": None}
    if system != GROUND_TRUTH_CODEC:
        bare["codec_sha256"] = None
    return provenance.model_copy(update=bare)


def make_record(provenance: Provenance, system: str, metric: str, interval: Interval, **fields: object) -> Record:
    """A record of an evaluation."""
    own = provenance_of(system, provenance)
    return own.record(interval, system=system, metric=metric, evaluators=versions(metric), **fields)


def aggregate(
    rows: Sequence[dict],
    provenance: Provenance,
    split: str,
    protocol: str,
    about: Mapping[str, Mapping[str, object]] | None = None,
    study: str = "quality",
) -> list[Record]:
    """Records of scored utterances: each metric of each system, and its paired difference with the codec's ceiling.

    rows: lines of the JSONL, each system having each utterance once. about: fields of the records of a row's system,
    where its name is not all. Raises ValueError for systems with unequal sets of utterances.
    """
    by_system: dict[str, list[dict]] = {}
    for row in sorted(rows, key=lambda row: row["utt"]):
        by_system.setdefault(row["system"], []).append(row)
    _check_balance(by_system)
    ceiling = next((system for system in by_system if system.endswith(GROUND_TRUTH_CODEC)), None)

    def record(system: str, metric: str, interval: Interval, how: str, pair: str | None = None) -> Record:
        fields = {"system": system, "n": len(by_system[system]), "protocol": how, "pair_with": pair}
        fields |= {"study": study, "split": split, **(about or {}).get(system, {})}
        return make_record(provenance, metric=metric, interval=interval, **fields)

    records = []
    for system, scored in by_system.items():
        for metric in metrics_of(scored[0]):
            records.append(record(system, metric, estimate(scored, metric)[0], protocol))
            if ceiling not in (None, system) and metric in SPOKEN:
                paired, _ = estimate(scored, metric, by_system[ceiling])
                records.append(record(system, metric, paired, f"{protocol}; paired difference", ceiling))
        if "wer_n" in scored[0] and len(scored) > 1:
            counts = zip(scored, shuffled_counts(scored, seed=0), strict=True)
            control, _ = estimate([{**row, **others} for row, others in counts], "wer")
            how = f"{protocol}; control: transcripts against other utterances' texts"
            records.append(record(system, "wer_shuffled", control, how))
    return records


def demo_evaluate(
    out: Path,
    provenance: Provenance,
    metrics: Sequence[str] = SPOKEN,
    items: Sequence[int] | None = None,
) -> list[Record]:
    """Score the clips that the authors published: 35 sentences by six systems; writes the records to the file `out`.

    SIM is to the recording of the same sentence, since the prompts are not published. Systems are named `ground-truth`
    and `authors/<name>`. items: only these sentence numbers. An interrupted run goes on by `<out>.jsonl`. Their clips
    are a curated choice: figures are an upper end of what the systems reached.
    """
    if bad := [m for m in metrics if m not in SPOKEN]:
        raise ValueError(f"metrics {bad} cannot be taken of the demo: choose among {', '.join(SPOKEN)}")
    clips: dict[str, dict[str, dict]] = {}  # utterance -> system -> clip
    for row in demo_rows():
        if items is None or int(row["item"]) in set(items):
            system = GROUND_TRUTH if row["system"] == GROUND_TRUTH else f"authors/{row['system']}"
            clips.setdefault(row["librispeech_utt"], {})[system] = row
    if not clips:
        raise ProtocolError(f"no clip of the demo among items {list(items or [])}: it has 1 to 35")
    rate = 16_000

    def rows_of(utt: str) -> list[dict]:
        original, rows = load_speech(clips[utt][GROUND_TRUTH]["path"], rate), []
        for system, clip in clips[utt].items():
            item = Item(utt, utt.split("-")[0], clip["text"], Path(clip["path"]), float(clip["seconds"]))
            scores = score([load_speech(item.path, rate)], rate, [item.text], [original], metrics)[0]
            rows.append(_row(item, system, scores, len(original) / rate))
        return rows

    run = {"split": DEMO, "metrics": sorted(metrics), "judges": _evaluators(metrics)}
    rows = RowLog(Path(out).with_suffix(".jsonl"), run, len(next(iter(clips.values())))).complete(clips, rows_of, DEMO)
    protocol = "the authors' published clips (a curated set); SIM against the recording of the same sentence"
    records = aggregate(rows, provenance, DEMO, protocol)
    write_records(out, records)
    return records
