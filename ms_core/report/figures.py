"""Figures out of result records and training logs, in the style of `style.py`; those of speed stand in `speed.py`.

Figures are regenerated, never edited: `ms-core report --figures` draws them out of `results/<preset>/` alone, and equal
records give equal bytes on one installation. Every function returns a matplotlib Figure.
"""

import json
import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ms_core import paths
from ms_core.evaluation import run_history
from ms_core.evaluation.records import CLEAN, MILESTONES, Record, read_records
from ms_core.evaluation.run_history import Milestone
from ms_core.report import speed, style
from ms_core.report.listening import SCALES
from ms_core.report.style import BLUE, FIGURES, GREY, INTERVAL, ORANGE, WIDE, caption, counted, figure_of, styled
from ms_core.report.tables import QUALITY, STUDY_TITLES, ReportError

EDITS = {
    "wer_sub": ("substituted", BLUE, ""),
    "wer_del": ("deleted", ORANGE, "/////"),
    "wer_ins": ("inserted", GREY, "..."),
}
HARD = "hard-texts"  # a study whose parts are kinds of texts
WHOLE = "one-to-three-words"  # a kind whose parts, one word and so on, are kinds, too
PANELS = {**{m: QUALITY[m][0] for m in ("wer", "sim_campp", "distillmos")}, "enrolment_refused": "prompts refused ↓"}
DIFFERENCES = {"ce": "CE, mean ↓", "ce_first": "CE, first pass ↓", "wer": QUALITY["wer"][0]}
DIFFERENCES |= {"sim_campp_margin": "SIM margin ↑", "distillmos": QUALITY["distillmos"][0]}  # of `ablations`
SHOWN = tuple(QUALITY)[:6]  # of `metric_dots`
CODEC = ("pesq", "stoi", "sim_campp", "wer")
KIND_NAMES = {None: "all texts", "two-three-word": "two or three words"}
LAYERS = {  # metric -> title, what stands below
    "perplexity": ("entries in effective use, of 1,024 ↑", "codec layer"),
    "variance_left": ("share of log-mel variance left ↓", "layers used; 0: principal components alone"),
}
LOSSES = {"loss": "loss", "log_mel": "log-mel distance", "log_magnitude": "log-magnitude distance"}
LOSSES["pitch"] = "error of log F0"


def metric_dots(records: Sequence[Record], split: str, metrics: Sequence[str] = SHOWN) -> Figure:
    """Dot plot with intervals: a panel a metric, a row a system. Raises ValueError where nothing was measured."""
    found = style.quality_of(records, split)
    shown = [r for r in found.values() if r.metric in metrics and not r.steps]
    if not shown:
        raise ValueError(f"no record of {', '.join(QUALITY)} on split {split!r}: evaluate it first")
    systems = {r.name: r.system for r in shown}
    rows = [
        (title, systems[name], {m: r for (s, m), r in found.items() if s == name})
        for name, title in style.labels_of(shown).items()
    ]
    figure = style.estimate_rows(rows, {m: QUALITY[m][0] for m in metrics}, columns=2 if len(metrics) == 4 else 3)
    caption(figure, style.place_name(split), counted(shown), INTERVAL)
    return figure


def _word_bars(records: Sequence[Record], split: str) -> list[tuple[str, dict[str, Record]]]:
    """(label, metric -> record) of what `word_errors` draws: systems, or the kinds of hard texts after all of them."""
    hard = split == HARD  # kinds that are sums of others are left out
    places = sorted({r.place for r in records if r.study == HARD and r.kind != WHOLE}) if hard else [split]
    found = [style.quality_of(records, place) for place in places]
    told = [r for table in found for r in table.values() if r.metric == "wer_sub" and not r.steps]
    systems, bars = style.labels_of(told), []
    for system, title in systems.items():
        for metrics in ({m: r for (s, m), r in table.items() if s == system} for table in found):
            if "wer_sub" in metrics:
                kind = metrics["wer_sub"].kind
                name = KIND_NAMES.get(kind, (kind or "").replace("-", " "))
                bars.append((title if not hard else name if len(systems) == 1 else f"{title}: {name}", metrics))
    return bars


@styled
def word_errors(records: Sequence[Record], split: str) -> Figure:
    """Bars of words substituted, deleted and inserted, which add up to WER, with its interval; a row a system.

    For `hard-texts` a row is a kind of text. Raises ValueError where no record has the edits apart.
    """
    bars = _word_bars(records, split)
    if not bars:
        raise ValueError(f"no record of {', '.join(EDITS)} on split {split!r}: evaluate it first")
    figure, (axis,) = style.subplots(1, 1, 0.75 * WIDE, 0.9 + 0.2 * len(bars))
    for row, (_, found) in enumerate(bars):
        left = 0.0
        for metric, (name, colour, hatch) in EDITS.items():
            look = {"color": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0, "height": 0.7}
            axis.barh(row, found[metric].value, left=left, label=name if row == 0 else None, **look)
            left += found[metric].value
        axis.hlines(row, *style.ends(found["wer"]), color="black", linewidth=1)
    axis.set_yticks(range(len(bars)), [f"{name} (n = {found['wer'].n})" for name, found in bars])
    axis.set_ylim(len(bars) - 0.4, -0.6)
    axis.set_xlim(left=0)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="y", visible=False)
    axis.set_xlabel("errors a word")
    figure.legend(loc="outside upper right", ncols=len(EDITS))
    what = "texts" if split == HARD else "utterances"
    caption(figure, f"{style.place_name(split)}, n = {what}", "lines: 95 % bootstrap interval of WER, the sum")
    return figure


@styled
def prompt_conditions(records: Sequence[Record], split: str) -> Figure:
    """WER, SIM and more against the noise on the prompt, or against its length. Raises ValueError without records."""
    table = style.quality_of(records, split)
    if not table:
        raise ValueError(f"no record of a condition on split {split!r}: evaluate it first")
    first = min(r.system for r in table.values())
    found: dict[str, dict[str, Record]] = {}  # name -> metric -> record
    for (name, metric), record in table.items():
        if record.system == first:
            found.setdefault(name, {})[metric] = record
    noises = sorted({r.condition or "" for r in table.values() if r.snr_db is not None})
    panels = {m: t for m, t in PANELS.items() if any(m in f for f in found.values()) and (noises or m in QUALITY)}
    figure, axes = style.subplots(1, len(panels), WIDE, 2.2)
    for axis, (metric, title) in zip(axes, panels.items(), strict=True):
        if noises:
            _against_noise(axis, found, metric, noises)
        else:
            known = sorted((f["prompt_seconds"].value, f[metric]) for f in found.values() if metric in f)
            style.estimate_lines(axis, {"": known})
            axis.set_xlim(left=0)
            axis.set_xlabel("mean length of the prompt, s")
        axis.set_title(title)
        axis.margins(y=0.12)
        if metric in ("wer", "enrolment_refused"):
            axis.set_ylim(bottom=0)
    if noises:
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=len(noises))
    told = [r for f in found.values() for m, r in f.items() if m in panels]
    fewest, most = min(r.n for r in told), max(r.n for r in told)
    refused = f"of these, down to {fewest} where prompts were refused, and no point where all were"
    plain = told[0].model_copy(update={"condition": None, "snr_db": None})
    about = f"{style.label(plain)}, {style.place_name(plain.split)}", f"n = {most} utterances"
    caption(figure, *about, refused * (fewest < most), INTERVAL, "dotted: clean" * bool(noises))
    return figure


def _against_noise(axis: Axes, found: dict[str, dict[str, Record]], metric: str, noises: Sequence[str]) -> None:
    """A line a noise against SNR from high to low, and the clean prompt as a level with its interval."""
    told = [record for one in found.values() for record in one.values()]
    levels = sorted({r.snr_db for r in told if r.snr_db is not None}, reverse=True)
    known = {(r.condition, r.snr_db): r for r in told if r.metric == metric}
    if clean := known.get((CLEAN, None)):
        axis.axhline(clean.value, color=GREY, linewidth=0.9, linestyle=":")
        axis.axhspan(*style.ends(clean), color=GREY, alpha=0.15, linewidth=0)
    lines = {}
    for index, noise in enumerate(noises):
        at = [(i + 0.06 * (2 * index - 1), known.get((noise, level))) for i, level in enumerate(levels)]  # side by side
        lines[noise] = [(x, record) for x, record in at if record]
    style.estimate_lines(axis, {noise: points for noise, points in lines.items() if points})
    axis.set_xticks(range(len(levels)), [f"{level:g}" for level in levels])
    axis.set_xlim(-0.5, len(levels) - 0.5)
    axis.set_xlabel("SNR of the prompt, dB")


@figure_of(
    "codec-layers",
    lambda records: sorted((r for r in records if r.study == "codec" and r.metric in LAYERS), key=lambda r: r.layer),
    f"no record of {', '.join(LAYERS)}: run notebook 2 first",
)
@styled
def codec_layers(told: Sequence[Record]) -> Figure:
    """Use of the codebooks, and what each layer leaves over. Raises ValueError without a record."""
    panels = {m: points for m in LAYERS if (points := [(r.layer, r) for r in told if r.metric == m])}
    figure, axes = style.subplots(1, len(panels), WIDE, 2.0)
    for axis, (metric, points) in zip(axes, panels.items(), strict=True):
        title, about = LAYERS[metric]
        style.estimate_lines(axis, {"": points})
        axis.set_xticks([layer for layer, _ in points])
        axis.set(ylim=(0, 1.1 * max(r.value for _, r in points)), xlabel=about)
        axis.set_title(title)
    caption(figure, style.place_name(told[0].split), counted(told, "frames"))
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
    """Steps and values; a last row of fewer steps than half of the others' is left out, being a mean of few."""
    points = [(r["step"], r[key]) for r in rows if r.get("split") == split and r.get(key) is not None]
    if len(points) > 2 and points[-1][0] - points[-2][0] < (points[-2][0] - points[-3][0]) / 2:
        del points[-1]
    return [x for x, _ in points], [y for _, y in points]


@styled
def training_curves(rows: Sequence[dict], layers: Sequence[int] = (1, 2, 4, 8)) -> Figure:
    """Losses of train and dev, and dev cross-entropy and accuracy of some codec layers where logged, against steps.

    Of a codec, whose training loss has adversarial terms that dev has not, two spectral distances are drawn instead.
    """
    spectral = [key for key in ("log_magnitude", "pitch", "log_mel") if _series(rows, "train", key)[0]]
    wanted = [(LOSSES[key], [("train", key), ("dev", key)]) for key in spectral or ["loss"]]
    by_layer = "dev" if len(_series(rows, "dev", f"ce_{layers[0]}")[0]) > 1 else "train"  # where there are curves
    for name, key in (("cross-entropy", "ce"), ("accuracy", "acc")):
        wanted += [(f"{name} by layer, {by_layer}", [(by_layer, f"{key}_{j}") for j in layers])]
    panels = [(title, kept) for title, lines in wanted if (kept := [line for line in lines if _series(rows, *line)[0]])]
    if not panels:
        raise ValueError('no row of the log has "split": "train" or "dev" with a "loss": nothing to draw')
    figure, axes = style.subplots(1, len(panels), WIDE, 2.2)
    alone = [r["step"] for r in rows if spectral and r["split"] == "train" and "adversarial" not in r]
    joined = alone[-1] if alone and alone[-1] < rows[-1]["step"] else None
    for axis, (title, lines) in zip(axes, panels, strict=True):
        for i, (split, key) in enumerate(lines):
            x, y = _series(rows, split, key)
            name = split if key in LOSSES else f"layer {key.split('_')[1]}"
            look = {"color": style.CYCLE[i], "linestyle": style.DASHES[i], "marker": "." if len(x) < 30 else ""}
            axis.plot(x, y, label=name, **look)
        if joined is not None:
            axis.axvline(joined, color=GREY, linestyle="--", linewidth=0.8)
        axis.set_title(title)
        axis.set_xlabel("step")
        style.name_lines(axis)
    minutes = f"one training of {rows[-1]['seconds'] / 60:.0f} minutes" if "seconds" in rows[-1] else ""
    caption(figure, minutes, "dashed: discriminators join" * (joined is not None))
    return figure


def milestones_in_order(rows: Sequence[Milestone]) -> Figure:
    """WER, SIM and DistillMOS of a preset's milestones, the newest last. Raises ValueError without a row."""
    if not rows:
        raise ValueError("no milestone: evaluate a model with --milestone first")

    def record(n: int, value: float, low: float, high: float) -> Record:
        return Record.model_construct(n=n, value=value, ci_low=low, ci_high=high)

    told = [
        (
            textwrap.fill(row.note, 46),
            "mobilespeech-",
            {m: record(row.n, *getattr(row, m)) for m in run_history.METRICS},
        )
        for row in sorted(rows, key=lambda row: (row.date, row.hours))
    ]
    figure = style.estimate_rows(told, {m: QUALITY[m][0] for m in run_history.METRICS})
    splits = ", ".join(map(style.place_name, sorted({row.split for row in rows})))
    caption(figure, splits, counted(rows), INTERVAL, "oldest model first")
    return figure


@figure_of(
    "ablations",
    lambda records: [
        r for r in records if r.study == "ablations" and r.pair_with and r.layer is None and r.metric in DIFFERENCES
    ],
    "no paired difference of an ablation: run notebook 5 first",
)
def ablations(told: Sequence[Record]) -> Figure:
    """Differences of variants to their control: a row a variant, a panel a metric. Raises ValueError without one."""
    found: dict[str, dict[str, Record]] = {}
    for r in told:
        found.setdefault(f"{r.condition} less {r.pair_with.removeprefix(r.system).lstrip('-')}", {})[r.metric] = r
    figure = style.estimate_rows([(name, "mobilespeech-", metrics) for name, metrics in found.items()], DIFFERENCES)
    for axis in figure.axes:
        axis.axvline(0, color=ORANGE, linewidth=0.8)
    about = "paired differences to the control", style.place_name(told[0].split), counted(told)
    caption(figure, *about, INTERVAL, "one training each")
    return figure


def figures(preset: str, results: Path | None = None) -> dict[str, Callable[[], Figure]]:
    """Name -> how to draw it, of all that the records and logs (`train-*.jsonl`) of a preset allow."""
    results = Path(results or paths.results(preset))
    records = read_records(results)
    drawn: dict[str, Callable[[], Figure]] = {}
    opinions = tuple(scale.key for scale in SCALES)
    for split in sorted({r.place for r in records if r.metric in opinions}):
        drawn[f"listening-{split}"] = partial(metric_dots, records, split, opinions)
    apart = ("bench", "ablations", "decoding", *STUDY_TITLES)
    plain = {r.place for r in records if r.metric in set(QUALITY) - set(opinions) and r.study not in apart}
    for split in sorted(plain):
        if any(r.place == split and r.metric in SHOWN and not r.steps for r in records):  # else passes alone
            drawn[f"metrics-{split}"] = partial(
                metric_dots, records, split, CODEC if split.endswith("-codec") else SHOWN
            )
        if len(speed.judged_speed(records, split, preset)) > 1:
            drawn[f"quality-speed-{split}"] = partial(speed.quality_speed, records, split, preset)
    for split in sorted({r.place for r in records if r.metric == "wer_sub"} & (plain | {HARD})):
        drawn[f"word-errors-{split}"] = partial(word_errors, records, split)
    for split in sorted({r.place for r in records if r.study in ("noisy-prompts", "prompt-lengths")}):
        drawn[f"robustness-{split}"] = partial(prompt_conditions, records, split)
    drawn |= {name: partial(drawing, records) for name, (select, drawing) in FIGURES.items() if select(records)}
    if milestones := run_history.read(results / MILESTONES):
        drawn["milestones"] = partial(milestones_in_order, milestones)
    for log in sorted(results.glob("train-*.jsonl")):
        rows = read_log(log)
        if not any("trial" in row for row in rows):  # a file of several short runs
            drawn[log.stem] = partial(training_curves, rows)
    return drawn


def draw(
    preset: str,
    names: Sequence[str] = (),
    form: str = "png",
    results: Path | None = None,
    folder: Path | None = None,
) -> list[Path]:
    """Draw a preset's figures, or those of `names`, into `figures/<preset>`; returns the files.

    Where all are drawn, pictures of that form that no record is behind any more go. Raises ReportError for an unknown
    name or form, and where there is nothing to draw.
    """
    folder, possible = Path(folder or paths.figures(preset)), figures(preset, results)
    if form not in style.FORMATS:
        raise ReportError(f"figures of form {form!r}: choose one of {', '.join(style.FORMATS)}")
    if unknown := [name for name in names if name not in possible]:
        raise ReportError(f"no figure {', '.join(unknown)} of {preset}: choose among {', '.join(possible) or 'none'}")
    if not possible:
        raise ReportError(f"no record to draw in {results or paths.results(preset)}: measure first, or give --home")
    written = [style.save(possible[name](), folder, name, form) for name in names or possible]
    for orphan in () if names else set(folder.glob(f"*.{form}")) - set(written):
        orphan.unlink()
    return written
