"""Figures of speed: quality beside time, time against length, exports, a stream's first sound, ours beside peers."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ms_core.config import load_preset
from ms_core.evaluation.records import PYTORCH, Record
from ms_core.report import style
from ms_core.report.quoted import QUOTED_RTF
from ms_core.report.style import CYCLE, GREEN, GREY, INTERVAL, RUNTIMES, WIDE, caption, counted, figure_of, label
from ms_core.report.tables import QUALITY, RTF_SECONDS, RTF_THREADS, system_order

PARTS = {"smd": "mask decoder", "codec": "codec", "duration": "durations", "prompt": "prompt states"}  # the rest: < 1 %
RTF = "RTF (compute seconds / audio seconds) ↓"
SIZES = {"size_mb": "size, MB ↓", "peak_rss_mb": "peak memory, MB ↓"}
AGREEMENT = {"token_agreement_forced": "given PyTorch's below", "token_agreement_free": "decoded alone"}
STREAM = {"first_audio_s": "the first sound", "stream_total_s": "all of the sound"}


def _at_length(records: Sequence[Record], metric: str) -> list[Record]:
    """Records of a metric of the main bench: 10 s of speech on one thread."""
    return [r for r in records if (r.metric, r.seconds, r.threads) == (metric, RTF_SECONDS, RTF_THREADS)]


class _Judged(NamedTuple):
    """A row of `quality_speed`: its name, and RTF and quality by metric."""

    name: str
    metrics: dict[str, Record]


def _runtime(record: Record) -> str:
    return " ".join(filter(None, (RUNTIMES[record.runtime], record.precision)))


def judged_speed(records: Sequence[Record], split: str, preset: str) -> list[_Judged]:
    """Our systems of known RTF and WER; exported models are judged on a split of their own, beside PyTorch."""
    timed, base = {r.name: r for r in _at_length(records, "rtf_total")}, f"mobilespeech-{preset}"
    if base in timed:  # the sweep does not time the model's own passes twice
        timed.setdefault(f"{base}-steps{load_preset(preset).decoding.steps[0]}", timed[base])
    passes = {name: f"{n} pass{'es' * (n > 1)} in layer 1" for name, n in style.by_steps(records, preset).items()}
    judged = [r for r in records if r.study == "exports" and r.system == base]
    judged.sort(key=lambda r: (r.runtime != PYTORCH, r.precision or ""))  # PyTorch first
    found = []
    for systems, where in (({r.name: _runtime(r) for r in judged}, f"{split}-exports"), (passes, split)):
        quality = style.quality_of(records, where)
        for system, name in systems.items():
            if system in timed and (system, "wer") in quality:
                own = {metric: record for (s, metric), record in quality.items() if s == system}
                found.append(_Judged(name, {**own, "rtf_total": timed[system]}))
    return found


def quality_speed(records: Sequence[Record], split: str, preset: str) -> Figure:
    """RTF, WER and SIM of exported models and of passes in layer 1, a row each; the paper's two RTFs as marks.

    The paper's marks say nothing of its quality. Raises ValueError with fewer than two rows.
    """
    points = judged_speed(records, split, preset)
    if len(points) < 2:
        raise ValueError(
            f"{len(points)} systems have both WER on {split!r} and RTF on {RTF_SECONDS:g} s: at least two needed"
        )
    panels = {"rtf_total": f"RTF, {RTF_SECONDS:g} s, {RTF_THREADS} thread ↓"}
    panels |= {metric: QUALITY[metric][0] for metric in ("wer", "sim_campp")}
    figure = style.estimate_rows([(p.name, "mobilespeech-", p.metrics) for p in points], panels)
    axis = figure.axes[0]
    for name, reported in QUOTED_RTF.items():
        low, *high = (float(value) for value in reported.value.split("–"))
        axis.axvspan(low, (high or [low])[0], color=GREY, alpha=0.35, linewidth=1)
        place = {"rotation": 90, "ha": "right", "va": "bottom", "transform": axis.get_xaxis_transform()}
        axis.text(low, 0.03, name, fontsize=6.5, color=GREY, **place)
    axis.set_xscale("log")
    axis.set_xticks(ticks := (0.01, 0.1, 1.0), [f"{x:g}" for x in ticks])
    axis.minorticks_off()
    quality, rtf = [p.metrics["wer"] for p in points], [p.metrics["rtf_total"] for p in points]
    quoted = " and ".join(f"{reported.value} ({name})" for name, reported in QUOTED_RTF.items())
    about = f"{style.place_name(split)}, {counted(quality)}", f"RTF: {_timed(rtf)}"
    caption(figure, *about, f"grey: the authors' own RTF, quoted: {quoted}", INTERVAL)
    return figure


def _timed(records: Iterable[Record]) -> str:
    """On which devices records were timed, and how often."""
    records = list(records)
    return f"{' / '.join(sorted({r.device for r in records}))}, {counted(records, 'repeats')}"


def _bench_lines(records: Sequence[Record], metric: str) -> dict[str, list[Record]]:
    """Label (precision and threads) -> records of a bench's metric by length; no peers and no other steps."""
    lines: dict[tuple, list[Record]] = {}
    for record in records:
        apart = record.system.startswith("peer/") or record.steps
        if record.metric == metric and record.study == "bench" and not apart:
            lines.setdefault((system_order(record), record.threads or 0, label(record)), []).append(record)
    return {
        f"{title.rpartition('ours, ')[2].partition(', ')[2] or 'fp32'}, {threads} thread{'s' * (threads != 1)}": sorted(
            found, key=lambda record: record.seconds or 0
        )
        for (_, threads, title), found in sorted(lines.items())
    }


def _long_lines(records: Sequence[Record]) -> list[Record]:
    """All records of benches, where one of their lines has several lengths."""
    several = any(len(found) > 1 for found in _bench_lines(records, "rtf_total").values())
    return [r for r in records if r.study == "bench"] if several else []


@figure_of("rtf-length", _long_lines, "no record of rtf_total at several lengths: run the bench with --sweep first")
@style.styled
def rtf_length(records: Sequence[Record]) -> Figure:
    """RTF against the length of the output, a line a precision and thread count; and its parts at one length.

    Raises ValueError without a bench of several lengths. Exports are in `size_speed`, peers in `peer_speed`.
    """
    lines = {name: found for name, found in _bench_lines(records, "rtf_total").items() if len(found) > 1}
    figure, (left, right) = style.subplots(1, 2, WIDE, 2.4, width_ratios=(3, 2))
    style.estimate_lines(left, {name: [(r.seconds, r) for r in found] for name, found in lines.items()})
    left.set_xlim(left=0)
    left.set_ylim(bottom=0)
    left.set_xlabel("length of the speech, s")
    style.name_lines(left)
    left.set_title(RTF)
    _part_bars(right, list(lines), {part: _bench_lines(records, f"rtf_{part}") for part in PARTS})
    right.set_title(f"its parts at {RTF_SECONDS:g} s")
    caption(figure, _timed(record for found in lines.values() for record in found), INTERVAL)
    return figure


def _part_bars(axis: Axes, names: Sequence[str], parts: dict[str, dict[str, list[Record]]]) -> None:
    """Stacked bars of RTF by part at the length of the main bench, a row each."""
    for row, name in enumerate(names):
        left = 0.0
        for colour, (part, found) in zip(CYCLE, parts.items(), strict=False):
            value = sum(r.value for r in found.get(name, ()) if r.seconds == RTF_SECONDS)
            axis.barh(row, value, left=left, color=colour, height=0.6, label=PARTS[part] if row == 0 else None)
            left += value
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.grid(axis="y", visible=False)
    axis.legend(loc="upper center", bbox_to_anchor=(0.4, -0.12), ncols=2)


def _sized(records: Sequence[Record]) -> list[Record]:
    """RTF, sizes and memory of PyTorch and the exports, where there is an export."""
    told = [r for r in records if r.runtime and r.study in ("bench", "model") and r.metric in ("rtf_total", *SIZES)]
    return sorted(told, key=lambda r: (r.runtime != PYTORCH, system_order(r))) * any(r.runtime != PYTORCH for r in told)


@figure_of("size-speed", _sized, "no record of an export's speed or size: run notebook 6 first")
def size_speed(told: Sequence[Record]) -> Figure:
    """RTF, size and peak memory of PyTorch and the exports, a row each. Raises ValueError without an export."""
    found: dict[str, dict[str, Record]] = {}
    for r in told:
        found.setdefault(_runtime(r), {})[r.metric] = r
    timed = [metrics["rtf_total"] for metrics in found.values() if "rtf_total" in metrics]
    figure = style.estimate_rows([(n, "mobilespeech-", m) for n, m in found.items()], {"rtf_total": "RTF ↓", **SIZES})
    for axis in figure.axes:
        axis.set_xlim(left=0)
    seconds = "/".join(f"{s:g}" for s in sorted({r.seconds or 0 for r in timed}))
    speech = f"RTF: about {seconds} s of speech, {timed[0].threads} thread, {_timed(timed)}" if timed else ""
    caption(figure, speech, INTERVAL, "memory: peak of a fresh process, n = 1")
    return figure


def _lines(records: Sequence[Record], metric: str, at: str) -> dict[str, list[tuple[float, Record]]]:
    """A metric's records by what made them, each with the place on its line: the field `at`."""
    lines: dict[str, list[tuple[float, Record]]] = {}
    for r in sorted((r for r in records if r.metric == metric), key=lambda r: (system_order(r), getattr(r, at) or 0)):
        lines.setdefault(label(r).split(", ")[-1], []).append((getattr(r, at), r))
    return lines


@figure_of(
    "token-agreement",
    lambda records: [r for r in records if r.metric in AGREEMENT],
    "no record of token agreement: run notebook 6 first",
)
@style.styled
def token_agreement(told: Sequence[Record]) -> Figure:
    """Share of tokens that equal fp32 PyTorch's, by layer and precision. Raises ValueError without a record."""
    figure, axes = style.subplots(1, len(AGREEMENT), WIDE, 2.2, sharey=True)
    for axis, (metric, title) in zip(axes, AGREEMENT.items(), strict=True):
        style.estimate_lines(axis, _lines(told, metric, "layer"))
        axis.set_title(f"equal tokens, {title} ↑")
        axis.set(xlabel="codec layer", ylim=(0, 1.05))
    style.name_lines(axes[-1])
    texts = {label(r).split(", ")[-1]: r.n for r in told}
    about = ", ".join(f"{name}: n = {n}" for name, n in texts.items())
    interval = INTERVAL * any(r.ci_low is not None for r in told)
    caption(figure, "share of tokens equal to fp32 PyTorch's", f"texts: {about}", interval)
    return figure


@figure_of(
    "first-audio",
    lambda records: [r for r in records if r.metric in STREAM],
    "no record of a stream: run notebook 6 first",
)
@style.styled
def first_audio(told: Sequence[Record]) -> Figure:
    """Seconds until the first and the last sound of a stream, by the length of the text. Raises ValueError without."""
    figure, axes = style.subplots(1, len(STREAM), WIDE, 2.2, sharey=True)
    for axis, (metric, title) in zip(axes, STREAM.items(), strict=True):
        axis.set_yscale("log")
        axis.set_xlabel("words in the text")
        axis.set_title(f"seconds until {title} ↓")
        style.estimate_lines(axis, _lines(told, metric, "words"))
        style.name_lines(axis)
    threads = told[0].threads
    caption(figure, f"{threads} thread{'s' * (threads != 1)}, {_timed(told)}", INTERVAL)
    return figure


def _with_peers(records: Sequence[Record]) -> list[Record]:
    """RTF and ratios of the main bench, where there is a peer among them."""
    timed = [r for r in _at_length(records, "rtf_total") if not (r.steps or r.runtime or r.precision)]
    there = any(r.system.startswith("peer/") for r in timed)
    return sorted(timed, key=lambda r: r.value) * there + _at_length(records, "time_ratio") * there


@figure_of(
    "peer-speed",
    _with_peers,
    f"no peer's rtf_total on {RTF_SECONDS:g} s with {RTF_THREADS} thread: run the bench with --peers",
)
def peer_speed(told: Sequence[Record]) -> Figure:
    """RTF of the main bench, ours beside peers', on a logarithmic axis, with the ratio to ours where it was measured.

    Raises ValueError without a peer.
    """
    timed = [r for r in told if r.metric == "rtf_total"]
    ratios, labels = {r.name: r for r in told if r.metric == "time_ratio"}, style.labels_of(timed)
    figure = style.estimate_rows([(labels[r.name], r.system, {r.metric: r}) for r in timed], {"rtf_total": RTF})
    (axis,) = figure.axes
    axis.set_xscale("log")
    axis.margins(x=0.15)
    for row, record in enumerate(timed):
        if ratio := ratios.get(record.name):
            spot = {"xytext": (7, 0), "textcoords": "offset points", "va": "center", "fontsize": 7, "color": GREEN}
            axis.annotate(f"{ratio.value:.3g} ×", (style.ends(record)[1], row), **spot)
    about = f"about {RTF_SECONDS:g} s of speech, {RTF_THREADS} thread, {_timed(timed)}"
    peers = "peers: random weights in the published shape, without vocoder and text parts, no speech"
    caption(figure, about, "×: compute time over ours, in turns", peers, INTERVAL)
    return figure
