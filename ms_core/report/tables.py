"""Tables out of result records, and the check that committed tables still say what the records say.

`results/<preset>/*.json` -> `results/<preset>/main.md`, `robustness.md` and `main.csv`. Each measured cell names the
file of its record. The paper's own tables could not be read: its columns hold only what was seen in a primary source or
is told by a secondary one, with that source, and a dash elsewhere.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ms_core import paths
from ms_core.evaluation.records import KEY, Record, Subject, read_file, read_sourced
from ms_core.files import sha256, write_atomic
from ms_core.report import listening
from ms_core.report.quoted import ELSEWHERE, PAPER

DASH = "–"
DEMO = "paper-demo"  # a split that stands behind the others
RTF_SECONDS, RTF_THREADS = 10.0, 1  # the bench that the main table's RTF column shows
QUALITY = {  # metric -> (heading, decimals)
    "wer": ("WER ↓", 3),
    "cer": ("CER ↓", 3),
    "sim_campp": ("SIM CAM++ ↑", 3),
    "sim_ge2e": ("SIM GE2E ↑", 3),
    "dnsmos": ("DNSMOS ↑", 2),
    "distillmos": ("DistillMOS ↑", 2),
    "pesq": ("PESQ ↑", 2),
    "stoi": ("STOI ↑", 3),
    "rtf_total": ("RTF ↓", 3),
    "mos_q": ("MOS-Q ↑", 2),
    "mos_p": ("MOS-P ↑", 2),
    "mos_s": ("MOS-S ↑", 2),
}
ROWS = 15  # of a table on the main page
MAIN = {m: QUALITY[m] for m in ("wer", "sim_campp", "distillmos", "rtf_total")} | {"params": ("parameters", 0)}
OPINIONS = {m: QUALITY[m] for m in ("mos_q", "mos_p", "mos_s")}
SPEED = {
    "rtf_total": ("RTF ↓", 4),
    "time_ratio": ("time / ours", 1),
    "peak_rss_mb": ("peak memory, MB", 0),
    "size_mb": ("size, MB", 1),
    "params": MAIN["params"],
}
NO_N = ("rtf_total", "peak_rss_mb", "params", "size_mb")  # whose n is not of utterances
LAYERS = (1, 2, 4, 8)
ERRORS = {  # words, apart
    "wer": ("WER ↓", 3),
    "wer_sub": ("substituted", 3),
    "wer_del": ("deleted", 3),
    "wer_ins": ("inserted", 3),
}
ROBUSTNESS = {  # of the studies of ms_core.evaluation.conditions
    "enrolment_refused": ("prompts refused", 3),
    "prompt_seconds": ("prompt, s", 2),
    **ERRORS,
    "wer_del_ins": ("deleted or inserted", 3),
    "cer": QUALITY["cer"],
    "sim_campp": QUALITY["sim_campp"],
    "distillmos": QUALITY["distillmos"],
}
STUDY_TITLES = {
    "hard-texts": "Hard texts",
    "noisy-prompts": "Noisy prompts",
    "prompt-lengths": "Prompts of several lengths",
    "adaptation": "Voices adapted at enrolment (not zero-shot)",
    "exports": "Exported models beside PyTorch",
}
PEERS_NOTE = (
    "`peer/…` are networks of the published shapes of other systems with random weights: their speed, without vocoder "
    "and text parts, and no speech. `time / ours`: compute time over ours, in turns in one run.\n"
)
AGREEMENT = {"token_agreement_forced": "forced", "token_agreement_free": "free"}
AGREEMENT_NOTE = (
    "Shares of tokens equal to fp32 PyTorch's by codec layer, with its durations: `forced` given its layers below, "
    "`free` given their own.\n"
)
PAPER_METRICS = {"wer": "WER", "sim": "SIM", "rtf_total": "RTF"}


class ReportError(ValueError):
    """Records or tables that do not agree; the message lists every disagreement."""


class Cell(NamedTuple):
    """A record and the name of the file that holds it."""

    file: str
    record: Record


class Results:
    """The records of a preset, looked up by what they measure. Raises ReportError for two records of one thing.

    A row is called by its records' `name`, with the seed where there are several.
    """

    def __init__(self, preset: str, folder: Path | None = None):
        self.preset = preset
        self.folder = Path(folder or paths.results(preset))
        self.cells: dict[tuple, Cell] = {}
        clashes = []
        for file, record in read_sourced(self.folder):
            # where quality was measured does not make it another thing
            key = record.key if record.study == "bench" else record.key_without("threads", "device", "preset")
            if key in self.cells:
                clashes.append(f"{file} and {self.cells[key].file} both have {record.metric} of {record.name}")
            self.cells[key] = Cell(file, record)
        if clashes:
            raise ReportError("keep one record of each thing:\n" + "\n".join(sorted(clashes)))
        seeds: dict[tuple[str, str], set[int | None]] = {}
        for cell in self.cells.values():
            seeds.setdefault((cell.record.place, cell.record.name), set()).add(cell.record.seed)
        self._seeded = {key for key, found in seeds.items() if len(found) > 1}
        self._at = {(r.place, self.row(r), r.pair_with, r.metric): c for c in self.cells.values()
                    if (r := c.record).study != "bench"}  # fmt: skip
        self._models = {(c.record.checkpoint_sha256, c.record.metric): c for c in self.cells.values()
                        if c.record.metric in ("params", "training_hours")}  # fmt: skip

    def row(self, record: Record) -> str:
        """What a record's row is called."""
        several = (record.place, record.name) in self._seeded
        return f"{record.name}, seed {record.seed}" if several else record.name

    def where(self, **fields: object) -> list[Cell]:
        """Cells whose records have these fields."""
        return [c for c in self.cells.values() if all(getattr(c.record, key) == x for key, x in fields.items())]

    def find(self, split: str, system: str, metric: str, pair_with: str | None = None) -> Cell | None:
        """The cell of a quality metric; for rtf_total, the bench of 10 s on one thread."""
        if metric != "rtf_total":
            return self._at.get((split, system, pair_with, metric))
        timed = self.where(metric=metric, study="bench", seconds=RTF_SECONDS, threads=RTF_THREADS)
        timed = [cell for cell in timed if self.row(cell.record) == system and pair_with is None]
        return timed[0] if len(timed) == 1 else None

    def of_model(self, record: Record, metric: str) -> Cell | None:
        """The cell of `params` or `training_hours` of the checkpoint behind a record; of its system where none is."""
        if record.checkpoint_sha256 is None:
            return self._at.get(("model", record.name, None, metric))
        return self._models.get((record.checkpoint_sha256, metric))

    def splits(self, study: str) -> list[str]:
        """Places where quality was measured, in a study; what listeners said is of `quality`, too."""
        wanted = ("quality", "listening") if study == "quality" else (study,)
        places = {r.place for _, r in self.cells.values() if r.metric in QUALITY and r.study in wanted}
        return sorted(places, key=lambda place: (place == DEMO, place))

    def studies(self, study: str) -> dict[str, Record]:
        """Place -> a record, of a study of robustness by name, so that the whole stands before its parts."""
        return dict(sorted({r.place: r for _, r in self.where(study=study)}.items()))

    def systems(self, split: str) -> dict[str, Record]:
        """Row -> a record, of a place: recordings, ours, peers, the authors'."""
        found = {self.row(r): r for _, r in self.where(place=split)}
        return dict(sorted(found.items(), key=lambda entry: (system_order(entry[1]), entry[0])))


def system_order(made: Subject) -> tuple:
    """Sort key of a system: recordings first, then ours, peers and the authors' systems; a clean control first."""
    system = made.system
    ranks = ("ground-truth", "mobilespeech-", "peer/", "authors/ground-truth-codec", "authors/mobilespeech", "authors/")
    rank = next((rank for rank, start in enumerate(ranks) if system.startswith(start)), len(ranks))
    apart = (made.condition or "").replace("clean", "")
    numbers = (made.snr_db, made.prompt_seconds, made.layers, made.steps)
    return rank, system, apart, made.runtime or "", made.precision or "", *(x or -math.inf for x in numbers)


def format_cell(cell: Cell | None, decimals: int, signed: bool = False) -> str:
    """Value linked to its record's file, with the interval; parameters in millions; a dash for no record."""
    if cell is None:
        return DASH
    record, sign = cell.record, "+" if signed else ""
    if record.metric == "params":
        return f"[{record.value / 1e6:.1f} M]({cell.file})"
    text = f"[{record.value:{sign}.{decimals}f}]({cell.file})"
    if record.ci_low is None or record.ci_low == record.ci_high:
        return text
    return f"{text} ({record.ci_low:{sign}.{decimals}f} to {record.ci_high:{sign}.{decimals}f})"


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)]
    return "\n".join(lines) + "\n"


def _table(
    first: Sequence[str], columns: dict, rows: Sequence[tuple], signed: bool = False, last: str = "", most: int = 999
) -> str:
    """One Markdown table; columns and rows without any record are left out. Empty when nothing is left.

    columns: key -> (heading, decimals). rows: (first cells, cells by key, last cell). most: of rows, the rest is told.
    """
    rows = [row for row in rows if any(row[1].get(key) for key in columns)]
    used = {key: column for key, column in columns.items() if any(cells.get(key) for _, cells, *_ in rows)}
    lines = []
    for told, cells, *end in rows:
        known = {key: cells[key] for key in used if cells.get(key)}
        n = {cell.record.n for key, cell in known.items() if key not in NO_N}
        n = n or {next(iter(known.values())).record.n}
        line = [*told, "/".join(map(str, sorted(n)))]
        line += [format_cell(cells.get(key), decimals, signed) for key, (_, decimals) in used.items()]
        lines.append([*line, *end])
    more = f"\n{len(lines) - most} more rows are in [main.csv](main.csv).\n" * (len(lines) > most)
    header = [*first, "n", *(heading for heading, _ in used.values()), *[last] * bool(last)]
    return _markdown(header, lines[:most]) + more if lines else ""


def _grid(results: Results, split: str, columns: dict, pair_with: str | None = None) -> str:
    """A table of a place, a row a system."""
    rows = [([s], {m: results.find(split, s, m, pair_with) for m in columns}) for s in results.systems(split)]
    return _table(["system"], columns, rows, bool(pair_with))


def _main(results: Results, split: str) -> list[str]:
    """The tables of quality on a split: the systems as they are, what listeners said, other numbers of passes."""
    systems, rows, passes = results.systems(split), [], []
    for system, record in systems.items():
        cells = {metric: results.find(split, system, metric) for metric in MAIN}
        if record.steps:
            passes.append(([system], cells))
        elif any(cells.values()):
            behind = [results.of_model(r, "params") for _, r in results.where(place=split) if results.row(r) == system]
            cells["params"] = next(filter(None, behind), None)
            quoted = [r for r in PAPER if r.system == system and r.metric in PAPER_METRICS]
            told = [f"{PAPER_METRICS[r.metric]} {r.value} ({r.tag}: {r.source})" for r in quoted]
            rows.append(([system], cells, "; ".join(told) or DASH))
    found = [_table(["system"], MAIN, rows, last="the paper's", most=ROWS)]
    if heard := _grid(results, split, OPINIONS):
        found += ["What listeners said:\n", heard]
    if passes:
        found += ["Other numbers of passes in codec layer 1:\n", _table(["system"], MAIN, passes, most=ROWS)]
    return found


def _robustness(results: Results) -> str:
    """One table of the studies of robustness, hard texts as a whole."""
    columns, rows = {m: ROBUSTNESS[m] for m in ("enrolment_refused", "wer", "sim_campp", "distillmos")}, []
    for study in ("hard-texts", "noisy-prompts", "prompt-lengths", "adaptation"):
        for place in [place for place, record in results.studies(study).items() if record.kind is None]:
            rows += [([study, s], {m: results.find(place, s, m) for m in columns}) for s in results.systems(place)]
    return _table(["study", "system"], columns, rows, most=ROWS)


def _speed(results: Results) -> list[str]:
    """What was timed at the length of the main bench, or the nearest, on one thread, and what has a size."""
    benches = results.where(study="bench", threads=RTF_THREADS, steps=None)
    seconds = min({c.record.seconds for c in benches}, key=lambda s: abs(s - RTF_SECONDS), default=RTF_SECONDS)
    timed = [cell for cell in benches if cell.record.seconds == seconds]
    sized = results.where(metric="size_mb")
    rows: dict[tuple, dict[str, Cell]] = {}
    for cell in (*timed, *sized):
        rows.setdefault((system_order(cell.record), results.row(cell.record)), {})[cell.record.metric] = cell
    for cells in rows.values():
        cells["params"] = results.of_model(next(iter(cells.values())).record, "params")
    table = _table(["system"], SPEED, [([row], cells) for (_, row), cells in sorted(rows.items())], most=ROWS)
    devices = " / ".join(sorted({cell.record.device for cell in timed}))
    about = f"About {seconds:g} s of speech on {RTF_THREADS} thread; {devices}.\n"
    peers = [PEERS_NOTE] * any(cell.record.system.startswith("peer/") for cell in timed)
    return [about, *peers, table] if table else []


def _by_layer(results: Results, metrics: Mapping[str, str]) -> str:
    """One table of metrics that each codec layer has, some layers of it."""
    rows: dict[tuple, dict[int | None, Cell]] = {}
    for cell in results.where(pair_with=None):  # differences would stand in the place of values
        if (record := cell.record).metric in metrics and record.study in ("model", "ablations"):
            row = (system_order(record), results.row(record), metrics[record.metric])
            rows.setdefault(row, {})[record.layer] = cell
    columns = {layer: (f"layer {layer}", 3) for layer in LAYERS}
    told = [([system, kind], found) for (_, system, kind), found in sorted(rows.items())]
    return _table(["system", "number"], columns, told, most=ROWS)


def main_markdown(results: Results) -> str:
    """A preset's results on one page, in Markdown; all that it leaves out is in main.csv."""
    sections = {split: [*_protocols(results, split), *_main(results, split)] for split in results.splits("quality")}
    sections |= {"Robustness": ["More in [robustness.md](robustness.md).\n", _robustness(results)]}
    codec = {m: QUALITY[m] for m in ("pesq", "stoi", "sim_campp", "wer")}
    sections |= {f"Codec: {place}": [_grid(results, place, codec)] for place in results.splits("codec")}
    sections |= {"Speed and size": _speed(results)}
    sections |= {"Ablations": ["Cross-entropy of dev by codec layer.\n", _by_layer(results, {"ce": "nats"})]}
    sections |= {"Tokens of other precisions": [AGREEMENT_NOTE, _by_layer(results, AGREEMENT)]}
    rows = [[r.system, r.metric, r.value, r.tag, r.source] for r in ELSEWHERE]
    elsewhere = _markdown(["system", "metric", "value", "tag", "source"], rows)
    about = "Other test sets, judges or versions; not comparable with ours.\n"
    sections |= {"MobileSpeech's figures elsewhere": [about, elsewhere]}
    parts = [
        f"# Results of preset `{results.preset}`\n",
        "Written by `ms_core.report.tables` out of the records that the cells link to; never edited by hand. Rates are "
        "fractions; in parentheses the 95 % bootstrap interval. RTF is compute seconds over audio "
        f"seconds for {RTF_SECONDS:g} s of speech on {RTF_THREADS} thread. A dash means that there is no figure. The "
        "judges of SIM are not the paper's. Every record is a line of [main.csv](main.csv).\n",
    ]
    for title, found in sections.items():
        if found and found[-1]:
            parts += [f"## {title}\n", *filter(None, found)]
    return "\n".join(parts)


def robustness_markdown(results: Results) -> str:
    """What went wrong with the words of every system, and the studies of robustness, in Markdown."""
    parts = [
        f"# Robustness of preset `{results.preset}`\n",
        "Written by `ms_core.report.tables` out of the records that the cells link to; never edited by hand. Words "
        "substituted, deleted and inserted are rates over the words of the text and add up to WER; in parentheses the "
        "95 % bootstrap interval.\n",
    ]
    words = [(split, _grid(results, split, ERRORS)) for split in (*results.splits("quality"), *results.splits("codec"))]
    for split, table in [(split, table) for split, table in words if "substituted" in table]:
        parts += [f"## Words on {split}\n", table]
    for study, title in STUDY_TITLES.items():
        splits = results.studies(study)
        if study == "hard-texts" and splits:
            parts += [f"## {title}\n", *_protocols(results, next(iter(splits))), _by_kind(results, splits)]
        for split, record in splits.items() if study != "hard-texts" else ():
            parts += [f"## {title}: {record.split}\n", *_protocols(results, split)]
            parts += [_grid(results, split, ROBUSTNESS)]
            for pair in sorted({r.pair_with for _, r in results.where(place=split) if r.pair_with}):
                parts += [f"Paired difference to `{pair}` over the utterances that both have:\n"]
                parts += [_grid(results, split, ROBUSTNESS, pair)]
    return "\n".join(parts if len(parts) > 2 else [*parts, "Nothing has been measured yet.\n"])


def _by_kind(results: Results, splits: Mapping[str, Record]) -> str:
    """One Markdown table of the hard texts: a row for each system and kind of text."""
    rows = [
        ([system, one.kind or "all"], {metric: results.find(split, system, metric) for metric in ROBUSTNESS})
        for system in results.systems(next(iter(splits)))
        for split, one in splits.items()
    ]
    return _table(["system", "texts"], ROBUSTNESS, rows)


def _protocols(results: Results, split: str) -> list[str]:
    """How a split was measured, as a list in Markdown."""
    found = {r.protocol for _, r in results.where(place=split, pair_with=None) if r.metric in QUALITY}
    return ["\n".join([*(f"* {protocol}." for protocol in sorted(found)), ""])] * bool(found)


def main_csv(results: Results) -> str:
    """Every record as one line, with its file and, where there is one, the paper's figure and its source."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head = [*KEY[:-1], "value", "ci_low", "ci_high", "unit", "n"]
    writer.writerow([*head, "parameters", "training_hours", "record", "paper", "paper_tag", "paper_source"])
    reported = {(r.system, r.metric): (r.value, r.tag, r.source) for r in PAPER}
    for cell in sorted(results.cells.values(), key=lambda cell: cell.record.key):
        values = cell.record.model_dump()
        known = reported.pop((cell.record.system, cell.record.metric), (DASH,) * 3)
        behind = [results.of_model(cell.record, metric) for metric in ("params", "training_hours")]
        told = [c.record.value if c else DASH for c in behind]
        writer.writerow([*("" if values[k] is None else values[k] for k in head), *told, cell.file, *known])
    for (system, metric), known in reported.items():  # the paper's figures that nothing here was measured beside
        row = {"system": system, "metric": metric}
        writer.writerow([*(row.get(k, "") for k in head), *[DASH] * 3, *known])
    return out.getvalue()


def tables(preset: str, folder: Path | None = None) -> dict[str, str]:
    """File name -> content of a preset's tables."""
    results = Results(preset, folder)
    return {
        "main.md": main_markdown(results),
        "robustness.md": robustness_markdown(results),
        "main.csv": main_csv(results),
    }


def write_tables(preset: str, folder: Path | None = None) -> list[Path]:
    """Write the tables beside the records; returns their paths, `main.md` first.

    Where there are files of a listening test, their records are made first, and `listening.json` is the last path.
    """
    folder = Path(folder or paths.results(preset))
    heard, written = listening.write(folder), []
    for name, text in tables(preset, folder).items():
        write_atomic(folder / name, lambda temporary, text=text: temporary.write_text(text))
        written.append(folder / name)
    return [*written, heard] if heard else written


def check(preset: str, folder: Path | None = None, shipped: Path | None = None) -> None:
    """Check that committed tables are what the records give, and that our records are of the shipped checkpoint.

    The system `mobilespeech-<preset>`, under any condition, must name the model and the codec in `shipped`,
    `ground-truth-codec` the codec; variants have checkpoints of their own. Raises ReportError with every problem.
    """
    folder, shipped = Path(folder or paths.results(preset)), Path(shipped or paths.shipped(preset))
    problems = []
    heard = folder / listening.FILE
    if listening.records(folder / listening.FOLDER) != (read_file(heard) if heard.is_file() else []):
        problems.append(f"{heard} is not what the files in {folder / listening.FOLDER} give: write the tables anew")
    for name, text in tables(preset, folder).items():
        path = folder / name
        if not path.is_file() or path.read_text() != text:
            state = "differs from its records" if path.is_file() else "is missing"
            problems.append(f"{path} {state}: write it anew with ms_core.report.tables.write_tables({preset!r})")
    digests = {}
    for part in ("model", "codec"):
        weights = shipped / part / "weights.safetensors"
        digests[part] = sha256(weights) if weights.is_file() else None
    for file, record in read_sourced(folder):
        wanted = {}
        if record.study in ("corpus", "codec", "ablations", "cost"):
            continue
        if record.system == "ground-truth-codec":
            wanted = {"codec": record.codec_sha256}
        elif record.system == f"mobilespeech-{preset}":
            wanted = {"model": record.checkpoint_sha256, "codec": record.codec_sha256}
            if record.codec_sha256 is None and record.runtime == "onnx":
                del wanted["codec"]  # an exported folder names the model alone; this names its codec
        for part, digest in wanted.items():
            if digest is None or digest != digests[part]:
                where = f"{file}: {record.metric} of {record.name} on {record.place}"
                problems.append(f"{where} is of {part} {digest or 'unknown'}, shipped is {digests[part] or 'none'}")
    if problems:
        raise ReportError("\n".join(problems))
