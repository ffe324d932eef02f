"""Public corpora: fetching them by lhotse's recipes, and our selection of LibriSpeech as a manifest.

The `mini` preset is trained and tested on a selection of LibriSpeech (Panayotov et al. 2015, CC BY 4.0), 8.9 h of
train-clean-100 for training and parts of test-other and test-clean. The package carries the utterances' names, so that
anyone gets the same sets out of the published archives.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

import soundfile

from ms_core import paths
from ms_core.checkpoint import write_atomic
from ms_core.config import DataConfig
from ms_core.data.prepare import DataError

SELECTION = paths.ASSETS / "librispeech-selection.tsv"  # set sex speaker utterances (names without the speaker)
PARTS = {"train": "train-clean-100", "dev-other": "test-other", "test-clean-24spk": "test-clean"}  # set -> archive
COLUMNS = ("set", "utt", "speaker", "sex", "seconds", "path", "text")


def archives(config: DataConfig, split: str | None = None) -> list[str]:
    """Names of a corpus's archives that a split (by default all three of the config) is in.

    Raises DataError for a corpus that cannot be fetched and a name that it does not have.
    """
    from lhotse.recipes.librispeech import LIBRISPEECH, MINI_LIBRISPEECH
    from lhotse.recipes.libritts import LIBRITTS

    known = {"librispeech": (*LIBRISPEECH, *MINI_LIBRISPEECH), "libritts": LIBRITTS}
    if config.corpus == "libriheavy":
        raise DataError("libriheavy is fetched by its authors' own run.sh (k2-fsa/libriheavy), not from here")
    if config.corpus not in known:
        raise DataError(f"corpus {config.corpus!r} comes with the package: there is nothing to fetch")
    names = [split] if split else [config.train, config.dev, config.test]
    wanted = [part for name in names for part in name.split("+")]
    if config.corpus == "librispeech":
        wanted = [PARTS.get(part, part) for part in wanted]
    if unknown := [part for part in wanted if part not in known[config.corpus]]:
        sets = f" or sets {', '.join(PARTS)}" if config.corpus == "librispeech" else ""
        raise DataError(
            f"{config.corpus} has no part {', '.join(unknown)}: choose among {', '.join(known[config.corpus])}{sets}"
        )
    return list(dict.fromkeys(wanted))


def download(config: DataConfig, split: str | None = None, root: Path | None = None) -> list[str]:
    """Fetch and unpack into the data folder what a split needs; a part that is there already stays.

    LibriSpeech gets `manifest.tsv` too, once all parts of the selection are there. Returns the archives' names. Raises
    DataError as `archives`, OSError without a network.
    """
    from lhotse.recipes import download_librispeech, download_libritts

    root = Path(root or paths.data())
    parts = archives(config, split)
    if (root / "manifest.tsv").is_file() and config.corpus == "librispeech":
        raise DataError(f"{root / 'manifest.tsv'} lists speech already: fetch into another folder (MS_DATA)")
    if config.corpus == "libritts":
        download_libritts(root, dataset_parts=parts)
        return parts
    download_librispeech(root, dataset_parts=parts)
    if all((root / "LibriSpeech" / part).is_dir() for part in PARTS.values()):
        write_manifest(root)
    return parts


def selection(file: Path = SELECTION) -> list[dict[str, str]]:
    """set, utt, speaker, sex of each utterance of our selection."""
    with open(file, newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [
        {"set": row["set"], "utt": f"{row['speaker']}-{name}", "speaker": row["speaker"], "sex": row["sex"]}
        for row in rows
        for name in row["utterances"].split()
    ]


def write_manifest(root: Path, rows: Sequence[dict[str, str]] | None = None) -> Path:
    """`manifest.tsv` of our selection out of LibriSpeech unpacked in `root`. Raises DataError where one is missing."""
    root = Path(root)
    texts: dict[Path, dict[str, str]] = {}
    lines, missing = [], []
    for row in selection() if rows is None else rows:
        chapter = root / "LibriSpeech" / PARTS[row["set"]] / Path(*row["utt"].split("-")[:2])
        audio, transcript = chapter / f"{row['utt']}.flac", chapter / f"{chapter.parent.name}-{chapter.name}.trans.txt"
        if chapter not in texts and transcript.is_file():
            entries = (line.partition(" ") for line in transcript.read_text(encoding="utf-8").splitlines())
            texts[chapter] = {utt: text for utt, _, text in entries}
        text = texts.get(chapter, {}).get(row["utt"])
        if text is None or not audio.is_file():
            missing.append(str(audio))
            continue
        seconds = f"{soundfile.info(audio).duration:.3f}"
        lines.append({**row, "seconds": seconds, "path": str(audio.relative_to(root)), "text": text})
    if missing:
        raise DataError(f"{len(missing)} utterances of the selection are missing, the first is {missing[0]}")

    def write(temporary: Path) -> None:
        with open(temporary, "w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, COLUMNS, delimiter="\t", quoting=csv.QUOTE_NONE, lineterminator="\n")
            writer.writeheader()
            writer.writerows(lines)

    write_atomic(root / "manifest.tsv", write)
    return root / "manifest.tsv"
