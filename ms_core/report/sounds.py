"""Pages to hear the results by: a sound page like the authors' demo page, and a blind listening test.

Both are made of the folder that `ms-core evaluate --keep-audio` wrote, so that what is heard is what was measured, and
both are one file that loads nothing: sounds (16-bit WAV), spectrograms, style and script are inside. The
authors' published clips are put in only when asked for; their licence is unclear.
"""

import base64
import hashlib
import html
import io
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import soundfile
from matplotlib.image import imsave

from ms_core import paths
from ms_core.config import ConfigError, load_preset
from ms_core.evaluation.eval_set import DEMO, demo_rows
from ms_core.evaluation.evaluate import GROUND_TRUTH, PROMPT, provenance_of
from ms_core.evaluation.records import Subject, read_file
from ms_core.files import json_text, wav_bytes, write_atomic
from ms_core.recordings.audio import read_audio
from ms_core.report import plots
from ms_core.report.listening import MARKS, RATINGS_FORMAT, SCALES, Clip, Key
from ms_core.report.style import label
from ms_core.report.tables import system_order

TEMPLATES = paths.ASSETS / "pages"
LIMIT = 12  # utterances of a page, by default
SHADES = 16  # of a spectrogram: few, so that the picture is small
SHRINK = 2  # bins and frames of a spectrogram that become one, their loudest kept
CREDITS = {  # corpus -> where its recordings are from
    "shipped": "Recordings and prompts: the package's smoke corpus, which its mini model spoke in voices of "
    "LibriSpeech readers (Panayotov et al. 2015), CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/).",
    "librispeech": "Recordings and prompts: LibriSpeech (Panayotov et al. 2015, https://www.openslr.org/12), CC BY 4.0 "
    "(https://creativecommons.org/licenses/by/4.0/); prompts are cut, and all else is made from them.",
    "libritts": "Recordings and prompts: LibriTTS (Zen et al. 2019, https://www.openslr.org/60), CC BY 4.0 "
    "(https://creativecommons.org/licenses/by/4.0/); prompts are cut, and all else is made from them.",
}
UNKNOWN = "Recordings and prompts: of a corpus that this page cannot name; look up its licence before you publish them."
AUTHORS_OUT = "No clip of the paper's authors is on this page."
AUTHORS_IN = (
    "Clips named “authors' clips” are from the demo page of the paper's authors, a curated set of unclear licence: do "
    "not publish this page."
)
PRIVATE = "Do not publish this page: the licence of some clips is unclear."


class PageError(ValueError):
    """A folder that no page can be made of; the message says what is missing and how to make it."""


@dataclass(frozen=True)
class Utterance:
    """One text, its prompt and the sounds of it: files by system, and what the recogniser heard in them."""

    utt: str
    speaker: str
    text: str
    prompt_text: str
    prompt: Path
    sounds: Mapping[str, Path]
    heard: Mapping[str, str]


@dataclass(frozen=True)
class SoundPage:
    """What a page shows: utterances in the protocol's order out of `total`, and what made each system."""

    split: str
    protocol: str
    total: int
    utterances: tuple[Utterance, ...]
    systems: Mapping[str, Subject]  # by name, in the order of `system_order`

    @property
    def ours(self) -> dict[str, Subject]:
        """The systems that have a checkpoint."""
        return {system: subject for system, subject in self.systems.items() if subject.checkpoint_sha256}

    @property
    def credits(self) -> str:
        """Whose recordings these are."""
        try:
            return CREDITS[load_preset(next(iter(self.ours.values())).preset).data.corpus]
        except (ConfigError, StopIteration):
            return UNKNOWN

    @property
    def has_authors_clips(self) -> bool:
        """Whether clips of the paper's authors are among the sounds."""
        return any(system.startswith("authors/") for system in self.systems)


def _rows(path: Path) -> list[dict]:
    """The rows of a run's JSONL. Raises PageError for another form."""
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines()[1:]]
        if not rows or not all({"utt", "speaker", "system", "text", "prompt_text"} <= row.keys() for row in rows):
            raise ValueError("rows lack a text or the prompt's")
    except (OSError, ValueError, AttributeError) as error:
        raise PageError(f"{path}: not the rows of `ms-core evaluate` of this version ({error}): run it anew") from None
    return rows


def _of_another(system: str, own: Subject) -> Subject:
    return provenance_of(system, own).model_copy(update={"system": system})


def read_study(folder: Path, split: str, limit: int | None = LIMIT, authors_clips: bool = False) -> SoundPage:
    """The first `limit` utterances (None: all) that every finished run on a split in `folder` has, in protocol order.

    folder: the `--out` of `ms-core evaluate --keep-audio`, of one run or of several, each with its own system.
    authors_clips: add what the authors published of the same sentences (split paper-demo only). Raises PageError for
    what is missing or does not fit together.
    """
    folder = Path(folder)
    again = f"run `ms-core evaluate --keep-audio --split {split} --out {folder}`"
    logs = [path for path in sorted(folder.glob(f"{split}.*.jsonl")) if path.with_suffix(".json").is_file()]
    if not logs:
        raise PageError(f"{folder} has no finished run on split {split!r}: {again}")
    if authors_clips and split != DEMO:
        raise PageError(f"the authors' clips are of the split {DEMO}, not of {split!r}")
    systems: dict[str, Subject] = {}
    by_utt: dict[str, dict[str, dict]] = {}
    protocols = {}
    for log in logs:
        records = read_file(log.with_suffix(".json"))
        for row in _rows(log):
            by_utt.setdefault(row["utt"], {})[row["system"]] = row
        for record in records:
            if record.pair_with is None:
                systems[record.name] = Subject(**record.model_dump(include=set(Subject.model_fields)))
                protocols[record.protocol.partition(";")[0]] = None
    own = next((subject for subject in systems.values() if subject.checkpoint_sha256), next(iter(systems.values())))
    whole = {utt: rows for utt, rows in by_utt.items() if rows.keys() == systems.keys()}
    if not whole:
        raise PageError(f"{folder}: no utterance was spoken by each of {', '.join(systems)}: {again} for each")
    systems.setdefault(GROUND_TRUTH, _of_another(GROUND_TRUTH, own))
    demo: dict[str, dict[str, Path]] = {}
    if authors_clips:
        for row in demo_rows():
            if row["system"] != GROUND_TRUTH:
                system = f"authors/{row['system']}"
                demo.setdefault(row["librispeech_utt"], {})[system] = Path(row["path"])
                systems.setdefault(system, _of_another(system, own))
    ordered = dict(sorted(systems.items(), key=lambda entry: system_order(entry[1])))
    utterances = []
    for utt, rows in list(whole.items())[:limit]:
        kept = {s: folder / "audio" / s.replace("/", "_") / f"{utt}.wav" for s in ordered if s not in demo.get(utt, {})}
        sounds = kept | demo.get(utt, {})
        first = next(iter(rows.values()))
        if any(row["prompt_text"] != first["prompt_text"] for row in rows.values()):
            raise PageError(f"{folder}: {utt} was spoken with different prompts: {again} for each system")
        prompt = folder / "audio" / PROMPT / f"{utt}.wav"
        for path in (prompt, *sounds.values()):
            if not path.is_file():
                raise PageError(f"{path} is missing: {again} into a new folder")
        transcripts = {s: row["hypothesis"] for s, row in rows.items() if row.get("hypothesis")}
        sounds = {s: sounds[s] for s in ordered}
        utterances.append(
            Utterance(utt, first["speaker"], first["text"], first["prompt_text"], prompt, sounds, transcripts)
        )
    return SoundPage(split, "; ".join(protocols), len(whole), tuple(utterances), ordered)


def picture(wav: np.ndarray, sample_rate: int, span: float) -> bytes:
    """The spectrogram of samples (L,) as PNG, on a time axis of `span` seconds; what is beyond its end is clear."""
    level, _ = plots.levels(wav, sample_rate)  # (f, k)
    frames = max(level.shape[1], round(span / plots.HOP))
    level = np.pad(level, ((0, -level.shape[0] % SHRINK), (0, frames + -frames % SHRINK - level.shape[1])),
                   constant_values=np.nan)  # fmt: skip
    blocks = level.reshape(level.shape[0] // SHRINK, SHRINK, -1, SHRINK)
    loudest = np.fmax.reduce(np.fmax.reduce(blocks, axis=3), axis=1)
    file = io.BytesIO()
    shades = mpl.colormaps[plots.SHADES].resampled(SHADES)
    imsave(file, np.ma.masked_invalid(loudest), vmin=-plots.RANGE, vmax=0, cmap=shades, origin="lower", format="png",
           metadata={"Software": None}, pil_kwargs={"optimize": True})  # fmt: skip
    return file.getvalue()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def fill(template: str, **parts: str) -> str:
    """A template with its `@@NAME@@` replaced, in one pass: what stands in a part is never replaced."""
    return re.sub(r"@@([A-Z]+)@@", lambda match: parts[match[1]], template)


def _page(title: str, body: str, script: str) -> str:
    """The whole page; its policy lets the browser run this script and style alone, and load nothing from anywhere."""
    style = (TEMPLATES / "style.css").read_text()
    code, looks = (f"'sha256-{_base64(hashlib.sha256(text.encode()).digest())}'" for text in (script, style))
    policy = f"default-src 'none'; script-src {code}; style-src {looks}; img-src data:; media-src data:; "
    policy += "base-uri 'none'; form-action 'none'"
    shell = (TEMPLATES / "page.html").read_text()
    return fill(shell, POLICY=policy, TITLE=html.escape(title), STYLE=style, BODY=body, SCRIPT=script)


def _shown(text: str) -> str:
    """A text as it is shown: LibriSpeech's capitals are made small, all is escaped."""
    return html.escape(text.capitalize() if text.isupper() else text)


def _linked(text: str) -> str:
    """Escaped, with its https addresses as links."""
    return re.sub(r"https://[\w./-]+\w/?", lambda match: f'<a href="{match[0]}">{match[0]}</a>', html.escape(text))


def _figure(name: str, file: Path, span: float, about: str, note: str) -> str:
    # WAV and not FLAC: libsndfile writes FLAC without a seek table, and Chromium cannot jump in short clips then
    wav, rate = read_audio(file)
    name, about = html.escape(name, quote=True), html.escape(about, quote=True)
    return (
        f'<figure data-span="{span:.4f}"><figcaption>{name}</figcaption><div class="picture">'
        f'<img alt="Spectrogram: {name}" src="data:image/png;base64,{_base64(picture(wav, rate, span))}">'
        '<span class="head"></span></div>'
        f'<audio controls preload="metadata" aria-label="{name}, {about}" '
        f'src="data:audio/wav;base64,{_base64(wav_bytes(wav, rate))}"></audio>{note}</figure>'
    )


def _article(number: int, one: Utterance, systems: Mapping[str, Subject]) -> str:
    files = (one.prompt, *one.sounds.values())
    span = max(info.frames / info.samplerate for info in map(soundfile.info, files))
    about = f"sentence {number}"
    note = f'<p class="heard">“{_shown(one.prompt_text)}”</p>'
    figures = [_figure("prompt", one.prompt, span, about, note)]
    for system, path in one.sounds.items():
        heard = one.heard.get(system)
        note = f'<p class="heard"><span class="soft">heard by Whisper:</span> {html.escape(heard)}</p>' if heard else ""
        figures.append(_figure(label(systems[system]), path, span, about, note))
    return (
        f'<article aria-labelledby="s{number}"><h2 id="s{number}">{number}. Speaker {html.escape(one.speaker)}</h2>'
        f'<p class="text">{_shown(one.text)}</p><div class="sounds">{"".join(figures)}</div></article>\n'
    )


def _origin(study: SoundPage) -> str:
    """A table of what made our systems, a column each."""
    names = {"checkpoint_sha256": "checkpoint, sha256", "codec_sha256": "codec, sha256", "seed": "seed"}
    names |= {"config_hash": "decoding, digest", "git_commit": "commit", "date": "date"}
    rows = ["<td></td>" + "".join(f'<th scope="col">{html.escape(label(ours))}</th>' for ours in study.ours.values())]
    for field, name in names.items():
        values = ["–" if (value := getattr(ours, field)) is None else value for ours in study.ours.values()]
        cells = "".join(f"<td><code>{html.escape(str(value))}</code></td>" for value in values)
        rows.append(f'<th scope="row">{name}</th>{cells}')
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


def sound_page(study: SoundPage) -> str:
    """One HTML page: of each utterance its text, prompt, recording and what every system made of it."""
    count = len(study.utterances)
    credits = f"{study.credits} {AUTHORS_IN if study.has_authors_clips else AUTHORS_OUT}"
    body = (
        "<header><h1>MobileSpeech, replicated: what it sounds like</h1>"
        f"<p>{count} of the {study.total} utterances of <code>{html.escape(study.split)}</code> that were evaluated: "
        "the first ones in the protocol's order, none picked by ear. The systems heard the prompt and read the text; "
        "the recording is what the speaker said. Sounds are at their own level. Spectrograms: 0 Hz to half the sample "
        f"rate, {plots.RANGE:g} dB below each one's loudest point; the time axes of a sentence are equal.</p>"
        f'<p class="soft">{html.escape(study.protocol)}.</p></header>\n<main>\n'
        + "".join(_article(number, one, study.systems) for number, one in enumerate(study.utterances, 1))
        + f"</main>\n<footer><h2>What made it</h2>{_origin(study)}<p>{_linked(credits)} All speech but the "
        "recordings and prompts is synthetic, or has passed through a codec.</p></footer>"
    )
    return _page("MobileSpeech, replicated: sounds", body, (TEMPLATES / "sound.js").read_text())


def _ids(names: Iterable[str], seed: int) -> dict[str, str]:
    """Names as ids of 16 hex digits that do not show them."""
    return {name: hashlib.sha256(f"{seed}\n{name}".encode()).hexdigest()[:16] for name in names}


def listening_page(study: SoundPage, seed: int = 0) -> tuple[str, Key]:
    """The page of a blind test of all of a study's systems, recordings among them, and its key.

    The page has no name of a system or utterance, only ids drawn from `seed`, in the order of the ids; each listener
    hears the clips in an order of their own. That keeps a listener unbiased; it hides nothing from one who has the same
    sounds or guesses the seed.
    """
    clips, behind, sounds = [], {}, {}

    def sound(name: str, file: Path) -> str:
        key = _ids([name], seed)[name]
        sounds[key] = _base64(wav_bytes(*read_audio(file)))
        return key

    for one in study.utterances:
        prompt = sound(f"{PROMPT}\n{one.utt}", one.prompt)
        text = one.text.capitalize() if one.text.isupper() else one.text
        for system, file in one.sounds.items():
            clip_id = sound(f"{system}\n{one.utt}", file)
            clips.append({"id": clip_id, "text": text, "prompt": prompt, "sound": clip_id})
            behind[clip_id] = Clip(system=system, utt=one.utt)
    data = {
        "format": RATINGS_FORMAT,
        "scales": [scale._asdict() for scale in SCALES],
        "marks": MARKS,
        "clips": sorted(clips, key=lambda clip: clip["id"]),
        "sounds": dict(sorted(sounds.items())),
    }
    digest = hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
    text = json.dumps({**data, "page": digest}).replace("<", "\\u003c")  # so that no text can end the element
    credits = f"{study.credits} {PRIVATE if study.has_authors_clips else ''}".strip()  # names no system
    body = fill((TEMPLATES / "listening.html").read_text(), DATA=text, CREDITS=_linked(credits))
    page = _page("Listening test", body, (TEMPLATES / "listening.js").read_text())
    return page, Key(page=digest, split=study.split, systems=dict(study.systems), clips=behind)


def write_sound_page(path: Path, study: SoundPage) -> Path:
    """Write the sound page, whole or not at all."""
    text = sound_page(study)
    write_atomic(Path(path), lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return Path(path)


def write_listening_test(path: Path, study: SoundPage, seed: int = 0) -> list[Path]:
    """Write the page of a listening test and, beside it, its key `<name>.key.json`; returns both paths."""
    path = Path(path)
    text, key = listening_page(study, seed)
    target = path.with_suffix(".key.json")
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    write_atomic(target, lambda temporary: temporary.write_text(json_text(key.model_dump(mode="json"))))
    return [path, target]
