"""Figures out of result records and training logs, in the style of `style.py`; those of speed stand in `speed.py`.

Figures are regenerated, never edited: equal records give equal bytes on one installation. Every function returns a
matplotlib Figure; `draw_all` writes PNG to `figures/<preset>/`.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ms_core import paths
from ms_core.evaluation import run_history
from ms_core.evaluation.records import CLEAN, MILESTONES, Record, read_records
from ms_core.evaluation.run_history import Milestone
from ms_core.report.listening import SCALES
from ms_core.report.speed import judged_speed, peer_speed, quality_speed, rtf_length
from ms_core.report.style import (
    BLUE,
    CYCLE,
    DASHES,
    GREY,
    ORANGE,
    STYLE,
    by_steps,
    draw_line,
    error_of,
    group_style,
    label,
    labels_of,
    quality_of,
    save,
    subplots,
)
from ms_core.report.tables import (
    QUALITY,
    RTF_SECONDS,
    RTF_THREADS,
    STUDY_TITLES,
)

EDITS = {
    "wer_sub": ("substituted", BLUE, ""),
    "wer_del": ("deleted", ORANGE, "/////"),
    "wer_ins": ("inserted", GREY, "..."),
}
HARD = "hard-texts"  # a study whose parts are kinds of texts
PANELS = {**{m: QUALITY[m][0] for m in ("wer", "sim_campp", "distillmos")}, "enrolment_refused": "prompts refused ↓"}
SHOWN = tuple(QUALITY)[:6]  # of `metric_dots`


def metric_dots(records: Sequence[Record], split: str, metrics: Sequence[str] = SHOWN) -> Figure:
    """Dot plot with intervals: a panel a metric, a row a system. Raises ValueError where nothing was measured."""
    found = quality_of(records, split)
    systems = labels_of(r for r in found.values() if r.metric in metrics and not r.steps)
    metrics = [m for m in metrics if any((s, m) in found for s in systems)]
    if not systems:
        raise ValueError(f"no record of {', '.join(QUALITY)} on split {split!r}: evaluate it first")
    columns = min(3, len(metrics))
    rows = -(-len(metrics) // columns)
    figure, axes = subplots(rows, columns, 2.0 + 1.9 * columns, 0.5 + rows * (0.55 + 0.2 * len(systems)), sharey=True)
    with mpl.rc_context(STYLE):
        for axis, metric in zip(axes, metrics, strict=False):
            for row, system in enumerate(systems):
                if (record := found.get((system, metric))) is None:
                    continue
                colour, marker = group_style(record.system)
                axis.errorbar(record.value, row, xerr=error_of(record), fmt=marker, color=colour, elinewidth=1.2)
            axis.set_title(QUALITY[metric][0])
            axis.set_yticks(range(len(systems)), list(systems.values()))
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
    hard = split == HARD
    kinds = {r.place: r.kind or "all" for r in records if r.study == HARD} if hard else {split: ""}
    found = {one: quality_of(records, one) for one in sorted(kinds)}
    systems = labels_of(r for table in found.values() for r in table.values() if r.metric == "wer_sub")
    bars = []
    for system, title in systems.items():
        for one, table in found.items():
            name = ": ".join([title] * (not hard or len(systems) > 1) + [kinds[one].replace("-", " ")] * hard)
            bars.append((name, {m: r for (s, m), r in table.items() if s == system}))
    return [(name, metrics) for name, metrics in bars if "wer_sub" in metrics]


def word_errors(records: Sequence[Record], split: str) -> Figure:
    """Bars of words substituted, deleted and inserted, which add up to WER, with its interval; a row a system.

    For `hard-texts` a row is a kind of text. Raises ValueError where no record has the edits apart.
    """
    bars = _word_bars(records, split)
    if not bars:
        raise ValueError(f"no record of {', '.join(EDITS)} on split {split!r}: evaluate it first")
    figure, (axis,) = subplots(1, 1, 6.4, 1.1 + 0.24 * len(bars))
    with mpl.rc_context({**STYLE, "hatch.linewidth": 0.7}):
        for row, (_, found) in enumerate(bars):
            left = 0.0
            for metric, (name, colour, hatch) in EDITS.items():
                value = found[metric].value
                style = {"color": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0, "height": 0.7}
                axis.barh(row, value, left=left, label=name if row == 0 else None, **style)
                left += value
            total = found["wer"]
            axis.errorbar(total.value, row, xerr=error_of(total), fmt="none", color="black", elinewidth=1, capsize=2)
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
    table = quality_of(records, split)
    if not table:
        raise ValueError(f"no record of a condition on split {split!r}: evaluate it first")
    first = min(r.system for r in table.values())
    found: dict[str, dict[str, Record]] = {}  # name -> metric -> record
    for (name, metric), record in table.items():
        if record.system == first:
            found.setdefault(name, {})[metric] = record
    noises = {r.condition for r in table.values() if r.snr_db is not None}
    panels = {m: t for m, t in PANELS.items() if any(m in f for f in found.values()) and (noises or m in QUALITY)}
    figure, axes = subplots(1, len(panels), 0.4 + 2.1 * len(panels), 2.5)
    with mpl.rc_context(STYLE):
        for axis, (metric, title) in zip(axes, panels.items(), strict=True):
            if noises:
                _against_noise(axis, found, metric, sorted(noises))
            else:
                known = [f for f in found.values() if metric in f]
                draw_line(axis, sorted((f["prompt_seconds"].value, f[metric]) for f in known), 0, "")
                axis.set_xlim(left=0)
                axis.set_xlabel("length of the prompt, s (mean)")
            axis.set_title(title)
            axis.margins(y=0.12)
        if noises:
            axes[0].legend()
        n = sorted({r.n for f in found.values() for m, r in f.items() if m in panels})
        counted = f"n = {n[-1]} utterances" + f", down to {n[0]} where prompts were refused" * (len(n) > 1)
        plain = next(iter(table.values())).model_copy(update={"condition": None, "snr_db": None})
        where = f"{label(plain)} on {plain.split}"
        figure.supxlabel(f"{where}; {counted}; bars: 95 % bootstrap interval", fontsize=8)
    return figure


def _against_noise(axis: Axes, found: dict[str, dict[str, Record]], metric: str, noises: Sequence[str]) -> None:
    """A line a noise against SNR from high to low, and the clean prompt as a level with its interval."""
    told = [record for one in found.values() for record in one.values()]
    levels = sorted({r.snr_db for r in told if r.snr_db is not None}, reverse=True)
    known = {(r.condition, r.snr_db): r for r in told if r.metric == metric}
    if clean := known.get((CLEAN, None)):
        axis.axhline(clean.value, color=GREY, linewidth=0.9, linestyle=":", label="clean")
        if clean.ci_low is not None:
            axis.axhspan(clean.ci_low, clean.ci_high, color=GREY, alpha=0.15, linewidth=0)
    for index, noise in enumerate(noises):
        shift = 0.06 * (2 * index - 1)  # side by side
        at = [(i + shift, known.get((noise, level))) for i, level in enumerate(levels)]
        draw_line(axis, [(x, record) for x, record in at if record], index, noise)
    axis.set_xticks(range(len(levels)), [f"{level:g}" for level in levels])
    axis.set_xlim(-0.5, len(levels) - 0.5)
    axis.set_xlabel("SNR of the prompt, dB")


def steps_tradeoff(records: Sequence[Record], split: str, preset: str, sim: str = "sim_campp") -> Figure:
    """WER and SIM against the passes in layer 1; against their time they are in `quality_speed`.

    Raises ValueError with fewer than two step counts.
    """
    quality = quality_of(records, split)
    steps = {s: n for s, n in by_steps(records, preset).items() if (s, "wer") in quality}
    if len(steps) < 2:
        raise ValueError(f"{len(steps)} step counts of mobilespeech-{preset} on {split!r}: at least two are needed")
    figure, axes = subplots(1, 2, 6.4, 2.6)
    with mpl.rc_context(STYLE):
        for axis, metric in zip(axes, ("wer", sim), strict=True):
            known = [(n, quality[s, metric]) for s, n in steps.items() if (s, metric) in quality]
            draw_line(axis, known, 0, "")
            axis.margins(x=0.14, y=0.14)
            axis.set_title(QUALITY[metric][0])
            axis.set_xlabel("S, passes in codec layer 1")
            axis.set_xscale("log", base=2)
            axis.set_xticks([n for n, _ in known], [str(n) for n, _ in known])
            axis.minorticks_off()
        n = "/".join(str(n) for n in sorted({quality[s, "wer"].n for s in steps}))
        figure.supxlabel(f"{split}, n = {n} utterances; bars: 95 % bootstrap interval", fontsize=8)
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
    figure, axes = subplots(1, len(panels), 0.4 + 2.8 * len(panels), 2.5)
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
    figure, axes = subplots(1, len(run_history.METRICS), 8.0, 2.4)
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


def draw_all(preset: str, results: Path | None = None, folder: Path | None = None) -> list[Path]:
    """Draw what the records and logs (`results/<preset>/train-*.jsonl`) of a preset allow; returns the files."""
    results, folder = Path(results or paths.results(preset)), Path(folder or paths.figures(preset))
    records = read_records(results)
    drawn: dict[str, Figure] = {}
    opinions = tuple(scale.key for scale in SCALES)
    for split in sorted({r.place for r in records if r.metric in opinions}):
        drawn[f"listening-{split}"] = metric_dots(records, split, opinions)
    judged = set(QUALITY) - set(opinions)
    plain = {r.place for r in records if r.metric in judged and r.study not in ("bench", *STUDY_TITLES)}
    for split in sorted(plain):
        if any(r.place == split and r.metric in SHOWN and not r.steps for r in records):  # else passes alone
            drawn[f"metrics-{split}"] = metric_dots(records, split)
        with_wer = {s for s, m in quality_of(records, split) if m == "wer"}
        if len(with_wer & set(by_steps(records, preset))) > 1:
            drawn[f"steps-{split}"] = steps_tradeoff(records, split, preset)
        if len(judged_speed(records, split, preset)) > 1:
            drawn[f"quality-speed-{split}"] = quality_speed(records, split, preset)
    for split in sorted({r.place for r in records if r.metric == "wer_sub"} & (plain | {HARD})):
        drawn[f"word-errors-{split}"] = word_errors(records, split)
    for split in sorted({r.place for r in records if r.study in ("noisy-prompts", "prompt-lengths")}):
        drawn[f"robustness-{split}"] = prompt_conditions(records, split)
    if rows := run_history.read(results / MILESTONES):
        drawn["milestones"] = milestones_over_hours(rows)
    if any(r.metric == "rtf_total" and not r.system.startswith("peer/") for r in records):
        drawn["rtf-length"] = rtf_length(records)
    if any(r.metric == "time_ratio" and (r.seconds, r.threads) == (RTF_SECONDS, RTF_THREADS) for r in records):
        drawn["peer-speed"] = peer_speed(records)
    for log in sorted(results.glob("train-*.jsonl")):
        drawn[log.stem] = training_curves(read_log(log))
    return [path for name, figure in drawn.items() for path in save(figure, folder, name)]
