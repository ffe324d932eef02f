"""Notebooks to read and to keep: executed ones made small, clean ones stripped, and numbers compared with stored ones.

    python -m ms_core.report.notebooks notebooks/*.ipynb     # strip: outputs of check cells stay, nothing else
    python -m ms_core.report.notebooks - < in > out          # the same, as a filter of git

An executed notebook is committed under `results/<preset>/notebooks/`: pictures as PNG of 256 colours, sounds as MP3,
without folders of the machine that ran it.
"""

import base64
import io
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import nbformat
import soundfile
from nbformat import NotebookNode
from PIL import Image

from ms_core import paths

WAV = re.compile(r"data:audio/(?:x-)?wav;base64,([A-Za-z0-9+/=]+)")
COLOURS = 256
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
METADATA = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
WIDGET = "application/vnd.jupyter.widget-view+json"  # needs a kernel
CHECK = "check"  # tag of the cells whose outputs are stored in clean notebooks


def compare(preset: str, numbers: Mapping[str, tuple[float, float, float]]) -> None:
    """Compare numbers with those stored for preset `smoke`: what -> (measured, stored, tolerance).

    At `smoke` it prints the stored ones, so that what is printed is equal on all machines, and raises AssertionError
    for what lies further away than its tolerance; at other presets it prints what was measured.
    """
    for what, (measured, stored, tolerance) in numbers.items():
        if preset == "smoke":
            assert abs(measured - stored) <= tolerance, f"{what}: {measured:g}, not {stored:g} within {tolerance:g}"
            print(f"{what}: {stored:g}" + f", within {tolerance:g}" * (tolerance > 0))
        else:
            print(f"{what}: {measured:.4g}")


def small_png(png: bytes) -> bytes:
    """The picture in at most 256 colours of its own."""
    with Image.open(io.BytesIO(png)) as image:
        small = image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    out = io.BytesIO()
    small.save(out, "PNG", optimize=True)
    return min(out.getvalue(), png, key=len)


def mp3_of(wav: bytes) -> bytes:
    """The same sound as MP3, of constant quality."""
    samples, rate = soundfile.read(io.BytesIO(wav), dtype="float32")
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format="MP3", subtype="MPEG_LAYER_III", compression_level=0.7)
    return out.getvalue()


def _small_sounds(html: str) -> str:
    def encoded(found: re.Match) -> str:
        return f"data:audio/mpeg;base64,{base64.b64encode(mp3_of(base64.b64decode(found[1]))).decode()}"

    return WAV.sub(encoded, html).replace('type="audio/wav"', 'type="audio/mpeg"')


def shrink(notebook: NotebookNode) -> NotebookNode:
    """An executed notebook to commit, changed in place: small pictures and sounds, no stderr, no machine's folders."""
    folders = {
        str(paths.data()): "$MS_DATA",
        str(paths.runs()): "$MS_RUNS",
        f"{paths.home()}/": "",
        str(Path.home()): "~",
    }
    for cell in notebook.cells:
        cell.metadata = NotebookNode(tags=cell.metadata["tags"]) if cell.metadata.get("tags") else NotebookNode()
        if cell.cell_type != "code":
            cell.source = cell.source.replace("](../results/", "](../../")  # it moves from notebooks/
            continue
        cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr" and WIDGET not in o.get("data", {})]
        for output in cell.outputs:
            output.get("metadata", {}).pop("papermill", None)
            data = output.get("data", output)  # of a display; a stream has its text itself
            if png := data.get("image/png"):
                data["image/png"] = base64.b64encode(small_png(base64.b64decode(png))).decode()
            for kind in ("text", "text/plain", "text/html", "text/markdown"):
                if kind in data:
                    data[kind] = _small_sounds(data[kind])
                    data[kind] = data[kind].replace("](../results/", "](../../")
                    for folder, name in folders.items():
                        data[kind] = data[kind].replace(folder, name)
    notebook.metadata = METADATA
    return notebook


def strip(notebook: NotebookNode) -> NotebookNode:
    """A notebook to work in, changed in place: only check cells keep what they printed, each as the first cell run."""
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        cell.metadata = NotebookNode(tags=tags) if tags else NotebookNode()
        if cell.cell_type == "code":
            kept = CHECK in tags and cell.execution_count
            cell.outputs = [o for o in cell.outputs if o.get("name") == "stdout"] if kept else []
            cell.execution_count = 1 if kept and cell.outputs else None
    notebook.metadata = METADATA
    return notebook


def main(names: Sequence[str]) -> None:
    """Strip files in place, or for "-" from stdin to stdout."""
    for name in names:
        notebook = strip(nbformat.read(sys.stdin if name == "-" else name, as_version=4))
        nbformat.write(notebook, sys.stdout if name == "-" else name)


if __name__ == "__main__":
    main(sys.argv[1:])
