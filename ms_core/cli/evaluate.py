"""`evaluate`: what the evaluators say of what a model speaks."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from ms_core import paths
from ms_core.cli.common import Device, Model, Seed, Steps, UsageError, command, load_model, parse_numbers

Conditions = Literal["plain", "hard-texts", "noisy-prompts", "prompt-lengths", "adaptation", "exports", "authors-clips"]


@command("evaluate")
def evaluate(
    out: Annotated[Path, typer.Option(help="Folder for the records and the scores of each utterance.")],
    model: Model = "mini",
    split: Annotated[str, typer.Option(help="A split of the model's corpus, or paper-demo.")] = "test-clean-24spk",
    conditions: Annotated[Conditions, typer.Option(help="Which study, if not the split as it is.")] = "plain",
    limit: Annotated[
        int | None, typer.Option(min=1, help="So many utterances only; of hard texts, so many of each kind.")
    ] = None,
    voices: Annotated[int | None, typer.Option(min=1, help="Speakers of hard texts. Default: 3.")] = None,
    exported: Annotated[
        list[Path] | None, typer.Option(help="With --conditions exports: a folder that `export` wrote.")
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(metavar="M,...", help="Default: all, or wer,cer,sim_campp,distillmos.")
    ] = None,
    seed: Seed = 0,
    steps: Steps = None,
    baselines: Annotated[
        bool, typer.Option("--baselines/--no-baselines", help="Also score the recordings and the codec.")
    ] = True,
    keep_audio: Annotated[bool, typer.Option("--keep-audio", help="Keep what was spoken as WAV.")] = False,
    milestone: Annotated[
        str | None, typer.Option(metavar="NOTE", help="Add a row that says NOTE to results/<preset>/runs.json.")
    ] = None,
    device: Device = "cpu",
) -> None:
    """Speak a split and let the evaluators score it beside the recordings, or under conditions beside a control."""
    passes = parse_numbers(steps, "--steps")
    plain = conditions == "plain"
    if voices is not None and conditions != "hard-texts":
        raise UsageError(f"--voices {voices} is of --conditions hard-texts alone")
    if bool(exported) is not (conditions == "exports"):
        raise UsageError("--exported and --conditions exports go together: give both or neither")
    if not (baselines or plain):
        raise UsageError("--no-baselines is of plain evaluations: conditions have no baselines")
    if milestone is not None and (not plain or passes):
        raise UsageError("--milestone is of plain evaluations with the model's own passes")
    from ms_core.evaluation.scoring import ALIGNED, SPOKEN

    possible = (*SPOKEN, *ALIGNED) if plain else SPOKEN
    chosen = metrics.split(",") if metrics else None
    if unknown := [name for name in chosen or () if name not in possible]:
        raise UsageError(f"--metrics: unknown {', '.join(unknown)}; choose among {', '.join(possible)}")
    import torch

    from ms_core.config import DataConfig, DecodingConfig, parse
    from ms_core.evaluation import run_history
    from ms_core.evaluation.conditions import EXPERIMENTS, METRICS, evaluate_experiment
    from ms_core.evaluation.eval_set import EvalSet
    from ms_core.evaluation.evaluate import demo_evaluate
    from ms_core.evaluation.evaluate import evaluate as run
    from ms_core.evaluation.records import MILESTONES, Provenance

    if conditions == "authors-clips":  # the rows `authors/...` of the tables; no model speaks
        items, file = range(1, limit + 1) if limit else None, out / "paper-demo.json"
        _show(demo_evaluate(file, Provenance.of("mini"), chosen or SPOKEN, items), plain=True)
        return
    tts, folder, trained = load_model(model, device)
    system = f"mobilespeech-{trained['name']}"
    if passes:
        if len(passes) != tts.codec.config.n_q:
            raise UsageError(f"--steps {steps}: give {tts.codec.config.n_q} pass counts, one for each codec layer")
        tts.decoding = parse(DecodingConfig, {**tts.decoding.model_dump(), "steps": passes}, "--steps")
    source = parse(DataConfig, trained["data"], f"{folder}/model/config.json")
    made_by = {"threads": torch.get_num_threads(), "device": device, "steps": passes[0] if passes else None}
    provenance = Provenance.of(trained["name"], folder, seed, tts.decoding.digest(), **made_by)
    if plain:
        eval_set = EvalSet.of_split(source, split, limit=limit)
        records = run(tts, system, eval_set, out, provenance, chosen or possible, baselines, keep_audio)
        if milestone is not None:
            run_history.add(paths.results(trained["name"]) / MILESTONES, records, system, trained, milestone)
    else:
        options = {} if voices is None else {"voices": voices}
        options |= {"folders": exported} if exported else {}
        if conditions == "adaptation":
            from ms_core.training.adapt import STEPS, adapt

            options |= {"adapt": adapt, "steps": STEPS}
        experiment = EXPERIMENTS[conditions](EvalSet.of_split(source, split), limit, **options)
        records = evaluate_experiment(tts, system, experiment, out, provenance, chosen or METRICS, keep_audio)
    _show(records, plain)


def _show(records, plain: bool) -> None:
    for record in records:
        if record.pair_with is None:
            name = record.name if plain else f"{record.place}\t{record.name}"
            typer.echo(f"{name}\t{record.metric}\t{record.value:g}")
