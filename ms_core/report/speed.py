"""Figures of speed: quality against time, time against length, ours beside peers."""

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ms_core.config import load_preset
from ms_core.evaluation.records import PYTORCH, Record
from ms_core.report.quoted import QUOTED_RTF
from ms_core.report.style import (
    CYCLE,
    DASHES,
    GREY,
    RUNTIMES,
    STYLE,
    by_steps,
    error_of,
    group_style,
    label,
    labels_of,
    quality_of,
    subplots,
)
from ms_core.report.tables import QUALITY, RTF_SECONDS, RTF_THREADS, system_order

PARTS = {  # of RTF -> name
    "text": "text", "prompt": "prompt states", "duration": "durations", "smd": "mask decoder", "codec": "codec",
    "voice": "enrolment (apart)",
}  # fmt: skip
EXPORTED = "exported models, beside PyTorch"
RTF_TICKS = (0.01, 0.03, 0.1, 0.3, 1.0)


def _rtf(records: Sequence[Record]) -> dict[str, Record]:
    """Name -> rtf_total of the main bench."""
    main = [r for r in records if (r.metric, r.seconds, r.threads) == ("rtf_total", RTF_SECONDS, RTF_THREADS)]
    return {r.name: r for r in main}


class _Judged(NamedTuple):
    """A point of `quality_speed`: the line it is on, its name, its RTF and its quality by metric."""

    line: str
    name: str
    rtf: Record
    quality: dict[str, Record]


def judged_speed(records: Sequence[Record], split: str, preset: str) -> list[_Judged]:
    """Our systems of known RTF and WER; exported models are judged on a split of their own, beside PyTorch."""
    speed, base = _rtf(records), f"mobilespeech-{preset}"
    if base in speed:  # the sweep does not time the model's own passes twice
        speed.setdefault(f"{base}-steps{load_preset(preset).decoding.steps[0]}", speed[base])
    passes = {system: f"S={n}" for system, n in by_steps(records, preset).items()}
    judged = [r for r in records if r.study == "exports" and r.system == base]
    judged.sort(key=lambda r: r.runtime != PYTORCH)  # first
    exports = {r.name: " ".join(filter(None, (RUNTIMES[r.runtime], r.precision))) for r in judged}
    found = []
    for line, systems, where in (("passes in layer 1", passes, split), (EXPORTED, exports, f"{split}-exports")):
        quality = quality_of(records, where)
        for system, name in systems.items():
            if system in speed and (system, "wer") in quality:
                own = {metric: record for (s, metric), record in quality.items() if s == system}
                found.append(_Judged(line, name, speed[system], own))
    return found


def quality_speed(records: Sequence[Record], split: str, preset: str, sim: str = "sim_campp") -> Figure:
    """WER and SIM over RTF: the passes in layer 1, and exported models where judged; the paper's two RTFs as marks.

    The paper's marks say nothing of its quality: they are vertical. Raises ValueError with fewer than two points.
    """
    points = judged_speed(records, split, preset)
    if len(points) < 2:
        raise ValueError(
            f"{len(points)} systems have both WER on {split!r} and RTF on {RTF_SECONDS:g} s: at least two needed"
        )
    lines = list(dict.fromkeys(point.line for point in points))
    figure, axes = subplots(1, 2, 7.6, 3.4)
    with mpl.rc_context(STYLE):
        for axis, metric in zip(axes, ("wer", sim), strict=True):
            for index, line in enumerate(lines):
                known = [p for p in points if p.line == line and metric in p.quality]
                colour = CYCLE[index]
                places = [p.rtf.value for p in known], [p.quality[metric].value for p in known]
                axis.plot(*places, color=colour, linestyle=DASHES[index], linewidth=0.8, marker="os"[index], label=line)
                for point, x, y in zip(known, *places, strict=True):
                    quality = point.quality[metric]
                    bars = {"xerr": error_of(point.rtf), "yerr": error_of(quality)}
                    axis.errorbar(x, y, **bars, fmt="none", color=colour, elinewidth=1)
                    style = {"color": colour, "fontsize": 6.5, "textcoords": "offset points"}
                    if point.name == RUNTIMES[PYTORCH]:  # it stands where its number of passes does
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
            axis.set_xlabel(f"RTF, {RTF_SECONDS:g} s of speech, {RTF_THREADS} thread")
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


def _bench_lines(records: Sequence[Record], metric: str) -> dict[tuple, list[Record]]:
    """(order, label, threads, device) -> records of a bench's metric by length; no peers and no other steps."""
    lines: dict[tuple, list[Record]] = {}
    for record in records:
        apart = record.system.startswith("peer/") or record.steps
        if record.metric == metric and record.study == "bench" and not apart:
            key = (system_order(record), label(record), record.threads or 0, record.device)
            lines.setdefault(key, []).append(record)
    return {key: sorted(found, key=lambda record: record.seconds) for key, found in sorted(lines.items())}


def _line_name(title: str, threads: int) -> str:
    return f"{title}, {threads} thread{'s' * (threads != 1)}" if threads else title


def rtf_length(records: Sequence[Record]) -> Figure:
    """RTF against the length of the output, a line a system and thread count; by component where lengths were varied.

    Raises ValueError without a bench. Peers, many times slower, are in `peer_speed`, passes in `quality_speed`.
    """
    lines = _bench_lines(records, "rtf_total")
    if not lines:
        raise ValueError("no record of rtf_total of a bench: run the bench first")
    parts = {part: _bench_lines(records, f"rtf_{part}") for part in PARTS}
    apart = [key for key, found in lines.items() if len(found) > 1 and key in parts["smd"]]
    rows, columns = -(-(1 + len(apart)) // 3), min(3, 1 + len(apart))
    figure, axes = subplots(rows, columns, 5.2 if columns == 1 else 3.1 * columns, 2.8 * rows)
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
    seconds = [record.seconds for record in found]
    axis.plot(seconds, [record.value for record in found], label=name, **style)
    for x, record in zip(seconds, found, strict=True):
        axis.errorbar(x, record.value, yerr=error_of(record), fmt="none", color=style["color"], elinewidth=1)


def peer_speed(records: Sequence[Record]) -> Figure:
    """RTF of the main bench, ours beside peers', on a logarithmic axis, with the ratio to ours where it was measured.

    Raises ValueError without a peer.
    """
    bench = [r for r in records if r.seconds == RTF_SECONDS and r.threads == RTF_THREADS]
    speed = {r.name: r for r in bench if r.metric == "rtf_total"}
    ratios = {r.name: r for r in bench if r.metric == "time_ratio"}
    labels, systems = labels_of(speed.values()), sorted(speed, key=lambda s: speed[s].value)
    if not any(s.startswith("peer/") for s in systems):
        at = f"{RTF_SECONDS:g} s with {RTF_THREADS} thread"
        raise ValueError(f"no peer's rtf_total on {at}: run the bench with --peers")
    figure, (axis,) = subplots(1, 1, 5.6, 0.8 + 0.24 * len(systems))
    with mpl.rc_context(STYLE):
        for row, system in enumerate(systems):
            record = speed[system]
            colour, marker = group_style(record.system)
            axis.errorbar(record.value, row, xerr=error_of(record), fmt=marker, color=colour, elinewidth=1.2)
            if ratio := ratios.get(system):
                spot = {"xytext": (7, 0), "textcoords": "offset points", "va": "center"}
                axis.annotate(f"{ratio.value:.3g} ×", (record.value, row), **spot)
        axis.set_xscale("log")
        axis.set_yticks(range(len(systems)), [labels[system] for system in systems])
        axis.set_ylim(len(systems) - 0.5, -0.5)
        axis.margins(x=0.15)
        axis.tick_params(axis="y", length=0)
        axis.set_title("RTF (compute seconds / audio seconds) ↓")
        about = f"{RTF_SECONDS:g} s of speech, {RTF_THREADS} thread; ×: compute time over ours"
        figure.supxlabel(f"{about}; peers: random weights, without vocoder", fontsize=8)
    return figure
