"""Forced alignment of a corpus, in processes, kept line by line."""

import hashlib
import json
import warnings
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import soundfile
from tqdm import tqdm

from ms_core.files import write_atomic
from ms_core.recordings.align import SAMPLE_RATE, align_scored, check_fit
from ms_core.recordings.audio import resample
from ms_core.text import BOUNDARIES, TextError, normalise, pronunciations


def align_corpus(items: Iterable[tuple], out_jsonl: str | Path, workers: int = 2) -> Path:
    """Align many recordings, items (id, path of a file, text), in `workers` processes.

    An item may end with the start and length in seconds of the part of the file that is meant.

    Keeps one JSON line each in `out_jsonl`: {id, phones, starts, ends, seconds, score, unspoken}, times in seconds, or
    {id, error, reading} for what does not fit together. Killed half way, the next call goes on with the ids that are
    still missing. A line whose phones are not what the text reads as today, by another text, rule or dictionary, is
    made anew. A recording that cannot be read has no line, so the next call tries it again; a warning counts them.
    """
    out = Path(out_jsonl)
    out.parent.mkdir(parents=True, exist_ok=True)
    items = [(identity, str(path), *rest) for identity, path, *rest in items]
    done = _done(out, {identity: text for identity, _, text, *_ in items})
    todo = [item for item in items if item[0] not in done]
    if not todo:
        return out
    unread = []
    with out.open("a", encoding="utf-8") as file, ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        for line in tqdm(pool.map(_align_file, todo, chunksize=4), total=len(todo), desc=f"align {out.stem}"):
            if "unread" in line:
                unread.append(line["unread"])
                continue
            file.write(json.dumps(line) + "\n")
            file.flush()
    if unread:
        warnings.warn(f"{len(unread)} recordings could not be read, the first: {unread[0]}", stacklevel=2)
    return out


def _reading(text: str) -> list[list[list[str]]] | str:
    """The pronunciations of each word of a text, or why it cannot be read."""
    try:
        return [pronunciations(word) for word in normalise(text) if word not in BOUNDARIES]
    except TextError as error:
        return str(error)


def _digest(text: str) -> str:
    return hashlib.sha256(json.dumps([text, _reading(text)]).encode()).hexdigest()[:16]


def _is_current(row: dict, text: str) -> bool:
    """Whether a line's words are pronounced as today's rules and dictionaries have the text."""
    if "error" in row:
        return row.get("reading") == _digest(text)
    words: list[list[str]] = []
    for phone in row["phones"]:
        if phone in BOUNDARIES:
            words.append([])
        else:
            words[-1].append(phone)
    reading = _reading(text)
    spoken = [word for word in words if word]
    return len(spoken) == len(reading) and all(word in variants for word, variants in zip(spoken, reading, strict=True))


def _done(out: Path, texts: Mapping[str, str]) -> set[str]:
    """Ids that are in the file and stay; a torn last line and lines of other readings of `texts` are taken out."""
    if not out.exists():
        return set()
    content = out.read_bytes().decode("utf-8", "replace")
    rows = [(line, json.loads(line)) for line in content[: content.rfind("\n") + 1].splitlines()]
    kept = [(line, r["id"]) for line, r in rows if r["id"] not in texts or _is_current(r, texts[r["id"]])]
    whole = "".join(f"{line}\n" for line, _ in kept)
    if whole != content:
        write_atomic(out, lambda temporary: temporary.write_text(whole, encoding="utf-8"))
    return {identity for _, identity in kept}


def _align_file(item: tuple) -> dict:
    """One line of `align_corpus`'s output."""
    identity, path, text, *part = item
    try:
        if part:
            rate = soundfile.info(path).samplerate
            start, length = (round(seconds * rate) for seconds in part)
            wav, _ = soundfile.read(path, length, start, dtype="float32")
        else:
            wav, rate = soundfile.read(path, dtype="float32")
        wav = resample(wav, rate, SAMPLE_RATE)
        aligned, fit = align_scored(wav, text)
        check_fit(fit)
    except (OSError, soundfile.LibsndfileError) as error:
        return {"unread": f"{path}: {error}"}
    except ValueError as error:
        return {"id": identity, "error": f"{type(error).__name__}: {error}", "reading": _digest(text)}
    times = {"phones": aligned.phones, "starts": aligned.starts, "ends": aligned.ends, "seconds": aligned.seconds}
    return {"id": identity, **times, "score": round(fit.score, 2), "unspoken": round(fit.unspoken, 2)}
