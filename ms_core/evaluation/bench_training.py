"""Records of the speed of training."""

from ms_core.evaluation.records import Provenance, Record, bootstrap


def speed_records(timings: dict[str, list[float]], provenance: Provenance, processes: int, speech: str) -> list[Record]:
    """Records of `training.speed.measure`: `training_speed` in seconds of speech a second, and each part of a step."""
    values = {"training_speed": (bootstrap(timings["audio"], timings["total"]), "s/s")}
    values |= {f"training_step_{name}": (bootstrap(timings[name]), "s") for name in timings}
    how = f"{processes} process(es), {provenance.threads} thread(s) each, {speech}; evaluations and saves left out"
    fields = {"study": "cost", "system": f"mobilespeech-{provenance.preset}", "processes": processes, "protocol": how}
    return [
        Record(**provenance.model_dump(), **fields, metric=metric, unit=unit, n=len(timings["total"]), **value.fields())
        for metric, (value, unit) in values.items()
    ]
