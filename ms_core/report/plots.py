"""Small pictures that the notebooks share, each drawn on given matplotlib axes, in the style of `style.py`.

Nothing here measures: a function takes what a notebook has at hand and draws it. `show` displays a figure where it
stands; a notebook writes its figures in its last cell, by `ms_core.report.style.save`.
"""

import io
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ms_core.codec.spectral import stft
from ms_core.report.style import GREY, ORANGE, STYLE, subplots

SHADES = "magma"  # of spectrograms
WINDOW, HOP = 0.032, 0.008  # seconds, of the spectrograms drawn here
RANGE = 70.0  # dB below the loudest point that are told apart
FIRST_LAYER, OTHER_LAYERS = "#eadcf4", "#bccfee"  # of known tokens, the colours of the paper's Figure 1


def canvas(
    rows: int = 1, columns: int = 1, width: float = 7.2, height: float = 2.4, heights: Sequence[float] | None = None,
    **options,
) -> tuple[Figure, list[Axes]]:  # fmt: skip
    """A figure of `width` by `height` inches and its axes, row by row; `heights` are the rows' relative ones."""
    return subplots(rows, columns, width, height, height_ratios=heights, **options)


def show(figure: Figure):
    """The figure as a picture that a notebook displays, whatever matplotlib backend is set."""
    from IPython.display import Image

    file = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(file, format="png", dpi=130)
    return Image(file.getvalue(), width=round(figure.get_figwidth() * 110))


def play(wav: Float[np.ndarray, " l"], sample_rate: int):
    """A player for samples in [-1, 1], at their own level."""
    from IPython.display import Audio

    return Audio(np.clip(wav, -1, 1), rate=sample_rate, normalize=False)


def levels(
    wav: Float[np.ndarray, " l"], sample_rate: int, peak: float | None = None
) -> tuple[Float[np.ndarray, "f k"], float]:
    """Log magnitude in dB below `peak`, the loudest point where None: (bins, frames of `HOP` seconds), and the peak."""
    hop, n_fft = round(HOP * sample_rate), round(WINDOW * sample_rate)
    padded = np.pad(wav, (0, -len(wav) % hop))
    magnitude = stft(torch.from_numpy(padded.astype(np.float32))[None], n_fft, hop)[0].abs().numpy()  # (f, k)
    peak = peak or float(magnitude.max()) or 1.0
    return 20 * np.log10(np.maximum(magnitude / peak, 1e-9)), peak


def spectrogram(axis: Axes, wav: Float[np.ndarray, " l"], sample_rate: int, peak: float | None = None) -> float:
    """Log magnitude in dB below `peak`, the loudest point where None; returns the peak, to draw others on its scale."""
    level, peak = levels(wav, sample_rate, peak)
    extent = (0, level.shape[1] * round(HOP * sample_rate) / sample_rate, 0, sample_rate / 2000)
    axis.imshow(level, origin="lower", aspect="auto", extent=extent, cmap=SHADES, vmin=-RANGE, vmax=0)
    axis.set_ylabel("kHz")
    axis.grid(False)
    return peak


def phones(axis: Axes, symbols: Sequence[str], ends: Sequence[float]) -> None:
    """Phones as a strip of named intervals, `ends` in the unit of the x axis; what has no length is left out."""
    starts = [0.0, *ends[:-1]]
    shown = [(s, a, b) for s, a, b in zip(symbols, starts, ends, strict=True) if b > a]
    for i, (symbol, start, end) in enumerate(shown):
        pause = symbol in ("_", ",", ".")
        colour = "#eeeeee" if pause else ("#dbe8f4", "#f3e5d8")[i % 2]
        axis.add_patch(Rectangle((start, 0), end - start, 1, facecolor=colour, edgecolor="white", linewidth=0.5))
        place = 0.5 if pause else (0.28, 0.72)[i % 2]  # two heights, so that short neighbours do not overlap
        axis.text((start + end) / 2, place, symbol, ha="center", va="center", fontsize=5.5, clip_on=True)
    axis.set(xlim=(0, ends[-1]), ylim=(0, 1), yticks=[])
    axis.spines[["left"]].set_visible(False)
    axis.grid(False)


def token_grid(
    axis: Axes, grid: Int[np.ndarray, "n t"], mask_id: int, predicted: Bool[np.ndarray, "n t"] | None = None
) -> None:
    """A small grid of tokens as Figure 1(b) of the paper draws it: layer 1 on top, masked tokens hatched.

    Known tokens are filled, the first layer in a colour of its own; `predicted` ones, on which the loss is taken, have
    an orange edge.
    """
    layers, frames = grid.shape
    with mpl.rc_context({"hatch.linewidth": 0.6}):
        for j in range(layers):
            colour = FIRST_LAYER if j == 0 else OTHER_LAYERS
            for t in range(frames):
                hidden = grid[j, t] == mask_id
                style = {"facecolor": "white" if hidden else colour, "edgecolor": GREY, "linewidth": 0.4}
                if hidden:
                    style |= {"hatch": "//////", "edgecolor": "#9a9a9a"}
                axis.add_patch(Rectangle((t + 0.1, j + 0.1), 0.8, 0.8, **style))
                if predicted is not None and predicted[j, t]:
                    edge = {"facecolor": "none", "edgecolor": ORANGE, "linewidth": 1.3}
                    axis.add_patch(Rectangle((t + 0.1, j + 0.1), 0.8, 0.8, **edge))
    axis.set(xlim=(0, frames), ylim=(layers, 0), aspect="equal", xticks=[])
    axis.set_yticks(np.arange(layers) + 0.5, [str(j + 1) for j in range(layers)])
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.grid(False)
