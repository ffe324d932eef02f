"""The one style of all figures: seaborn's theme, sizes of print, names for readers, and the two forms of estimates.

Colours and markers are safe for colour-blind readers. A figure is as wide as one or two columns of print.
"""

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import TypeVar

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
import seaborn.objects as so
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ms_core.config import load_preset
from ms_core.evaluation.records import Record, Subject
from ms_core.files import write_atomic
from ms_core.report.tables import system_order

COLUMN, WIDE = 3.35, 6.9  # inches: 8.5 and 17.5 cm, one and two columns of print
STYLE = {
    **sns.axes_style("whitegrid"),
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 7.5,
    "axes.labelsize": 7.5,
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.linewidth": 0.6,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "grid.color": "#e5e5e5",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "hatch.linewidth": 0.7,
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "svg.hashsalt": "ms_core",  # ids of equal figures are equal
}
FORMATS = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}  # without time or version
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"  # Okabe and Ito (2008)
CYCLE = (BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9", "#E69F00", "#000000")
DASHES = ("-", "--", ":", "-.", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)))
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
    "peer/vall-e-shape": "VALL-E's shape",
    "peer/soundstorm-shape": "SoundStorm's shape",
    "peer/zipvoice-shape-16nfe": "ZipVoice's shape, 16 steps",
    "peer/zipvoice-distill-shape-8nfe": "ZipVoice-Distill's shape, 8 steps",
    "peer/zipvoice-distill-shape-4nfe": "ZipVoice-Distill's shape, 4 steps",
}
RUNTIMES = {"pytorch": "PyTorch", "onnx": "ONNX", "executorch": "ExecuTorch"}
PLACES = {  # start of a place -> what it is
    "test-clean-24spk": "24 speakers of LibriSpeech test-clean",
    "dev-other": "10 speakers of LibriSpeech test-other",
    "paper-demo": "sentences of the authors' demo page",
    "hard-texts": "hard texts",
}
INTERVAL = "bars: 95 % bootstrap interval"
Draw = TypeVar("Draw", bound=Callable)
FIGURES: dict[str, tuple[Callable, Callable]] = {}
"""Name -> what selects the records of a figure, and what draws it: see `figure_of`."""


def styled(draw: Draw) -> Draw:
    """A function that draws, in the one style."""

    @wraps(draw)
    def drawn(*arguments, **options):
        with mpl.rc_context(STYLE):
            return draw(*arguments, **options)

    return drawn


def figure_of(name: str, select: Callable[[Sequence[Record]], Iterable], lacking: str) -> Callable:
    """Register a function that draws what `select` finds in a preset's records; ValueError, `lacking`, for nothing."""

    def register(draw: Callable[..., Figure]) -> Callable[[Sequence[Record]], Figure]:
        @wraps(draw)
        def drawn(records: Sequence[Record]) -> Figure:
            if not (found := select(records)):
                raise ValueError(lacking)
            return draw(found)

        FIGURES[name] = select, drawn
        return drawn

    return register


def label(made: Subject) -> str:
    """A system's name for readers."""
    if not made.system.startswith("mobilespeech-"):
        known = LABELS.get(made.system, made.system.removeprefix("peer/"))
        return f"{known}, {made.layers} layer{'s' * (made.layers > 1)}" if made.layers else known
    passes = f"{made.steps} pass{'es' * (made.steps > 1)} in layer 1" if made.steps else None
    parts = [made.system.removeprefix("mobilespeech-"), made.condition, passes]
    parts.insert(2, " ".join(filter(None, (RUNTIMES.get(made.runtime), made.precision))))
    return ", ".join(["ours", *filter(None, parts)])


def place_name(split: str) -> str:
    """What a split is, for readers."""
    return next((name for start, name in PLACES.items() if split.startswith(start)), split)


def group_style(system: str) -> tuple[str, str]:
    """Colour and marker of a system's group."""
    return next(((colour, marker) for start, colour, marker in GROUPS if system.startswith(start)), (GREEN, "^"))


@styled
def save(figure: Figure, folder: Path, name: str, form: str = "png") -> Path:
    """Write `<name>.<form>`, one of `FORMATS`, without date or version inside; returns its path."""
    path = Path(folder) / f"{name}.{form}"
    write_atomic(path, lambda temporary: figure.savefig(temporary, format=form, metadata=FORMATS[form]))
    return path


@styled
def subplots(rows: int, columns: int, width: float, height: float, **options) -> tuple[Figure, list[Axes]]:
    """A figure of `width` by `height` inches and its axes, row by row."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options).ravel().tolist()


def caption(figure: Figure, *parts: str) -> None:
    """What a figure says below itself, in lines that fit its width: data, n, intervals."""
    width = round(figure.get_figwidth() * 17)
    figure.supxlabel("\n".join(textwrap.wrap("; ".join(filter(None, parts)), width)), fontsize=7, color=GREY)


def counted(records: Iterable[Record], what: str = "utterances") -> str:
    """ "n = 24 utterances", or all the numbers that there are."""
    return f"n = {'/'.join(map(str, sorted({record.n for record in records})))} {what}"


def ends(record: Record) -> tuple[float, float]:
    """Ends of the interval, the value itself where there is none."""
    return (record.value, record.value) if record.ci_low is None else (record.ci_low, record.ci_high)


def estimate_rows(
    rows: Sequence[tuple[str, str, Mapping[str, Record]]], panels: Mapping[str, str], columns: int = 3
) -> Figure:
    """Values with intervals: a row each (name, system, metric -> record), a facet for each metric -> title."""
    names = [name for name, *_ in rows]
    told = [
        {"panel": title, "row": name, "group": group, "value": found[m].value, "low": low, "high": high}
        for name, group, found in rows
        for m, title in panels.items()
        if m in found
        for low, high in [ends(found[m])]
    ]
    shown = list(dict.fromkeys(row["panel"] for row in told))
    columns = min(columns, len(shown))
    lines = sum(1 + name.count("\n") for name in names)
    height = 0.45 + -(-len(shown) // columns) * (0.45 + 0.17 * lines)
    figure = Figure(figsize=(WIDE if columns > 1 else 0.75 * WIDE, height), layout="constrained")
    styles = {group: group_style(group) for _, group, _ in rows}
    plot = so.Plot(pd.DataFrame(told), x="value", y="row", xmin="low", xmax="high", color="group", marker="group")
    plot = plot.facet("panel", order=[title for title in panels.values() if title in shown], wrap=columns)
    plot = plot.share(x=False).add(so.Range(), legend=False).add(so.Dot(pointsize=4.5), legend=False)
    plot = plot.scale(
        color={group: colour for group, (colour, _) in styles.items()},
        marker={group: marker for group, (_, marker) in styles.items()},
        y=so.Nominal(order=names),
    )
    plot.label(x="", y="", title=str).theme(STYLE).on(figure).plot()
    for axis in figure.axes:
        axis.margins(x=0.1)
        axis.tick_params(axis="y", length=0)
    return figure


def estimate_lines(axis: Axes, lines: Mapping[str, Sequence[tuple[float, Record]]]) -> None:
    """Lines of (place, record) with intervals; `name_lines` names them once the limits of the axes stand."""
    for index, (name, points) in enumerate(lines.items()):
        colour = CYCLE[index % len(CYCLE)]
        x, values = [x for x, _ in points], [record.value for _, record in points]
        axis.plot(x, values, color=colour, linestyle=DASHES[index % len(DASHES)], marker="os^Dv"[index % 5], label=name)
        axis.vlines(x, *zip(*(ends(record) for _, record in points), strict=True), color=colour, linewidth=0.9)


def name_lines(axis: Axes) -> None:
    """Name each labelled line in its colour right of its last point, names that would touch moved apart."""
    axis.figure.draw_without_rendering()
    scale, gap = axis.transData, 9.5 * axis.figure.dpi / 72  # pixels between the middles of two names
    lines = [line for line in axis.lines if not line.get_label().startswith("_") and len(line.get_xdata())]
    ends_of = {line: (line.get_xdata()[-1], line.get_ydata()[-1]) for line in lines}
    order = sorted(lines, key=lambda line: scale.transform((0, ends_of[line][1]))[1])
    heights = np.array([scale.transform(ends_of[line])[1] for line in order])
    placed = heights.copy()
    for index in range(1, len(placed)):
        placed[index] = max(placed[index], placed[index - 1] + gap)
    placed -= max(0.0, (placed - heights).mean())
    look = {"textcoords": "offset points", "va": "center", "fontsize": 7}
    for line, own, wanted in zip(order, heights, placed, strict=True):
        offset = (6, (wanted - own) * 72 / axis.figure.dpi)
        axis.annotate(line.get_label(), ends_of[line], offset, color=line.get_color(), **look)


def quality_of(records: Sequence[Record], place: str) -> dict[tuple[str, str], Record]:
    """(name, metric) -> record of a place, without differences."""
    return {(r.name, r.metric): r for r in records if r.place == place and r.pair_with is None}


def labels_of(found: Iterable[Record]) -> dict[str, str]:
    """Name -> label, in the order of tables."""
    return {r.name: label(r) for r in sorted(found, key=system_order)}


def by_steps(records: Sequence[Record], preset: str) -> dict[str, int]:
    """Name -> passes in layer 1, of our system as it is and with other steps.

    Where the model's own number of passes was judged as a variant too, that one stands, beside the others on the same
    utterances.
    """
    base = f"mobilespeech-{preset}"
    default = load_preset(preset).decoding.steps[0]
    ours = [r for r in records if r.system == base and r.study in ("quality", "bench")]
    found = {r.name: r.steps or default for r in ours if r.precision is None and r.runtime is None}
    if f"{base}-steps{default}" in found:
        found.pop(base, None)
    return dict(sorted(found.items(), key=lambda entry: entry[1]))
