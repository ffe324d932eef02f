"""A pack: all that a training of the acoustic model hears, as one file for a machine without speech or network.

It is a safetensors file, so nothing in it can run: phones, durations and codes (ten bits each, not sixteen) of train
and dev, the codec's tables, and JSON that names token digest and what was packed. Several packs of the same codec can
be read as one (`Pack.read_all`): the first holds the recordings, others virtual voices. `split_file` cuts one into
numbered parts for a channel that takes small files alone; `Pack.read` joins them. All our choice.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ms_core.codec.mini import MiniCodec
from ms_core.config import CodecConfig, parse
from ms_core.files import replacing, sha256, write_json
from ms_core.text import PHONES

FORMAT = "ms-pack-1"
TABLES = ("mel_basis", "mean", "components", "books")  # of a MiniCodec: all that decides its tokens
MAX_BYTES = 4 << 30
PARTS = ".parts.json"


Item = tuple[str, np.ndarray, np.ndarray, np.ndarray]
"""Of `Utterances.of`: speaker, phones (p,), durations (p,), codes (n, t)."""


class PackError(ValueError):
    """A pack that cannot be used; the message says which file and why."""


@dataclass(frozen=True)
class Utterances:
    """Aligned, tokenised utterances end to end; those of one speaker follow one another.

    phones, durations: (P,), the i-th utterance's are phone_ends[i-1]..phone_ends[i]; codes: (n, F), int16, its frames
    are the sum of its durations; speakers: (U,) index of the speaker.
    """

    phones: Int[np.ndarray, " p"]
    durations: Int[np.ndarray, " p"]
    phone_ends: Int[np.ndarray, " u"]
    codes: Int[np.ndarray, "n f"]
    speakers: Int[np.ndarray, " u"]

    @classmethod
    def of(cls, items: Iterable[Item]) -> "Utterances":
        """From utterances in any order."""
        items = sorted(items, key=lambda item: item[0])
        if not items:
            raise PackError("no utterance to pack")
        names = {name: i for i, name in enumerate(dict.fromkeys(item[0] for item in items))}
        return cls(
            np.concatenate([item[1] for item in items]).astype(np.uint8),
            np.concatenate([item[2] for item in items]).astype(np.int16),
            np.cumsum([len(item[1]) for item in items]).astype(np.int32),
            np.concatenate([item[3] for item in items], 1).astype(np.int16),
            np.array([names[item[0]] for item in items], np.int32),
        )

    def check(self, bins: int, origin: str) -> None:
        """Raises PackError where shapes, ranges or sums do not fit together."""
        good = self.phones.shape == self.durations.shape and self.phone_ends.shape == self.speakers.shape
        good = good and len(self.phone_ends) > 0 and self.phone_ends[-1] == len(self.phones)
        good = good and (np.diff(self.phone_ends, prepend=0) > 0).all() and (np.diff(self.speakers) >= 0).all()
        good = good and self.durations.min() >= 0 and int(self.durations.sum()) == self.codes.shape[1]
        good = good and self.phones.min() > 0 and self.phones.max() < len(PHONES)
        if not good or self.codes.min() < 0 or self.codes.max() >= bins:
            raise PackError(f"{origin}: phones, durations and codes do not fit together; write the pack again")

    def joined(self, other: "Utterances") -> "Utterances":
        """Both, the other's speakers as further ones."""
        return Utterances(
            np.concatenate([self.phones, other.phones]),
            np.concatenate([self.durations, other.durations]),
            np.concatenate([self.phone_ends, other.phone_ends + self.phone_ends[-1]]),
            np.concatenate([self.codes, other.codes], 1),
            np.concatenate([self.speakers, other.speakers + self.speakers[-1] + 1]),
        )


@dataclass(frozen=True)
class Pack:
    """train and dev speech, the codec whose tokens they are (after `read` without a decoder), and facts about them.

    In a pack that is not to be written, train may be `sharded.ShardedSpeech`, and the codec any.
    """

    train: Utterances
    dev: Utterances
    codec: MiniCodec
    about: dict[str, object]

    def write(self, path: Path) -> Path:
        """Write the pack; whole or not at all."""
        bits = _bits(self.codec.config.bins)
        tensors = {f"codec.{name}": getattr(self.codec, name).contiguous() for name in TABLES}
        for name in ("train", "dev"):
            part = getattr(self, name)
            part.check(self.codec.config.bins, str(path))
            for field, values in vars(part).items():
                values = pack_bits(values, bits) if field == "codes" else values
                tensors[f"{name}.{field}"] = torch.from_numpy(np.ascontiguousarray(values))
        config = self.codec.config.model_dump(mode="json")
        meta = {"format": FORMAT, "phones": list(PHONES), "codec_config": config, "about": self.about}
        meta["token_digest"] = self.codec.token_digest
        with replacing(Path(path)) as temporary:
            save_file(tensors, temporary, metadata={"pack": json.dumps(meta, sort_keys=True)})
        return Path(path)

    @classmethod
    def read(cls, path: Path) -> "Pack":
        """Of a file or, where these alone are there, its parts, which are joined.

        Raises PackError for what is missing, cut short, damaged or of another version.
        """
        path = whole_file(Path(path))
        if not path.is_file():
            raise PackError(f"no pack {path}: write one with `ms-core data --pack {path}`, or join its parts")
        if path.stat().st_size > MAX_BYTES:
            raise PackError(f"{path}: {path.stat().st_size} bytes, at most {MAX_BYTES} are read")
        try:
            with safe_open(path, "pt") as file:
                meta = json.loads((file.metadata() or {}).get("pack", "null"))
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError) as error:
            raise PackError(f"{path}: not a pack, or cut short ({error})") from None
        if not isinstance(meta, dict) or meta.get("format") != FORMAT:
            raise PackError(f"{path}: not a pack of format {FORMAT}")
        if meta["phones"] != list(PHONES):
            raise PackError(f"{path}: its phone table is not this version's: write the pack again")
        codec = MiniCodec(parse(CodecConfig, meta["codec_config"], str(path)))
        try:
            for name in TABLES:
                getattr(codec, name).copy_(tensors[f"codec.{name}"])
            parts = [_utterances(tensors, name, codec.config) for name in ("train", "dev")]
        except (KeyError, RuntimeError, ValueError) as error:
            raise PackError(f"{path}: damaged, or of another version ({error})") from None
        if codec.token_digest != meta["token_digest"]:
            raise PackError(f"{path}: its codec tables have digest {codec.token_digest}, not {meta['token_digest']}")
        for part in parts:
            part.check(codec.config.bins, str(path))
        return cls(*parts, codec.eval(), meta["about"])

    def lowest(self, layers: int) -> "Pack":
        """The same speech in the codec's lowest so many layers; itself where it has no more."""
        if layers >= self.codec.config.n_q:
            return self
        train, dev = (replace(part, codes=part.codes[:layers]) for part in (self.train, self.dev))
        return Pack(train, dev, self.codec.lowest(layers), self.about)

    @classmethod
    def read_all(cls, files: Sequence[Path]) -> "Pack":
        """Several packs of one codec as one: their training speech together, the first one's dev speech."""
        first, *others = (cls.read(path) for path in files)
        for path, other in zip(files[1:], others, strict=True):
            if other.codec.token_digest != first.codec.token_digest:
                raise PackError(
                    f"{path}: tokens of codec {other.codec.token_digest}, {files[0]} has {first.codec.token_digest}"
                )
            about = {**first.about, "joined": [*first.about.get("joined", []), other.about]}
            first = replace(first, train=first.train.joined(other.train), about=about)
        return first


def _utterances(tensors: dict[str, torch.Tensor], name: str, config: CodecConfig) -> Utterances:
    fields = {field: tensors[f"{name}.{field}"].numpy() for field in Utterances.__dataclass_fields__}
    frames = int(fields["durations"].astype(np.int64).sum())
    codes = unpack_bits(fields["codes"], config.n_q * frames, _bits(config.bins)).reshape(config.n_q, frames)
    return Utterances(**{**fields, "codes": codes})


def _bits(bins: int) -> int:
    return (bins - 1).bit_length()


def pack_bits(values: Int[np.ndarray, "..."], bits: int) -> Int[np.ndarray, " bytes"]:
    """Integers of so many bits each, end to end, the lowest bit first."""
    flat = values.reshape(-1).astype(np.uint16)
    step = 8 << 20  # values at a time, which fill whole bytes
    planes = (((flat[i : i + step, None] >> np.arange(bits, dtype=np.uint16)) & 1) for i in range(0, len(flat), step))
    return np.concatenate([np.packbits(p.astype(np.uint8).reshape(-1), bitorder="little") for p in planes])


def unpack_bits(packed: Int[np.ndarray, " bytes"], count: int, bits: int) -> Int[np.ndarray, " count"]:
    """The inverse of `pack_bits`: int16. Raises PackError where there are not as many bytes as `count` values need."""
    if len(packed) != -(-count * bits // 8):
        raise PackError(f"{len(packed)} bytes hold no {count} values of {bits} bits")
    values = np.empty(count, np.int16)
    step = 8 << 20
    for start in range(0, count, step):
        part = packed[start * bits // 8 : -(-(start + step) * bits // 8)]
        size = min(step, count - start)
        planes = np.unpackbits(part, count=size * bits, bitorder="little").reshape(size, bits)
        values[start : start + size] = planes @ (1 << np.arange(bits, dtype=np.int16))
    return values


def split_file(path: Path, size: int) -> list[Path]:
    """Cut a file into FILE.001, FILE.002, ... of at most `size` bytes, and FILE.parts.json with their sha256."""
    path = Path(path)
    if size < 1:
        raise PackError(f"parts of {size} bytes: give at least 1")
    content = path.read_bytes()
    parts = []
    for index, start in enumerate(range(0, len(content), size), start=1):
        part = path.with_name(f"{path.name}.{index:03d}")
        with replacing(part) as temporary:
            temporary.write_bytes(content[start : start + size])
        parts.append(part)
    listing = {"file": path.name, "sha256": sha256(path), "parts": {part.name: sha256(part) for part in parts}}
    write_json(path.with_name(path.name + PARTS), listing)
    return parts


def _listed(path: Path) -> tuple[Path, dict[str, str], str]:
    """The list of a file's parts: where it lies, {part: sha256}, and the whole file's sha256."""
    listing = path.with_name(path.name + PARTS)
    try:
        values = json.loads(listing.read_text())
        return listing, dict(values["parts"]), str(values["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PackError(f"{listing}: cannot be read, so {path} cannot be joined ({error})") from None


def whole_file(path: Path) -> Path:
    """The path, where its parts alone lie joined from them; raises PackError as `join_file`, and for a file that is
    there and is not the one whose parts lie beside it."""
    if not path.with_name(path.name + PARTS).is_file():
        return path
    if not path.is_file():
        return join_file(path)
    listing, _, whole = _listed(path)
    if sha256(path) != whole:
        raise PackError(f"{path}: not the file whose parts {listing.name} lists: remove it, or the parts")
    return path


def join_file(path: Path) -> Path:
    """Put together what `split_file` cut; raises PackError for a part that is missing, swapped or changed."""
    path = Path(path)
    listing, names, whole = _listed(path)
    with replacing(path) as temporary:
        with open(temporary, "wb") as out:
            for name, digest in names.items():
                part = path.with_name(Path(name).name)
                if not part.is_file():
                    raise PackError(f"{part} is missing: {listing.name} lists {len(names)} parts")
                if sha256(part) != digest:
                    raise PackError(f"{part}: not the part that {listing.name} lists: fetch it again")
                out.write(part.read_bytes())
        if sha256(temporary) != whole:
            raise PackError(f"{path}: the joined parts are not the file that was split")
    return path
