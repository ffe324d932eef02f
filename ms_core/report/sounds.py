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
from collections.abc import Mapping
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
from ms_core.files import wav_bytes, write_atomic, write_json
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

    def credits(self, apart: str, beside: str) -> str:
        """Whose recordings these are, and what to say where the authors' clips are not on the page, or are."""
        try:
            source = CREDITS[load_preset(next(iter(self.ours.values())).preset).data.corpus]
        except (ConfigError, StopIteration):
            source = UNKNOWN
        return f"{source} {beside if any(s.startswith('authors/') for s in self.systems) else apart}".strip()


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
    by_utt: dict[str, dict[str, dict]] = {}
    try:
        for log in logs:
            for row in map(json.loads, log.read_text().splitlines()[1:]):
                if not {"utt", "speaker", "system", "text", "prompt_text"} <= row.keys():
                    raise ValueError("a row lacks a text or the prompt's")
                by_utt.setdefault(row["utt"], {})[row["system"]] = row
    except (ValueError, AttributeError) as error:
        raise PageError(f"{log}: not the rows of `ms-core evaluate` of this version ({error}): run it anew") from None
    records = [r for log in logs for r in read_file(log.with_suffix(".json")) if r.pair_with is None]
    systems = {r.name: Subject(**r.model_dump(include=set(Subject.model_fields))) for r in records}
    own = next((subject for subject in systems.values() if subject.checkpoint_sha256), next(iter(systems.values())))
    whole = {utt: rows for utt, rows in by_utt.items() if rows.keys() == systems.keys()}
    if not whole:
        raise PageError(f"{folder}: no utterance was spoken by each of {', '.join(systems)}: {again} for each")
    demo: dict[str, dict[str, Path]] = {}
    for row in demo_rows() if authors_clips else ():
        if row["system"] != GROUND_TRUTH:
            demo.setdefault(row["librispeech_utt"], {})[f"authors/{row['system']}"] = Path(row["path"])
    for name in (GROUND_TRUTH, *(name for clips in demo.values() for name in clips)):
        systems.setdefault(name, provenance_of(name, own).model_copy(update={"system": name}))
    ordered = dict(sorted(systems.items(), key=lambda entry: system_order(entry[1])))
    utterances = []
    for utt, rows in list(whole.items())[:limit]:
        first, clips = next(iter(rows.values())), demo.get(utt, {})
        if any(row["prompt_text"] != first["prompt_text"] for row in rows.values()):
            raise PageError(f"{folder}: {utt} was spoken with different prompts: {again} for each system")
        kept = {s: folder / "audio" / s.replace("/", "_") / f"{utt}.wav" for s in (PROMPT, *ordered)} | clips
        if missing := [path for path in kept.values() if not path.is_file()]:
            raise PageError(f"{missing[0]} is missing: {again} into a new folder")
        heard = {s: row["hypothesis"] for s, row in rows.items() if row.get("hypothesis")}
        prompt, texts = kept.pop(PROMPT), (first["speaker"], first["text"], first["prompt_text"])
        utterances.append(Utterance(utt, *texts, prompt, kept, heard))
    protocol = "; ".join(dict.fromkeys(r.protocol.partition(";")[0] for r in records))
    return SoundPage(split, protocol, len(whole), tuple(utterances), ordered)


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


def _page(name: str, title: str, **parts: str) -> str:
    """A whole page out of the template `name`; its policy lets a browser run its script and style and load nothing."""
    body, script, style, shell = (
        (TEMPLATES / file).read_text() for file in (f"{name}.html", f"{name}.js", "style.css", "page.html")
    )
    code, looks = (f"'sha256-{_base64(hashlib.sha256(text.encode()).digest())}'" for text in (script, style))
    policy = f"default-src 'none'; script-src {code}; style-src {looks}; img-src data:; media-src data:; "
    policy += "base-uri 'none'; form-action 'none'"
    return fill(shell, POLICY=policy, TITLE=title, STYLE=style, BODY=fill(body, **parts), SCRIPT=script)


def _shown(text: str) -> str:
    """A text as it is shown: LibriSpeech's capitals are made small."""
    return text.capitalize() if text.isupper() else text


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
        f'src="data:audio/wav;base64,{_base64(wav_bytes(wav, rate))}"></audio><p class="heard">{note}</p></figure>'
    )


def _article(number: int, one: Utterance, systems: Mapping[str, Subject]) -> str:
    span = max(soundfile.info(file).duration for file in (one.prompt, *one.sounds.values()))
    about, figures = f"sentence {number}", []
    for name, path in ((PROMPT, one.prompt), *one.sounds.items()):
        heard = html.escape(one.heard.get(name) or "")
        note = f'<span class="soft">heard by Whisper:</span> {heard}' if heard else ""
        note = f"“{html.escape(_shown(one.prompt_text))}”" if name == PROMPT else note
        figures.append(_figure(name if name == PROMPT else label(systems[name]), path, span, about, note))
    return (
        f'<article aria-labelledby="s{number}"><h2 id="s{number}">{number}. Speaker {html.escape(one.speaker)}</h2>'
        f'<p class="text">{html.escape(_shown(one.text))}</p><div class="sounds">{"".join(figures)}</div></article>\n'
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
    articles = (_article(number, one, study.systems) for number, one in enumerate(study.utterances, 1))
    about = {"COUNT": f"{len(study.utterances)} of the {study.total}", "SPLIT": html.escape(study.split)}
    about |= {"RANGE": f"{plots.RANGE:g}", "PROTOCOL": html.escape(study.protocol), "ORIGIN": _origin(study)}
    about |= {"ARTICLES": "".join(articles), "CREDITS": _linked(study.credits(AUTHORS_OUT, AUTHORS_IN))}
    return _page("sound", "MobileSpeech, replicated: sounds", **about)


def listening_page(study: SoundPage, seed: int = 0) -> tuple[str, Key]:
    """The page of a blind test of all of a study's systems, recordings among them, and its key.

    The page has no name of a system or utterance, only ids drawn from `seed`, in the order of the ids; each listener
    hears the clips in an order of their own. That keeps a listener unbiased; it hides nothing from one who has the same
    sounds or guesses the seed.
    """
    clips, behind, sounds = [], {}, {}

    def sound(system: str, utt: str, file: Path) -> str:
        key = hashlib.sha256(f"{seed}\n{system}\n{utt}".encode()).hexdigest()[:16]  # does not show what it is of
        sounds[key] = _base64(wav_bytes(*read_audio(file)))
        return key

    for one in study.utterances:
        prompt = sound(PROMPT, one.utt, one.prompt)
        for system, file in one.sounds.items():
            key = sound(system, one.utt, file)
            clips.append({"id": key, "text": _shown(one.text), "prompt": prompt, "sound": key})
            behind[key] = Clip(system=system, utt=one.utt)
    data = {"format": RATINGS_FORMAT, "scales": [scale._asdict() for scale in SCALES], "marks": MARKS}
    data |= {"clips": sorted(clips, key=lambda clip: clip["id"]), "sounds": dict(sorted(sounds.items()))}
    digest = hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
    text = json.dumps({**data, "page": digest}).replace("<", "\\u003c")  # so that no text can end the element
    page = _page("listening", "Listening test", DATA=text, CREDITS=_linked(study.credits("", PRIVATE)))
    return page, Key(page=digest, split=study.split, systems=dict(study.systems), clips=behind)


def write_sound_page(path: Path, study: SoundPage) -> Path:
    """Write the sound page, whole or not at all."""
    text = sound_page(study)
    write_atomic(Path(path), lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return Path(path)


def write_listening_test(path: Path, study: SoundPage, seed: int = 0) -> list[Path]:
    """Write the page of a listening test and, beside it, its key `<name>.key.json`; returns both paths."""
    path, (text, key) = Path(path), listening_page(study, seed)
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    write_json(path.with_suffix(".key.json"), key.model_dump(mode="json"))
    return [path, path.with_suffix(".key.json")]
