"""Forced alignment of a corpus, in processes, kept line by line."""

import json
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import soundfile
from tqdm import tqdm

from ms_core.align import SAMPLE_RATE, align_scored, check_fit
from ms_core.audio import resample


def align_corpus(items: Iterable[tuple], out_jsonl: str | Path, workers: int = 2) -> Path:
    """Align many recordings, items (id, path of a file, text), in `workers` processes.

    An item may end with the start and length in seconds of the part of the file that is meant.

    Appends one JSON line each to `out_jsonl`: {id, phones, starts, ends, seconds, score, unspoken}, times in seconds,
    or {id, error}. Killed half way, the next call goes on with the ids that are still missing.
    """
    out = Path(out_jsonl)
    out.parent.mkdir(parents=True, exist_ok=True)
    done = _done(out)
    todo = [(identity, str(path), *rest) for identity, path, *rest in items if identity not in done]
    if not todo:
        return out
    with out.open("a", encoding="utf-8") as file, ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        for line in tqdm(pool.map(_align_file, todo, chunksize=4), total=len(todo), desc=f"align {out.stem}"):
            file.write(json.dumps(line) + "\n")
            file.flush()
    return out


def _done(out: Path) -> set[str]:
    """Ids already in the file; a torn last line is cut off."""
    if not out.exists():
        return set()
    content = out.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        with out.open("r+b") as file:
            file.truncate(len(whole))
    return {json.loads(line)["id"] for line in whole.splitlines()}


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
    except (ValueError, soundfile.LibsndfileError) as error:
        return {"id": identity, "error": f"{type(error).__name__}: {error}"}
    times = {"phones": aligned.phones, "starts": aligned.starts, "ends": aligned.ends, "seconds": aligned.seconds}
    return {"id": identity, **times, "score": round(fit.score, 2), "unspoken": round(fit.unspoken, 2)}
