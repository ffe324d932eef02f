"""Corpora: reading them as lhotse cuts, fetching public ones, and our selection of LibriSpeech as a manifest.

The `mini` preset is trained and tested on a selection of LibriSpeech (Panayotov et al. 2015, CC BY 4.0), 8.9 h of
train-clean-100 for training and parts of test-other and test-clean. The package carries the utterances' names, so that
anyone gets the same sets out of the published archives.
"""

import csv
import re
import tarfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.error import URLError

import soundfile
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment
from lhotse.audio.utils import AudioLoadingError
from lhotse.utils import resumable_download, safe_extract

from ms_core import paths
from ms_core.config import DataConfig
from ms_core.files import write_atomic

SELECTION = paths.ASSETS / "librispeech-selection.tsv"  # set sex speaker utterances (names without the speaker)
PARTS = {"train": "train-clean-100", "dev-other": "test-other", "test-clean-24spk": "test-clean"}  # set -> archive
ADULTS = paths.ASSETS / "speechocean762-adults.tsv"  # speaker sex: 128 speakers with 20 utterances each
ACCENTED = "train-accented"  # the set that they make: voices for training, often strongly accented
SPEECHOCEAN = "https://www.openslr.org/resources/101/speechocean762.tar.gz"
COLUMNS = ("set", "utt", "speaker", "sex", "seconds", "path", "text")


class DataError(ValueError):
    """Speech data that is missing or cannot be used; the message says what and where."""


def read_cuts(config: DataConfig, split: str) -> CutSet:
    """Recordings and transcripts of a split, unaligned.

    `librispeech` and `shipped` read a `manifest.tsv` (set utt speaker sex seconds path text); a folder without one must
    hold LibriSpeech's own layout, and is read by lhotse's recipe. "a+b" joins splits. Raises DataError when nothing is
    there, and for a folder of shards.
    """
    if "/" in split:
        raise DataError(f"{split!r} is a folder of shards, which hold no recordings: name a split of {config.corpus}")
    if "+" in split:
        return CutSet.from_cuts(cut for part in split.split("+") for cut in read_cuts(config, part))
    root = paths.ASSETS / "smoke" if config.corpus == "shipped" else paths.data()
    manifest = root / "manifest.tsv"
    if config.corpus == "libritts":
        return _recipe_cuts("libritts", root, split)
    if config.corpus == "libriheavy":
        return CutSet.from_cuts(_libriheavy_cuts(root / "libriheavy", split))
    if not manifest.is_file():
        if config.corpus == "shipped":
            raise DataError(f"{manifest} is missing: the package is incomplete, install it again")
        return _recipe_cuts("librispeech", root, split)
    rows = [row for row in _read_rows(manifest) if row["set"] == split]
    if not rows:
        raise DataError(f"{manifest} has no utterance of set {split!r}")
    names = [row["utt"] for row in rows]
    if strange := [name for name in names if not re.fullmatch(r"\w[\w.-]*", name)]:  # they name files
        raise DataError(f"{manifest}: utterance {strange[0]!r}: a name holds letters, digits, '_', '-' and '.' alone")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{manifest}: set {split!r} has utterance {twice!r} twice: give each a name of its own")
    return CutSet.from_cuts(_readable(rows, root, split))


def _readable(rows: Sequence[dict[str, str]], root: Path, split: str) -> list[MonoCut]:
    """Cuts of the recordings that can be read; a warning counts the others. DataError where none can."""
    cuts, unread = [], []
    for row in rows:
        try:
            cuts.append(_cut(row, root))
        except (OSError, AudioLoadingError) as error:
            unread.append(f"{root / row['path']} ({' '.join(str(error).split())[:160]})")
    if not cuts:
        raise DataError(f"none of the {len(rows)} recordings of set {split!r} can be read, the first: {unread[0]}")
    if unread:
        warnings.warn(f"{len(unread)} recordings of {split!r} are unreadable, the first: {unread[0]}", stacklevel=3)
    return cuts


def _cut(row: dict[str, str], root: Path) -> MonoCut:
    recording = Recording.from_file(root / row["path"], recording_id=row["utt"])
    supervision = SupervisionSegment(
        row["utt"], row["utt"], 0.0, recording.duration, 0, row["text"], "en", row["speaker"], row["sex"]
    )
    return MonoCut(row["utt"], 0.0, recording.duration, 0, recording=recording, supervisions=[supervision])


def _recipe_cuts(corpus: str, root: Path, split: str) -> CutSet:
    """Cuts by lhotse's own recipe from a corpus unpacked under `root`."""
    from lhotse.recipes import prepare_librispeech, prepare_libritts

    folder = root / {"librispeech": "LibriSpeech", "libritts": "LibriTTS"}[corpus]
    if not (folder / split).is_dir():
        raise DataError(
            f"no {split!r} under {folder}: set MS_DATA to the folder that holds {folder.name}, or fetch it with "
            f"`ms-core data --download {corpus} --split {split}`"
        )
    prepare = {"librispeech": prepare_librispeech, "libritts": prepare_libritts}[corpus]
    manifests = prepare(folder, dataset_parts=split)[split]
    cuts = CutSet.from_manifests(recordings=manifests["recordings"], supervisions=manifests["supervisions"])
    return cuts.trim_to_supervisions(keep_overlapping=False)


def _libriheavy_cuts(folder: Path, split: str) -> Iterator[MonoCut]:
    """Utterances of LibriHeavy (Kang et al. 2023), read cut by cut.

    Its manifests are lhotse's own, and need no recipe: `libriheavy_cuts_<split>.jsonl.gz`, each utterance a part of a
    long recording of LibriLight under `download/librilight`, as the authors' `run.sh` leaves them in its folder. Texts
    are the books', with case and punctuation. Raises DataError for a manifest or recording that is missing.
    """
    manifest = folder / f"libriheavy_cuts_{split}.jsonl.gz"
    if not manifest.is_file():
        raise DataError(
            f"{manifest} is missing: set MS_DATA to the folder that holds {folder.name}, a checkout of "
            "k2-fsa/libriheavy whose run.sh has fetched the manifests, and LibriLight into download/librilight"
        )
    seen = None
    for cut in CutSet.from_jsonl_lazy(manifest).with_recording_path_prefix(folder):
        source = cut.recording.sources[0].source
        if source != seen and not Path(source).is_file():
            raise DataError(f"{source} is missing, {manifest} names it: unpack LibriLight there")
        seen, supervision = source, cut.supervisions[0]
        supervision.text = supervision.text or supervision.custom["texts"][0]
        supervision.custom = None  # the text before and what a recogniser heard
        yield cut.with_id(cut.id.replace("/", "-"))  # ids name files


ELSEWHERE = {  # sets of our manifest that are no part of LibriSpeech -> how to come by them
    "train-accented": "ms-core data --download speechocean762",
    "train-open": "readers of two Apache-2.0 repositories, told in CONTRIBUTING.md, which cannot be fetched here",
}


def archives(config: DataConfig, split: str | None = None) -> list[str]:
    """Names of a corpus's archives that a split (by default all three of the config) is in.

    Raises DataError for a corpus that cannot be fetched and a name that it does not have.
    """
    from lhotse.recipes.librispeech import LIBRISPEECH, MINI_LIBRISPEECH
    from lhotse.recipes.libritts import LIBRITTS

    if config.corpus == "speechocean762":
        return [Path(SPEECHOCEAN).name]
    known = {"librispeech": (*LIBRISPEECH, *MINI_LIBRISPEECH), "libritts": LIBRITTS}
    if config.corpus == "libriheavy":
        raise DataError("libriheavy is fetched by its authors' own run.sh (k2-fsa/libriheavy), not from here")
    if config.corpus not in known:
        raise DataError(f"corpus {config.corpus!r} comes with the package: there is nothing to fetch")
    names = [split] if split else [config.train, config.dev, config.test]
    parts = [part for name in names for part in name.split("+") if split or part not in ELSEWHERE]
    if config.corpus == "librispeech":
        parts = [PARTS.get(part, part) for part in parts]
    if strange := [part for part in parts if part in ELSEWHERE]:
        raise DataError(
            f"set {strange[0]} of librispeech's manifest is from elsewhere: {ELSEWHERE[strange[0]]}; without it: "
            "--set data.train=train+train-accented"
        )
    if unknown := [part for part in parts if part not in known[config.corpus]]:
        sets = f" or sets {', '.join(PARTS)}" if config.corpus == "librispeech" else ""
        raise DataError(
            f"{config.corpus} has no part {', '.join(unknown)}: choose among {', '.join(known[config.corpus])}{sets}"
        )
    return list(dict.fromkeys(parts))


def download(config: DataConfig, split: str | None = None, root: Path | None = None) -> list[str]:
    """Fetch and unpack into the data folder what a split needs; a part that is there already stays.

    speechocean762, which lhotse has no recipe for, is fetched whole and becomes the set `train-accented`.

    LibriSpeech gets `manifest.tsv` too, once all parts of the selection are there. Returns the archives' names. Raises
    DataError as `archives`, and without a network.
    """
    root = Path(root or paths.data())
    parts = archives(config, split)
    try:
        return _fetch(config, parts, root)
    except URLError as error:
        for path in (path for part in parts for path in root.glob(f"**/{part.removesuffix('.tar.gz')}*.t*gz")):
            if not path.stat().st_size:  # what a failed download leaves
                path.unlink()
        where = SPEECHOCEAN if config.corpus == "speechocean762" else "openslr.org (12 and 31 LibriSpeech, 60 LibriTTS)"
        raise DataError(
            f"{', '.join(parts)} cannot be fetched from {where} ({error.reason}): is there a network? What "
            f"was fetched by other means and unpacked in {root} is taken"
        ) from error


def _fetch(config: DataConfig, parts: list[str], root: Path) -> list[str]:
    from lhotse.recipes import download_librispeech, download_libritts

    if config.corpus == "speechocean762":
        archive = root / parts[0]
        if not (root / "speechocean762").is_dir():
            resumable_download(SPEECHOCEAN, archive)
            with tarfile.open(archive) as tar:
                safe_extract(tar, root)
        add_accented(root)
        return parts
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
    return [
        {"set": row["set"], "utt": f"{row['speaker']}-{name}", "speaker": row["speaker"], "sex": row["sex"]}
        for row in _read_rows(file)
        for name in row["utterances"].split()
    ]


def write_manifest(root: Path, rows: Sequence[dict[str, str]] | None = None) -> Path:
    """`manifest.tsv` of our selection out of LibriSpeech unpacked in `root`. Raises DataError where one is missing."""
    root = Path(root)
    texts: dict[Path, dict[str, str]] = {}
    lines = []
    for row in selection() if rows is None else rows:
        chapter = root / "LibriSpeech" / PARTS[row["set"]] / Path(*row["utt"].split("-")[:2])
        audio, transcript = chapter / f"{row['utt']}.flac", chapter / f"{chapter.parent.name}-{chapter.name}.trans.txt"
        if chapter not in texts and transcript.is_file():
            entries = (line.partition(" ") for line in transcript.read_text(encoding="utf-8").splitlines())
            texts[chapter] = {utt: text for utt, _, text in entries}
        lines.append((audio, {**row, "text": texts.get(chapter, {}).get(row["utt"])}))
    return _write_rows(root, lines)


def add_accented(root: Path) -> Path:
    """Make the set `train-accented` of `root/manifest.tsv` out of speechocean762 unpacked there.

    speechocean762 (Zhang et al. 2021, CC BY 4.0; OpenSLR 101) is English read by Mandarin speakers; ours are its
    adults, since its children's voices are far from what the model shall speak with. Raises DataError where the corpus
    or one of their utterances is missing.
    """
    root = Path(root)
    folder, manifest = root / "speechocean762", root / "manifest.tsv"
    sexes = {row["speaker"]: row["sex"] for row in _read_rows(ADULTS)}

    def table(name: str) -> dict[str, str]:
        files = [folder / part / name for part in ("train", "test")]
        if missing := [file for file in files if not file.is_file()]:
            raise DataError(f"{missing[0]} is missing: unpack speechocean762 (OpenSLR 101) into {root}")
        lines = [line.split(maxsplit=1) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
        return dict(lines)

    texts, speakers, recordings = table("text"), table("utt2spk"), table("wav.scp")
    adults = [(utt, speaker) for utt, speaker in sorted(speakers.items()) if speaker in sexes]
    lines = [
        (folder / recordings[utt], {"set": ACCENTED, "utt": utt, "speaker": f"so{speaker}", "sex": sexes[speaker],
                                    "text": texts[utt]})
        for utt, speaker in adults
    ]  # fmt: skip
    kept = [row for row in _read_rows(manifest) if row["set"] != ACCENTED] if manifest.is_file() else []
    return _write_rows(root, lines, kept)


def _read_rows(file: Path) -> list[dict[str, str]]:
    with open(file, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))


def _write_rows(root: Path, lines: Sequence[tuple[Path, dict]], kept: Sequence[dict[str, str]] = ()) -> Path:
    """`root/manifest.tsv` of rows that stay, and of recordings with what is known of them. Raises DataError."""
    if missing := [str(audio) for audio, row in lines if row["text"] is None or not audio.is_file()]:
        raise DataError(f"{len(missing)} recordings or their texts are missing, the first is {missing[0]}")
    new = [
        {**row, "seconds": f"{soundfile.info(audio).duration:.3f}", "path": str(audio.relative_to(root))}
        for audio, row in lines
    ]

    def write(temporary: Path) -> None:
        with open(temporary, "w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, COLUMNS, delimiter="\t", quoting=csv.QUOTE_NONE, lineterminator="\n")
            writer.writeheader()
            writer.writerows([*kept, *new])

    write_atomic(root / "manifest.tsv", write)
    return root / "manifest.tsv"
