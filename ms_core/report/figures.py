"""Figures out of result records and training logs, in one style; colours and markers are safe for colour-blind readers.

Figures are regenerated, never edited: equal records give equal bytes on one installation. Every function returns a
matplotlib Figure; `draw_all` writes PNG to `figures/<preset>/`.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ms_core import paths
from ms_core.config import load_preset
from ms_core.evaluation import run_history
from ms_core.evaluation.records import MILESTONES, Record, read_records
from ms_core.evaluation.run_history import Milestone
from ms_core.files import write_atomic
from ms_core.report.listening import SCALES
from ms_core.report.tables import (
    CONDITION,
    QUALITY,
    QUOTED_RTF,
    RTF_SPLIT,
    RTF_THREADS,
    STUDY,
    bench_seconds,
    system_order,
)

STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e5e5e5",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "figure.dpi": 100,
    "savefig.dpi": 160,
}
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"  # Okabe and Ito (2008)
CYCLE = (BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9", "#E69F00", "#000000")
DASHES = ("-", "--", ":", "-.", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)))
EDITS = {
    "wer_sub": ("substituted", BLUE, ""),
    "wer_del": ("deleted", ORANGE, "/////"),
    "wer_ins": ("inserted", GREY, "..."),
}
PARTS = {  # of RTF -> name
    "text": "text", "prompt": "prompt states", "duration": "durations", "smd": "mask decoder", "codec": "codec",
    "voice": "enrolment (apart)",
}  # fmt: skip
EXPORTED = "exported models, beside PyTorch"
RTF_TICKS = (0.01, 0.03, 0.1, 0.3, 1.0)
EXPORTS = {"pytorch": "PyTorch", "fp32": "ONNX fp32", "int8": "ONNX int8"}  # end of a judged system's name -> name
HARD = "hard-texts"  # split of a study whose parts are kinds of texts
PANELS = {**{m: QUALITY[m][0] for m in ("wer", "sim_campp", "distillmos")}, "enrolment_refused": "prompts refused ↓"}
GROUPS = (  # of systems: start of the name, colour, marker
    ("ground-truth", GREY, "D"),
    ("mobilespeech-", BLUE, "o"),
    ("peer/", GREEN, "^"),
    ("authors/ground-truth-codec", GREY, "s"),
    ("authors/", ORANGE, "s"),
)
LABELS = {
    "ground-truth": "recording",
    "ground-truth-codec": "recording through our codec",
    "authors/ground-truth-codec": "recording through their codec",
    "authors/mobilespeech": "MobileSpeech (authors' clips)",
    "authors/mega-tts": "Mega-TTS (authors' clips)",
    "authors/vall-e": "VALL-E (authors' clips)",
    "authors/yourtts": "YourTTS (authors' clips)",
}


def label(system: str) -> str:
    """A system's name for readers."""
    if match := re.fullmatch(r"mobilespeech-(.+?)(-bf16)?(?:-steps(\d+))?", system):
        name, half, steps = match.groups()
        return ", ".join(["ours", name.replace("-", " "), *["bf16"] * bool(half), *[f"S={steps}"] * bool(steps)])
    return LABELS.get(system, system.removeprefix("peer/"))


def group_style(system: str) -> tuple[str, str]:
    """Colour and marker of a system's group."""
    return next(((colour, marker) for start, colour, marker in GROUPS if system.startswith(start)), (GREEN, "^"))


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write `<name>.png`, without version inside; returns its path in a list."""
    path = Path(folder) / f"{name}.png"
    with mpl.rc_context(STYLE):
        write_atomic(path, lambda temporary: figure.savefig(temporary, format="png", metadata={"Software": None}))
    return [path]


def _panels(rows: int, columns: int, width: float, height: float, **options) -> tuple[Figure, list[Axes]]:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, **options).ravel().tolist()
    return figure, axes


def _error(record: Record) -> list[list[float]] | None:
    """Lengths of the interval below and above the value, as matplotlib's xerr and yerr take them."""
    if record.ci_low is None:
        return None
    return [[max(0.0, record.value - record.ci_low)], [max(0.0, record.ci_high - record.value)]]


def _quality(records: Sequence[Record], split: str) -> dict[tuple[str, str], Record]:
    """(system, metric) -> record of a split, without differences."""
    return {(r.system, r.metric): r for r in records if r.split == split and r.pair_with is None}


def metric_dots(records: Sequence[Record], split: str, metrics: Sequence[str] = tuple(QUALITY)[:6]) -> Figure:
    """Dot plot with intervals: a panel a metric, a row a system. Raises ValueError where nothing was measured."""
    found = _quality(records, split)
    systems = sorted({s for s, m in found if m in metrics and not re.search(r"-steps\d+$", s)}, key=system_order)
    metrics = [m for m in metrics if any((s, m) in found for s in systems)]
    if not systems:
        raise ValueError(f"no record of {', '.join(QUALITY)} on split {split!r}: evaluate it first")
    columns = min(3, len(metrics))
    rows = -(-len(metrics) // columns)
    figure, axes = _panels(rows, columns, 2.0 + 1.9 * columns, 0.5 + rows * (0.55 + 0.2 * len(systems)), sharey=True)
    with mpl.rc_context(STYLE):
        for axis, metric in zip(axes, metrics, strict=False):
            for row, system in enumerate(systems):
                if (record := found.get((system, metric))) is None:
                    continue
                colour, marker = group_style(system)
                axis.errorbar(record.value, row, xerr=_error(record), fmt=marker, color=colour, elinewidth=1.2)
            axis.set_title(QUALITY[metric][0])
            axis.set_yticks(range(len(systems)), [label(system) for system in systems])
            axis.set_ylim(len(systems) - 0.5, -0.5)
            axis.margins(x=0.12)
            axis.tick_params(axis="y", length=0)
        for axis in axes[len(metrics) :]:
            axis.set_visible(False)
        n = sorted({r.n for (s, m), r in found.items() if s in systems and m in metrics})
        figure.supxlabel(f"{split}, n = {'/'.join(map(str, n))} utterances; bars: 95 % bootstrap interval", fontsize=8)
    return figure


def _word_bars(records: Sequence[Record], split: str) -> list[tuple[str, dict[str, Record]]]:
    """(label, metric -> record) of what `word_errors` draws: systems, or kinds of hard texts of each system."""
    splits = [split] if split != HARD else sorted({r.split for r in records if r.split.startswith(HARD)})
    found = {one: _quality(records, one) for one in splits}
    systems = sorted({s for table in found.values() for s, m in table if m == "wer_sub"}, key=system_order)
    bars = []
    for system in systems:
        for one in splits:
            kind = (STUDY.fullmatch(one)["kind"] or "all").replace("-", " ") if split == HARD else ""
            name = ": ".join([label(system)] * (not kind or len(systems) > 1) + [kind] * bool(kind))
            bars.append((name, {m: r for (s, m), r in found[one].items() if s == system}))
    return [(name, metrics) for name, metrics in bars if "wer_sub" in metrics]


def word_errors(records: Sequence[Record], split: str) -> Figure:
    """Bars of words substituted, deleted and inserted, which add up to WER, with its interval; a row a system.

    For `hard-texts` a row is a kind of text. Raises ValueError where no record has the edits apart.
    """
    bars = _word_bars(records, split)
    if not bars:
        raise ValueError(f"no record of {', '.join(EDITS)} on split {split!r}: evaluate it first")
    figure, (axis,) = _panels(1, 1, 6.4, 1.1 + 0.24 * len(bars))
    with mpl.rc_context({**STYLE, "hatch.linewidth": 0.7}):
        for row, (_, found) in enumerate(bars):
            left = 0.0
            for metric, (name, colour, hatch) in EDITS.items():
                value = found[metric].value
                style = {"color": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0, "height": 0.7}
                axis.barh(row, value, left=left, label=name if row == 0 else None, **style)
                left += value
            total = found["wer"]
            axis.errorbar(total.value, row, xerr=_error(total), fmt="none", color="black", elinewidth=1, capsize=2)
        names = [f"{name} (n = {found['wer'].n})" for name, found in bars]
        axis.set_yticks(range(len(bars)), names)
        axis.set_ylim(len(bars) - 0.4, -0.6)
        axis.set_xlim(left=0)
        axis.tick_params(axis="y", length=0)
        axis.grid(axis="y", visible=False)
        what = "texts" if split == HARD else "utterances"
        axis.set_xlabel("errors a word")
        figure.supxlabel(f"{split}, n = {what}; lines: 95 % bootstrap interval of WER", fontsize=8)
        figure.legend(loc="outside upper right", ncols=len(EDITS))
    return figure


def prompt_conditions(records: Sequence[Record], split: str) -> Figure:
    """WER, SIM and more against the noise on the prompt, or against its length. Raises ValueError without records."""
    table = _quality(records, split)
    bases = sorted({CONDITION.sub("", s) for s, _ in table if CONDITION.search(s)}, key=system_order)
    if not bases:
        raise ValueError(f"no record of a condition on split {split!r}: evaluate it first")
    found: dict[str, dict[str, Record]] = {}  # condition -> metric -> record
    for (system, metric), record in table.items():
        if CONDITION.sub("", system) == bases[0] and (match := CONDITION.search(system)):
            found.setdefault(match[1], {})[metric] = record
    noises = {condition.partition("-")[0] for condition in found} & {"white", "babble"}
    panels = {m: t for m, t in PANELS.items() if any(m in f for f in found.values()) and (noises or m in QUALITY)}
    figure, axes = _panels(1, len(panels), 0.4 + 2.1 * len(panels), 2.5)
    with mpl.rc_context(STYLE):
        for axis, (metric, title) in zip(axes, panels.items(), strict=True):
            if noises:
                _against_noise(axis, found, metric, sorted(noises))
            else:
                known = [f for f in found.values() if metric in f]
                _line(axis, sorted((f["prompt_seconds"].value, f[metric]) for f in known), 0, "")
                axis.set_xlim(left=0)
                axis.set_xlabel("length of the prompt, s (mean)")
            axis.set_title(title)
            axis.margins(y=0.12)
        if noises:
            axes[0].legend()
        n = sorted({r.n for f in found.values() for m, r in f.items() if m in panels})
        counted = f"n = {n[-1]} utterances" + f", down to {n[0]} where prompts were refused" * (len(n) > 1)
        where = f"{label(bases[0])} on {STUDY.fullmatch(split)['base']}"
        figure.supxlabel(f"{where}; {counted}; bars: 95 % bootstrap interval", fontsize=8)
    return figure


def _line(axis: Axes, points: Sequence[tuple[float, Record]], index: int, name: str) -> None:
    """A line through (place, record) with intervals, in the index-th colour."""
    colour = CYCLE[index]
    style = {"color": colour, "linestyle": DASHES[index], "marker": "os^"[index], "label": name or None}
    axis.plot([x for x, _ in points], [r.value for _, r in points], **style)
    for x, record in points:
        axis.errorbar(x, record.value, yerr=_error(record), fmt="none", color=colour, elinewidth=1)


def _against_noise(axis: Axes, found: dict[str, dict[str, Record]], metric: str, noises: Sequence[str]) -> None:
    """A line a noise against SNR from high to low, and the clean prompt as a level with its interval."""
    levels = sorted({int(re.search(r"(\d+)db$", c)[1]) for c in found if c.endswith("db")}, reverse=True)
    if clean := found.get("clean", {}).get(metric):
        axis.axhline(clean.value, color=GREY, linewidth=0.9, linestyle=":", label="clean")
        if clean.ci_low is not None:
            axis.axhspan(clean.ci_low, clean.ci_high, color=GREY, alpha=0.15, linewidth=0)
    for index, noise in enumerate(noises):
        shift = 0.06 * (2 * index - 1)  # side by side
        at = [(i + shift, found.get(f"{noise}-{level}db", {}).get(metric)) for i, level in enumerate(levels)]
        _line(axis, [(x, record) for x, record in at if record], index, noise)
    axis.set_xticks(range(len(levels)), [str(level) for level in levels])
    axis.set_xlim(-0.5, len(levels) - 0.5)
    axis.set_xlabel("SNR of the prompt, dB")


def _by_steps(records: Sequence[Record], preset: str) -> dict[str, int]:
    """System -> passes in layer 1, of our system and its `-steps<S>` variants.

    Where the model's own number of passes was judged as a variant too, that one stands, beside the others on the same
    utterances.
    """
    base = f"mobilespeech-{preset}"
    default = load_preset(preset).decoding.steps[0]
    found = {}
    for system in {r.system for r in records}:
        if system == base:
            found[system] = default
        elif match := re.fullmatch(rf"{re.escape(base)}-steps(\d+)", system):
            found[system] = int(match[1])
    if f"{base}-steps{default}" in found:
        found.pop(base, None)
    return dict(sorted(found.items(), key=lambda entry: entry[1]))


def steps_tradeoff(records: Sequence[Record], split: str, preset: str, sim: str = "sim_campp") -> Figure:
    """WER and SIM against the passes in layer 1; against their time they are in `quality_speed`.

    Raises ValueError with fewer than two step counts.
    """
    quality = _quality(records, split)
    steps = {s: n for s, n in _by_steps(records, preset).items() if (s, "wer") in quality}
    if len(steps) < 2:
        raise ValueError(f"{len(steps)} step counts of mobilespeech-{preset} on {split!r}: at least two are needed")
    figure, axes = _panels(1, 2, 6.4, 2.6)
    with mpl.rc_context(STYLE):
        for axis, metric in zip(axes, ("wer", sim), strict=True):
            known = [(n, quality[s, metric]) for s, n in steps.items() if (s, metric) in quality]
            _line(axis, known, 0, "")
            axis.margins(x=0.14, y=0.14)
            axis.set_title(QUALITY[metric][0])
            axis.set_xlabel("S, passes in codec layer 1")
            axis.set_xscale("log", base=2)
            axis.set_xticks([n for n, _ in known], [str(n) for n, _ in known])
            axis.minorticks_off()
        n = "/".join(str(n) for n in sorted({quality[s, "wer"].n for s in steps}))
        figure.supxlabel(f"{split}, n = {n} utterances; bars: 95 % bootstrap interval", fontsize=8)
    return figure


def _rtf(records: Sequence[Record]) -> dict[str, Record]:
    """System -> rtf_total of the main bench."""
    main = [r for r in records if (r.metric, r.split, r.threads) == ("rtf_total", RTF_SPLIT, RTF_THREADS)]
    return {r.system: r for r in main}


class _Judged(NamedTuple):
    """A point of `quality_speed`: the line it is on, its name, its RTF and its quality by metric."""

    line: str
    name: str
    rtf: Record
    quality: dict[str, Record]


def _judged(records: Sequence[Record], split: str, preset: str) -> list[_Judged]:
    """Our systems of known RTF and WER; exported models are judged on a split of their own, beside PyTorch."""
    speed, base = _rtf(records), f"mobilespeech-{preset}"
    if base in speed:  # the sweep does not time the model's own passes twice
        speed.setdefault(f"{base}-steps{load_preset(preset).decoding.steps[0]}", speed[base])
    passes = {system: f"S={n}" for system, n in _by_steps(records, preset).items()}
    exports = {f"{base}-{end}": name for end, name in EXPORTS.items()}
    found = []
    for line, systems, where in (("passes in layer 1", passes, split), (EXPORTED, exports, f"{split}-exports")):
        quality = _quality(records, where)
        for system, name in systems.items():
            if system in speed and (system, "wer") in quality:
                own = {metric: record for (s, metric), record in quality.items() if s == system}
                found.append(_Judged(line, name, speed[system], own))
    return found


def quality_speed(records: Sequence[Record], split: str, preset: str, sim: str = "sim_campp") -> Figure:
    """WER and SIM over RTF: the passes in layer 1, and exported models where judged; the paper's two RTFs as marks.

    The paper's marks say nothing of its quality: they are vertical. Raises ValueError with fewer than two points.
    """
    points = _judged(records, split, preset)
    if len(points) < 2:
        raise ValueError(
            f"{len(points)} systems have both WER on {split!r} and RTF on {RTF_SPLIT}: at least two needed"
        )
    lines = list(dict.fromkeys(point.line for point in points))
    figure, axes = _panels(1, 2, 7.6, 3.4)
    with mpl.rc_context(STYLE):
        for axis, metric in zip(axes, ("wer", sim), strict=True):
            for index, line in enumerate(lines):
                known = [p for p in points if p.line == line and metric in p.quality]
                colour = CYCLE[index]
                places = [p.rtf.value for p in known], [p.quality[metric].value for p in known]
                axis.plot(*places, color=colour, linestyle=DASHES[index], linewidth=0.8, marker="os"[index], label=line)
                for point, x, y in zip(known, *places, strict=True):
                    quality = point.quality[metric]
                    bars = {"xerr": _error(point.rtf), "yerr": _error(quality)}
                    axis.errorbar(x, y, **bars, fmt="none", color=colour, elinewidth=1)
                    style = {"color": colour, "fontsize": 6.5, "textcoords": "offset points"}
                    if point.name == EXPORTS["pytorch"]:  # it stands where its number of passes does
                        axis.annotate(point.name, (x, y), (-4, -9), ha="right", **style)
                    else:
                        top = y if quality.ci_high is None else quality.ci_high
                        axis.annotate(point.name, (x, top), (0, 3), ha="center", va="bottom", rotation=90, **style)
            for name, reported in QUOTED_RTF.items():
                low, *high = (float(value) for value in reported.value.split("–"))
                axis.axvspan(low, (high or [low])[0], color=GREY, alpha=0.35, linewidth=1)
                place = {"rotation": 90, "ha": "right", "va": "bottom", "transform": axis.get_xaxis_transform()}
                axis.text(low, 0.02, f"paper, quoted: {name} {reported.value}", fontsize=6.5, color=GREY, **place)
            axis.set_xscale("log")
            axis.set_xticks(RTF_TICKS, [f"{x:g}" for x in RTF_TICKS])
            axis.set_xlabel(f"RTF, {bench_seconds(RTF_SPLIT):g} s of speech, {RTF_THREADS} thread")
            axis.set_title(QUALITY[metric][0])
            axis.margins(x=0.08, y=0.4)  # room for the names
            if metric == "wer":
                axis.set_ylim(bottom=0)
        handles, _ = axes[0].get_legend_handles_labels()
        devices = [" / ".join(sorted({p.rtf.device for p in points if p.line == line})) for line in lines]
        names = [f"{line}; {device}" for line, device in zip(lines, devices, strict=True)]
        figure.legend(handles, names, loc="outside upper left", fontsize=7)
        n = "/".join(map(str, sorted({p.quality["wer"].n for p in points})))
        rounds = "/".join(map(str, sorted({p.rtf.n for p in points})))
        about = f"{split}, n = {n} utterances; RTF over n = {rounds} repeats; bars: 95 % bootstrap interval"
        figure.supxlabel(about, fontsize=8)
    return figure


def read_log(path: Path) -> list[dict]:
    """Rows of a training log (JSONL); a last line that was cut off is left out. Raises ValueError for another form."""
    rows = []
    lines = Path(path).read_text().splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError:
            if number == len(lines):
                break
            raise ValueError(f"{path}, line {number}: not JSON") from None
        if isinstance(row, dict) and "step" in row:
            rows.append(row)
    return rows


def _series(rows: Sequence[dict], split: str, key: str) -> tuple[list[float], list[float]]:
    points = [(r["step"], r[key]) for r in rows if r.get("split") == split and r.get(key) is not None]
    return [x for x, _ in points], [y for _, y in points]


def training_curves(rows: Sequence[dict], layers: Sequence[int] = (1, 2, 4, 8)) -> Figure:
    """Losses of train and dev, and dev cross-entropy and accuracy of some codec layers where logged, against steps.

    Of a codec, whose training loss has adversarial terms that dev has not, two spectral distances are drawn instead.
    """
    spectral = [key for key in ("log_magnitude", "pitch", "log_mel") if _series(rows, "train", key)[0]]
    losses = {"loss": "loss", "log_mel": "log-mel distance", "log_magnitude": "log-magnitude distance"}
    losses["pitch"] = "error of log F0"
    wanted = [(losses[key], [("train", key), ("dev", key)]) for key in spectral or ["loss"]]
    wanted += [("cross-entropy by layer, dev", [("dev", f"ce_{j}") for j in layers])]
    wanted += [("accuracy by layer, dev", [("dev", f"acc_{j}") for j in layers])]
    panels = [(title, [w for w in lines if _series(rows, *w)[0]]) for title, lines in wanted]
    panels = [(title, lines) for title, lines in panels if lines]
    if not panels:
        raise ValueError('no row of the log has "split": "train" or "dev" with a "loss": nothing to draw')
    figure, axes = _panels(1, len(panels), 0.4 + 2.8 * len(panels), 2.5)
    with mpl.rc_context(STYLE):
        for axis, (title, lines) in zip(axes, panels, strict=True):
            for i, (split, key) in enumerate(lines):
                x, y = _series(rows, split, key)
                name = split if key in losses else f"layer {key.split('_')[1]}"
                axis.plot(x, y, color=CYCLE[i], linestyle=DASHES[i], marker="." if len(x) < 30 else "", label=name)
            axis.set_title(title)
            axis.set_xlabel("step")
            axis.legend()
    return figure


def milestones_over_hours(rows: Sequence[Milestone]) -> Figure:
    """WER, SIM and DistillMOS of a preset's milestones against hours of training. Raises ValueError without a row."""
    if not rows:
        raise ValueError("no milestone: evaluate a model with --milestone first")
    figure, axes = _panels(1, len(run_history.METRICS), 8.0, 2.4)
    with mpl.rc_context(STYLE):
        for axis, metric in zip(axes, run_history.METRICS, strict=True):
            rows = sorted(rows, key=lambda row: row.hours)
            values = np.array([getattr(row, metric) for row in rows])  # (rows, 3)
            error = np.abs(values[:, 1:] - values[:, :1]).T
            axis.errorbar([r.hours for r in rows], values[:, 0], yerr=error, color=CYCLE[0], marker="o", elinewidth=1)
            axis.set_title(QUALITY[metric][0])
            axis.set_xlabel("hours of training")
            axis.margins(x=0.1, y=0.12)
        sizes = "/".join(str(n) for n in sorted({row.n for row in rows}))
        splits = ", ".join(sorted({row.split for row in rows}))
        figure.supxlabel(f"{splits}, n = {sizes} utterances; bars: 95 % bootstrap interval", fontsize=8)
    return figure


def _bench_lines(records: Sequence[Record], metric: str) -> dict[tuple, list[Record]]:
    """(order, system, threads, device) -> records of a bench's metric by length; no peers and no `-steps<S>`."""
    lines: dict[tuple, list[Record]] = {}
    for record in records:
        apart = record.system.startswith("peer/") or re.search(r"-steps\d+$", record.system)
        if record.metric == metric and record.split.startswith("bench-") and not apart:
            key = (system_order(record.system), record.system, record.threads or 0, record.device)
            lines.setdefault(key, []).append(record)
    by_length = {"key": lambda record: bench_seconds(record.split)}
    return {key: sorted(found, **by_length) for key, found in sorted(lines.items())}


def _line_name(system: str, threads: int) -> str:
    return f"{label(system)}, {threads} thread{'s' * (threads != 1)}" if threads else label(system)


def rtf_length(records: Sequence[Record]) -> Figure:
    """RTF against the length of the output, a line a system and thread count; by component where lengths were varied.

    Raises ValueError without a bench. Peers, many times slower, are in `peer_speed`, passes in `quality_speed`.
    """
    lines = _bench_lines(records, "rtf_total")
    if not lines:
        raise ValueError("no record of rtf_total on a bench-<seconds>s split: run the bench first")
    parts = {part: _bench_lines(records, f"rtf_{part}") for part in PARTS}
    apart = [key for key, found in lines.items() if len(found) > 1 and key in parts["smd"]]
    rows, columns = -(-(1 + len(apart)) // 3), min(3, 1 + len(apart))
    figure, axes = _panels(rows, columns, 5.2 if columns == 1 else 3.1 * columns, 2.8 * rows)
    with mpl.rc_context(STYLE):
        for i, ((_, system, threads, _), found) in enumerate(lines.items()):
            _lengths(axes[0], found, i, _line_name(system, threads))
        axes[0].set_ylim(bottom=0)
        axes[0].set_title("RTF (compute seconds / audio seconds) ↓")
        spare = axes[1 + len(apart) :]
        handles = axes[0].get_legend_handles_labels()
        (spare or axes)[0].legend(*handles, fontsize=7, title="first panel" if spare else None)
        for axis, key in zip(axes[1:], apart, strict=False):
            _lengths(axis, lines[key], 6, "total")
            for i, part in enumerate(part for part in PARTS if key in parts[part]):
                _lengths(axis, parts[part][key], i, PARTS[part])
            axis.set_yscale("log")
            axis.set_title(_line_name(*key[1:3]))
        for axis in axes[: 1 + len(apart)]:
            axis.set_xlim(left=0)
            axis.set_xlabel("length of the speech, s")
        for axis in spare:
            axis.set_axis_off()
        if apart:
            figure.legend(*axes[1].get_legend_handles_labels(), loc="outside upper right", ncols=1 + len(PARTS))
        _timed(figure, [record for found in lines.values() for record in found])
    return figure


def _timed(figure: Figure, records: Sequence[Record]) -> None:
    """Say below a figure on which devices its records were timed, and how often."""
    n, devices = "/".join(map(str, sorted({r.n for r in records}))), " / ".join(sorted({r.device for r in records}))
    figure.supxlabel(f"{devices}; n = {n} repeats; bars: 95 % bootstrap interval", fontsize=8)


def _lengths(axis: Axes, found: Sequence[Record], index: int, name: str) -> None:
    """A line of bench records against their lengths, with intervals, in the index-th colour."""
    style = {"color": CYCLE[index % len(CYCLE)], "linestyle": DASHES[index % len(DASHES)], "marker": "o"}
    seconds = [bench_seconds(record.split) for record in found]
    axis.plot(seconds, [record.value for record in found], label=name, **style)
    for x, record in zip(seconds, found, strict=True):
        axis.errorbar(x, record.value, yerr=_error(record), fmt="none", color=style["color"], elinewidth=1)


def peer_speed(records: Sequence[Record]) -> Figure:
    """RTF of the main bench, ours beside peers', on a logarithmic axis, with the ratio to ours where it was measured.

    Raises ValueError without a peer.
    """
    bench = [r for r in records if r.split == RTF_SPLIT and r.threads == RTF_THREADS]
    speed = {r.system: r for r in bench if r.metric == "rtf_total"}
    ratios = {r.system: r for r in bench if r.metric == "time_ratio"}
    systems = sorted((s for s in speed if s.startswith(("peer/", "mobilespeech-"))), key=lambda s: speed[s].value)
    if not any(s.startswith("peer/") for s in systems):
        raise ValueError(f"no peer's rtf_total on {RTF_SPLIT} with {RTF_THREADS} thread: run the bench with --peers")
    figure, (axis,) = _panels(1, 1, 5.6, 0.8 + 0.24 * len(systems))
    with mpl.rc_context(STYLE):
        for row, system in enumerate(systems):
            colour, marker = group_style(system)
            record = speed[system]
            axis.errorbar(record.value, row, xerr=_error(record), fmt=marker, color=colour, elinewidth=1.2)
            if ratio := ratios.get(system):
                spot = {"xytext": (7, 0), "textcoords": "offset points", "va": "center"}
                axis.annotate(f"{ratio.value:.3g} ×", (record.value, row), **spot)
        axis.set_xscale("log")
        axis.set_yticks(range(len(systems)), [label(system) for system in systems])
        axis.set_ylim(len(systems) - 0.5, -0.5)
        axis.margins(x=0.15)
        axis.tick_params(axis="y", length=0)
        axis.set_title("RTF (compute seconds / audio seconds) ↓")
        about = f"{bench_seconds(RTF_SPLIT):g} s of speech, {RTF_THREADS} thread; ×: compute time over ours"
        figure.supxlabel(f"{about}; peers: random weights, without vocoder", fontsize=8)
    return figure


def draw_all(preset: str, results: Path | None = None, folder: Path | None = None) -> list[Path]:
    """Draw what the records and logs (`results/<preset>/train-*.jsonl`) of a preset allow; returns the files."""
    results, folder = Path(results or paths.results(preset)), Path(folder or paths.figures(preset))
    records = read_records(results)
    drawn: dict[str, Figure] = {}
    opinions = tuple(scale.key for scale in SCALES)
    for split in sorted({r.split for r in records if r.metric in opinions}):
        drawn[f"listening-{split}"] = metric_dots(records, split, opinions)
    judged = set(QUALITY) - set(opinions)
    studied = {r.split for r in records if STUDY.fullmatch(r.split)}
    plain = {r.split for r in records if r.metric in judged and not r.split.startswith("bench-")} - studied
    for split in sorted(plain):
        drawn[f"metrics-{split}"] = metric_dots(records, split)
        with_wer = {s for s, m in _quality(records, split) if m == "wer"}
        if len(with_wer & set(_by_steps(records, preset))) > 1:
            drawn[f"steps-{split}"] = steps_tradeoff(records, split, preset)
        if len(_judged(records, split, preset)) > 1:
            drawn[f"quality-speed-{split}"] = quality_speed(records, split, preset)
    for split in sorted({r.split for r in records if r.metric == "wer_sub"} & (plain | {HARD})):
        drawn[f"word-errors-{split}"] = word_errors(records, split)
    for split in sorted(s for s in studied if STUDY.fullmatch(s)["study"] in ("noisy-prompts", "prompt-lengths")):
        drawn[f"robustness-{split}"] = prompt_conditions(records, split)
    if rows := run_history.read(results / MILESTONES):
        drawn["milestones"] = milestones_over_hours(rows)
    if any(r.metric == "rtf_total" and not r.system.startswith("peer/") for r in records):
        drawn["rtf-length"] = rtf_length(records)
    if any(r.metric == "time_ratio" and (r.split, r.threads) == (RTF_SPLIT, RTF_THREADS) for r in records):
        drawn["peer-speed"] = peer_speed(records)
    for log in sorted(results.glob("train-*.jsonl")):
        drawn[log.stem] = training_curves(read_log(log))
    return [path for name, figure in drawn.items() for path in save(figure, folder, name)]
