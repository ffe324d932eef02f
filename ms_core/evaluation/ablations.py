"""The ablation study's numbers: what was measured of each variant, and its differences to its control.

What `training.ablations` trained is measured once: cross-entropy on dev speech by utterance, and as speech by the
judges. A variant's measurements with its configuration and log are one small file (`write_measured`), from which all
records are made, so that variants of several sittings stand in one table. Differences are paired by utterance and
their intervals resample speakers; what another seed changes is read off variants that differ in nothing else.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ms_core.baselines import BaselineSpeech, network_class
from ms_core.codec.mini import MiniCodec
from ms_core.evaluation.eval_set import EvalSet
from ms_core.evaluation.evaluate import columns_of, evaluate, metrics_of
from ms_core.evaluation.metrics import versions
from ms_core.evaluation.records import Interval, Provenance, Record, bootstrap, unit_of
from ms_core.files import sha256, write_atomic
from ms_core.synthesis import MobileSpeech

METRICS = ("wer", "sim_campp", "distillmos")
KEPT_LOG = ("step", "split", "seconds", "loss", "ce", "duration", "skipped")
KEPT_ROW = ("utt", "speaker", "wer_s", "wer_d", "wer_i", "wer_n", "sim_campp", "sim_campp_other",
            "distillmos", "duration_ratio")  # fmt: skip
TOKEN_UNITS = {"ce": "nats", "ce_first": "nats", "duration_loss": "log(d+1)^2"}
SHOWN = {  # metric -> whether more is better
    "ce": False, "ce_first": False, "duration_loss": False, "wer": False, "sim_campp": True, "sim_campp_margin": True,
    "distillmos": True, "duration_ratio_share": True,
}  # fmt: skip


def load_variant(export: Path, codec: MiniCodec) -> MobileSpeech:
    """A variant that speaks, with as many of the codec's layers as it was trained on."""
    meta = json.loads((export / "config.json").read_text())
    layers, kind = meta["codec_config"]["n_q"], meta["provenance"].get("network", "masked")
    codec = codec if layers == codec.config.n_q else codec.lowest(layers)
    model = network_class(kind).load(export, codec)
    speech = MobileSpeech if kind == "masked" else BaselineSpeech
    return speech(codec, model, model.decoding, sha256(export / "weights.safetensors"))


def measure(
    home: Path, codec: MiniCodec, preset: str, trials: EvalSet | None, metrics: Sequence[str] = METRICS
) -> dict[str, Any]:
    """Everything about one variant in `home`, which `training.ablations.train_variants` wrote.

    trials: what it speaks; None leaves speech out. Judged utterances are kept in `<home>/speech`, by which a measuring
    that was cut off goes on.
    """
    tts = load_variant(home / "export", codec)
    made = Provenance.of(preset, seed=0, config_hash=tts.decoding.digest()).model_dump()
    made["checkpoint_sha256"] = tts.checkpoint
    speech: list[dict] = []
    if trials is not None:
        system, out = f"mobilespeech-{preset}", home / "speech"
        evaluate(tts, system, trials, out, Provenance(**made), metrics, baselines=False)
        lines = (out / f"{trials.split}.{system}.jsonl").read_text().splitlines()[1:]
        speech = [{key: row[key] for key in KEPT_ROW if key in row} for row in map(json.loads, lines)]
    log = [json.loads(line) for line in (home / "log.jsonl").read_text().splitlines()]
    return {
        "made": made,
        "run": json.loads((home / "run.json").read_text()),
        "params": sum(p.numel() for p in tts.model.parameters()),
        "split": trials.split if trials else None,
        "speech_protocol": trials.describe() if trials else "",
        "log": [{key: row[key] for key in KEPT_LOG if key in row} for row in log],
        "tokens": json.loads((home / "export" / "dev.json").read_text()),
        "speech": speech,
    }


def write_measured(file: Path, facts: Mapping[str, Any]) -> None:
    """One line an entry, rows one each: a few kB."""

    def text(value: object) -> str:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)

    def entry(value: object) -> str:
        rows = value if isinstance(value, list) and value and isinstance(value[0], dict) else None
        return text(value) if rows is None else "[\n" + ",\n".join(map(text, rows)) + "\n]"

    body = ",\n".join(f"{text(key)}:{entry(value)}" for key, value in sorted(facts.items()))
    write_atomic(file, lambda temporary: temporary.write_text(f"{{\n{body}\n}}\n"))


def read_measured(folder: Path) -> dict[str, dict[str, Any]]:
    """Measurements by variant, of the files in a folder."""
    return {file.stem: json.loads(file.read_text()) for file in sorted(Path(folder).glob("*.json"))}


def equal_budget(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two variants heard the same speech for as long, so that a difference is the variant's."""

    def budget(facts: Mapping[str, Any]) -> tuple:
        config = facts["run"]["train_model"]
        last = facts["log"][-1]["step"]
        return facts["run"]["pack"], config["steps"], config["batch_seconds"], last

    return budget(one) == budget(other)


def columns(facts: Mapping[str, Any]) -> dict[tuple[str, int | None], tuple[list[str], list, list | None, list[str]]]:
    """(metric, layer) -> (utterances, numbers, weights or None, speakers), as `records.bootstrap` takes them."""
    rows, out = facts["tokens"], {}
    names = [str(row["utterance"]) for row in rows], [str(row["speaker"]) for row in rows]
    if rows:  # a baseline has none
        layers, frames = len(rows[0]["ce"]), [row["frames"] for row in rows]
        for layer in range(1, layers + 1):
            out["ce", layer] = names[0], [row["ce"][layer - 1] for row in rows], frames, names[1]
        out["ce", None] = names[0], [sum(row["ce"]) for row in rows], [layers * f for f in frames], names[1]
        out["ce_first", None] = names[0], [r["ce_whole"] for r in rows], [r["frames_whole"] for r in rows], names[1]
        out["duration_loss", None] = names[0], [row["duration"] for row in rows], None, names[1]
    spoken = sorted(facts["speech"], key=lambda row: row["utt"])
    for metric in set(SHOWN) & set(metrics_of(spoken[0])) if spoken else ():
        heard = [row["utt"] for row in spoken], [row["speaker"] for row in spoken]
        out[metric, None] = heard[0], *columns_of(spoken, metric), heard[1]
    return out


def study_records(measured: Mapping[str, Mapping[str, Any]], controls: Mapping[str, str | None]) -> list[Record]:
    """Records of measured variants: each metric, and its paired difference to the variant's control.

    controls: of each variant; None for the base. There is no difference where the control was not measured, had
    another budget, or has another number of codec layers (for what is a mean over them).
    """
    records = []
    for name, facts in measured.items():
        control = measured.get(controls.get(name) or "")
        other = columns(control) if control and equal_budget(facts, control) else {}
        if ("ce", facts["run"]["codec"]["n_q"]) not in other or ("ce", facts["run"]["codec"]["n_q"] + 1) in other:
            other.pop(("ce", None), None)
        made, seconds = Provenance(**facts["made"]), facts["run"]["train_model"]["batch_seconds"]
        budget = f"{facts['log'][-1]['step']} steps of {seconds:g} s, {facts['params']} parameters"
        system = f"mobilespeech-{made.preset}"
        for (metric, layer), (utts, values, weights, speakers) in columns(facts).items():
            of_tokens = metric in TOKEN_UNITS
            split = facts["run"]["data"]["dev"] if of_tokens else facts["split"]
            how = f"{budget}; {'masks that no variant changes' if of_tokens else facts['speech_protocol']}"
            fields = {**made.model_dump(), "study": "ablations", "system": system, "condition": name, "split": split}
            fields |= {"metric": metric, "layer": layer, "unit": TOKEN_UNITS.get(metric) or unit_of(metric)}
            fields |= {"n": len(utts), "evaluators": {} if of_tokens else versions(metric)}
            value = bootstrap(values, weights, speakers=speakers)
            records.append(Record(**fields, **value.fields(), protocol=how))
            if (metric, layer) in other and other[metric, layer][0] == utts:
                value = bootstrap(values, weights, other[metric, layer][1:3], speakers)
                pair = {"protocol": f"{how}; paired difference", "pair_with": f"{system}-{controls[name]}"}
                records.append(Record(**fields, **value.fields(), **pair))
    return records


def verdict(difference: Interval, more_is_better: bool, seeds: Sequence[float] = ()) -> str:
    """In words what a paired difference to the control allows: `seeds` are such differences of nothing but the seed."""
    if difference.low is None:
        return "one utterance: nothing"
    if difference.low <= 0 <= difference.high:
        return "no difference seen"
    if seeds and abs(difference.value) <= max(map(abs, seeds)):
        return "no more than another seed"
    word = "better" if (difference.value > 0) == more_is_better else "worse"
    return word if seeds else f"{word}, in one training each"
