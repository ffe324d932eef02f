"""The one style of all figures, and what their axes share; colours and markers are safe for colour-blind readers."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ms_core.config import load_preset
from ms_core.evaluation.records import Record, Subject
from ms_core.files import write_atomic
from ms_core.report.tables import system_order

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


RUNTIMES = {"pytorch": "PyTorch", "onnx": "ONNX", "executorch": "ExecuTorch"}


def label(made: Subject) -> str:
    """A system's name for readers."""
    if not made.system.startswith("mobilespeech-"):
        known = LABELS.get(made.system, made.system.removeprefix("peer/"))
        return f"{known}, {made.layers} layer{'s' * (made.layers > 1)}" if made.layers else known
    parts = [made.system.removeprefix("mobilespeech-"), made.condition, f"S={made.steps}" * bool(made.steps)]
    parts.insert(2, " ".join(filter(None, (RUNTIMES.get(made.runtime), made.precision))))
    return ", ".join(["ours", *filter(None, parts)])


def group_style(system: str) -> tuple[str, str]:
    """Colour and marker of a system's group."""
    return next(((colour, marker) for start, colour, marker in GROUPS if system.startswith(start)), (GREEN, "^"))


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write `<name>.png`, without version inside; returns its path in a list."""
    path = Path(folder) / f"{name}.png"
    with mpl.rc_context(STYLE):
        write_atomic(path, lambda temporary: figure.savefig(temporary, format="png", metadata={"Software": None}))
    return [path]


def subplots(rows: int, columns: int, width: float, height: float, **options) -> tuple[Figure, list[Axes]]:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, **options).ravel().tolist()
    return figure, axes


def error_of(record: Record) -> list[list[float]] | None:
    """Lengths of the interval below and above the value, as matplotlib's xerr and yerr take them."""
    if record.ci_low is None:
        return None
    return [[max(0.0, record.value - record.ci_low)], [max(0.0, record.ci_high - record.value)]]


def quality_of(records: Sequence[Record], place: str) -> dict[tuple[str, str], Record]:
    """(name, metric) -> record of a place, without differences."""
    return {(r.name, r.metric): r for r in records if r.place == place and r.pair_with is None}


def labels_of(found: Iterable[Record]) -> dict[str, str]:
    """Name -> label, in the order of tables."""
    return {r.name: label(r) for r in sorted(found, key=system_order)}


def draw_line(axis: Axes, points: Sequence[tuple[float, Record]], index: int, name: str) -> None:
    """A line through (place, record) with intervals, in the index-th colour."""
    colour = CYCLE[index]
    style = {"color": colour, "linestyle": DASHES[index], "marker": "os^"[index], "label": name or None}
    axis.plot([x for x, _ in points], [r.value for _, r in points], **style)
    for x, record in points:
        axis.errorbar(x, record.value, yerr=error_of(record), fmt="none", color=colour, elinewidth=1)


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
