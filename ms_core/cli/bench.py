"""`bench` and `cost`: how fast it speaks and trains, and what training takes."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ms_core import paths
from ms_core.cli import common as given
from ms_core.cli.common import UsageError, command, load_config, load_model, parse_numbers

if TYPE_CHECKING:
    from collections.abc import Callable

    from ms_core.evaluation.records import Record


@command("bench")
def bench(
    model: given.Model = "mini",
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 1,
    seconds: Annotated[float, typer.Option(min=0.5, max=60, help="Length of the speech, about.")] = 10.0,
    repeats: Annotated[int, typer.Option(min=1)] = 5,
    peers: Annotated[
        bool, typer.Option("--peers", help="Also time networks of other systems' shapes, in turns with ours.")
    ] = False,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="All lengths on 1 and 2 threads in fp32 and bf16, and passes.")
    ] = False,
    lengths: Annotated[str | None, typer.Option(metavar="L,...", help="Of a sweep, s. Default: 2,5,10,20,30.")] = None,
    passes: Annotated[
        str | None, typer.Option(metavar="S,...", help="Of a sweep, in layer 1. Default: 1,2,4,8,16,32.")
    ] = None,
    training: Annotated[
        bool, typer.Option("--training", help="Instead: seconds of speech a second in the training of --preset.")
    ] = False,
    preset: given.PresetName = "mini",
    pack: Annotated[list[Path] | None, typer.Option(help="Of --training: its speech. Default: random tokens.")] = None,
    processes: given.Processes = 1,
    steps: Annotated[int, typer.Option(min=1, help="Of --training: steps that are timed.")] = 20,
    changes: given.Changes = None,
    prompt: given.Prompt = None,
    prompt_text: given.PromptText = None,
    seed: given.Seed = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print records as JSON.")] = False,
    out: Annotated[Path | None, typer.Option(help="JSON file for the records.")] = None,
    device: given.Device = "cpu",
) -> None:
    """Measure speed (RTF by component) and peak memory; the default prompt is a recording that the package ships.

    A sweep times its passes, and the peers, at the length of --seconds; passes on one thread. --training times the
    parts of a training step.
    """
    if training:
        if sweep or peers:
            raise UsageError("--training goes with neither --sweep nor --peers")
        _bench_training(preset, changes, pack, processes, threads, steps, seed, as_json, out)
        return
    if pack or processes > 1 or changes:
        raise UsageError("--pack, --processes and --set are of --training: give it too")
    if not sweep and (lengths or passes):
        raise UsageError("--lengths and --passes are of --sweep: give it too, or use --seconds")
    if sweep and threads != 1:
        raise UsageError(f"--threads {threads}: a sweep runs on 1 and 2 threads, leave it out")
    if (sweep or peers) and device != "cpu":
        raise UsageError(f"--device {device}: --sweep and --peers compare speeds on cpu, leave it out")
    swept = parse_numbers(lengths, "--lengths", float), parse_numbers(passes, "--passes")
    if (prompt is None) != (prompt_text is None):
        raise UsageError("--prompt and --prompt-text go together: give both or neither")
    if out is not None:
        paths.check_out(out, ".json")
    from ms_core.config import load_preset
    from ms_core.data.corpora import read_cuts
    from ms_core.evaluation.bench import footprint_records, training_records
    from ms_core.evaluation.eval_set import PROMPT_SECONDS
    from ms_core.evaluation.records import Provenance

    tts, folder, trained = load_model(model, device)
    if prompt is None:
        smoke = load_preset("smoke").data
        cut = next(iter(read_cuts(smoke, smoke.test)))
        prompt, prompt_text = Path(cut.recording.sources[0].source), cut.supervisions[0].text
    provenance = Provenance.of(trained["name"], folder, seed, tts.decoding.digest(), threads, device)
    system = f"mobilespeech-{trained['name']}"
    from ms_core.evaluation import sweep as sweeps

    cells = [sweeps.Cell(seconds, threads)]
    if sweep:
        cells = sweeps.plan(swept[0] or sweeps.SECONDS, swept[1] or sweeps.PASSES, seconds, tts.decoding.steps)
    records = sweeps.sweep_records(
        tts, sweeps.sweep(tts, prompt, prompt_text, cells, repeats, seed), provenance, system
    )
    if sweep:
        records += sweeps.precision_records(tts, tts.voice(prompt, prompt_text, PROMPT_SECONDS), provenance, system)
    records += footprint_records(folder / "model" / "weights.safetensors", provenance, system)
    records += training_records(trained, provenance, system)
    if peers:
        from ms_core.evaluation.peers import compare, comparison_records

        comparisons = compare(tts, prompt, prompt_text, seconds, threads, repeats, seed)
        records += comparison_records(comparisons, provenance, system, seconds)

    def row(record: "Record") -> str:
        of_peer = f"{record.name}\t" * (record.name != system)
        place = f"{record.place}\t{record.threads}\t" * sweep
        return f"{place}{of_peer}{record.metric}"

    _show(records, out, as_json, row)


def _bench_training(preset, changes, pack, processes, threads, steps, seed, as_json, out) -> None:
    config = load_config(preset, changes)
    if out is not None:
        paths.check_out(out, ".json")
    from ms_core.training.launch import is_first, relaunched

    if relaunched(processes):
        return
    from ms_core.evaluation.bench import speed_records, torch_threads
    from ms_core.evaluation.records import Provenance
    from ms_core.training.speed import measure_preset

    with torch_threads(threads):
        timings, speech = measure_preset(config, pack or [], steps, seed)
    if not is_first():
        return
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    provenance = Provenance.of(config.name, None, seed, config.digest(), threads, device)
    records = speed_records(timings, provenance, processes, speech)
    _show(records, out, as_json, lambda record: record.metric)


def _show(records: "list[Record]", out: Path | None, as_json: bool, row: "Callable[[Record], str]") -> None:
    from ms_core.evaluation.records import write_records

    if out is not None:
        write_records(out, records)
    if as_json:
        typer.echo(json.dumps([record.model_dump(mode="json") for record in records], indent=1))
        return
    for record in records:
        typer.echo(f"{row(record)}\t{record.value:g}\t{record.unit}")


@command("cost")
def cost(
    seconds: Annotated[float, typer.Option(min=0.5, max=60, help="Length of the speech of one training step.")] = 10.0,
    out: Annotated[Path | None, typer.Option(help="JSON file for the records.")] = None,
) -> None:
    """Count the operations of training of presets paper and mini, of which notebook 3 works out GPU hours."""
    if out is not None:
        paths.check_out(out, ".json")
    from ms_core.evaluation.costs import cost_records

    records = [record for name in ("paper", "mini") for record in cost_records(load_config(name), seconds)]
    _show(records, out, False, lambda record: f"{record.system}\t{record.metric}")
