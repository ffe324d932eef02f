"""The speed of training: its parts add up, its records say what ran, and the command writes them."""

import json
import os
import platform
import subprocess
import sys

import pytest
import yaml
from conftest import PRESET

from ms_core.config import override
from ms_core.evaluation.bench import speed_records
from ms_core.evaluation.records import Provenance, read_file
from ms_core.training.acoustic import PackTask
from ms_core.training.speed import PARTS, measure, measure_preset, random_pack


def test_parts_of_a_step_add_up() -> None:
    preset = override(PRESET, {"train_model.muon": True})
    found = measure(PackTask(preset, random_pack(preset, 12, 3), "cpu"), 4)
    assert {len(values) for values in found.values()} == {4}
    for step in range(4):
        assert sum(found[part][step] for part in PARTS) == pytest.approx(found["total"][step])
        assert all(found[part][step] > 0 for part in PARTS)
        assert 0 < found["audio"][step] < 4 * preset.train_model.batch_seconds
    with pytest.raises(ValueError, match="at least 1"):
        measure(PackTask(preset, random_pack(preset, 12, 3), "cpu"), 0)


def test_records_say_what_ran() -> None:
    found, speech = measure_preset(PRESET, [], 3)
    provenance = Provenance.of("tiny", threads=1)
    records = {record.metric: record for record in speed_records(found, provenance, 1, speech)}
    assert set(records) == {"training_speed", *(f"training_step_{k}" for k in ("total", "audio", *PARTS))}
    speed = records["training_speed"]
    assert speed.unit == "s/s" and speed.n == 3 and speed.threads == 1 and speed.preset == "tiny"
    assert "1 process" in speed.protocol and "random tokens" in speed.protocol
    audio, total = records["training_step_audio"].value, records["training_step_total"].value
    assert speed.value == pytest.approx(audio / total, rel=1e-3)


def test_two_processes_by_one_command(tmp_path) -> None:
    preset, out = tmp_path / "tiny.yaml", tmp_path / "speed.json"
    preset.write_text(yaml.safe_dump(json.loads(PRESET.model_dump_json())))
    pack = random_pack(PRESET, 12, 3).write(tmp_path / "random.pack")
    command = [sys.executable, "-m", "ms_core.cli", "bench", "--training", "--preset", str(preset), "--pack", str(pack)]
    command += ["--processes", "2", "--steps", "2", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("training_speed") == 1
    assert {(r.system, r.processes) for r in read_file(out)} == {("mobilespeech-tiny", 2)}


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps memory by its own rules")
def test_memory_is_kept_from_step_to_step() -> None:
    """In a process of its own, whose allocator is set for good."""
    script = """
import resource
import numpy as np
from ms_core.training.launch import hold_memory
hold_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(1 << 24)  # 128 MiB, 32,768 pages of 4 KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
first = faults()
print(first, faults())
"""
    first, second = map(int, subprocess.check_output([sys.executable, "-c", script], text=True).split())
    assert second < first / 10
