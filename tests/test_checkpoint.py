"""Checkpoints: whole or not at all, and never another's."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ms_core import checkpoint
from ms_core.checkpoint import CheckpointError, damaged, load_checkpoint, save_checkpoint
from ms_core.files import sha256, write_atomic, write_json

TENSORS = {
    "a": torch.arange(6.0).reshape(2, 3),
    "b": torch.tensor([1, 2], dtype=torch.int16),
    "c": torch.ones(()).half(),
}
META = {"format": "test-1", "name": "Zoë"}


@pytest.fixture
def folder(tmp_path) -> Path:
    save_checkpoint(tmp_path / "new" / "one", TENSORS, META)
    return tmp_path / "new" / "one"


def same(tensors: dict[str, torch.Tensor]) -> bool:
    return tensors.keys() == TENSORS.keys() and all(
        torch.equal(tensors[k], v) and tensors[k].dtype == v.dtype for k, v in TENSORS.items()
    )


def test_round_trip(folder) -> None:
    tensors, meta = load_checkpoint(folder, "test-1")
    assert same(tensors)
    assert meta == {**META, "weights_sha256": sha256(folder / "weights.safetensors")}
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "weights.safetensors"]
    assert all(p.stat().st_mode & 0o777 == 0o644 for p in folder.iterdir())


def test_equal_contents_give_equal_files(folder, tmp_path) -> None:
    save_checkpoint(tmp_path / "two", dict(reversed(TENSORS.items())), dict(reversed(META.items())))
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


@pytest.mark.parametrize("name", ["config.json", "weights.safetensors"])
def test_missing_truncated_or_too_large(folder, name: str, monkeypatch) -> None:
    path = folder / name
    content = path.read_bytes()
    limit = "MAX_JSON" if name == "config.json" else "MAX_WEIGHTS"
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, limit, len(content) - 1)
        with pytest.raises(CheckpointError, match=f"{name}: {len(content)} bytes, at most {len(content) - 1} are read"):
            load_checkpoint(folder, "test-1")
    for size in (0, 1, len(content) // 2, len(content) - 2):
        path.write_bytes(content[:size])
        with pytest.raises(CheckpointError, match=name):
            load_checkpoint(folder, "test-1")
    path.unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        load_checkpoint(folder, "test-1")


@pytest.mark.parametrize("text", ["[1, 2]", "null", '"test-1"', '{"format": "other"}', "{}", "\udcff"])
def test_a_foreign_config_is_refused(folder, text: str) -> None:
    (folder / "config.json").write_text(text, errors="surrogateescape")
    with pytest.raises(CheckpointError, match="config.json: "):
        load_checkpoint(folder, "test-1")
    with pytest.raises(CheckpointError):
        load_checkpoint(folder / "none", "test-1")


def test_weights_of_another_save_are_refused(folder, tmp_path) -> None:
    save_checkpoint(tmp_path / "two", {"a": torch.zeros(2, 3)}, META)
    (folder / "weights.safetensors").write_bytes((tmp_path / "two" / "weights.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="truncated, or of another save"):
        load_checkpoint(folder, "test-1")


def test_no_pickle_is_read(folder) -> None:
    torch.save(TENSORS, folder / "weights.safetensors")
    meta = {**META, "weights_sha256": sha256(folder / "weights.safetensors")}
    (folder / "config.json").write_text(json.dumps(meta))
    with pytest.raises(CheckpointError, match="not safetensors"):
        load_checkpoint(folder, "test-1")


@pytest.mark.parametrize("part", ["save_file", "json_text", "sha256"])
def test_a_failed_save_leaves_the_earlier_checkpoint(folder, monkeypatch, part: str) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, part, full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(folder, {"a": torch.zeros(9)}, META)
    monkeypatch.undo()
    assert same(load_checkpoint(folder, "test-1")[0])
    assert len(list(folder.iterdir())) == 2  # no temporary file stays


def test_a_file_system_that_takes_no_more_leaves_the_earlier_checkpoint(folder) -> None:
    """The kernel itself refuses here: no file of the child process may grow over 64 kB."""
    code = f"""
import resource, signal, torch
from ms_core.checkpoint import save_checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
try:
    save_checkpoint({str(folder)!r}, {{"a": torch.zeros(100_000)}}, {META!r})
except OSError as error:
    print("refused:", error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "refused:" in done.stdout
    assert same(load_checkpoint(folder, "test-1")[0])
    assert len(list(folder.iterdir())) == 2


def test_write_atomic_and_json(tmp_path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"b": 1, "a": [1.5, None]})
    assert path.read_text() == '{\n "a": [\n  1.5,\n  null\n ],\n "b": 1\n}\n'
    for wrong in (float("nan"), object()):
        with pytest.raises((ValueError, TypeError)):
            write_json(path, {"a": wrong})

    def stops(temporary: Path) -> None:
        temporary.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, stops)
    assert json.loads(path.read_text()) == {"a": [1.5, None], "b": 1}
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["x.json"]


@pytest.mark.parametrize("error", [KeyError("config"), TypeError("t"), ValueError("v"), RuntimeError("size mismatch")])
def test_damaged_names_the_folder(error: Exception) -> None:
    with pytest.raises(CheckpointError, match="some/folder: damaged"), damaged(Path("some/folder")):
        raise error
    with pytest.raises(CheckpointError, match="^as it is$"), damaged(Path("some/folder")):
        raise CheckpointError("as it is")
