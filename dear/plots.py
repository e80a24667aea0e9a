"""Pictures of sound: log-mels with their axes, in one colour scale."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dear.audio import HOP, N_MELS, SAMPLE_RATE, mel_filters

LOWEST, HIGHEST = -9.0, 1.5  # log magnitude: below SoundWorld's noise floor, and just above its loudest partials


def _mel_ticks() -> tuple[list[int], list[str]]:
    centres = mel_filters().numpy().argmax(1) * SAMPLE_RATE / 2 / 512
    wanted = (250, 500, 1000, 2000, 4000)
    return [int(np.abs(centres - f).argmin()) for f in wanted], [f"{f / 1000:g}" for f in wanted]


def show_log_mel(axes, log_mel, title: str = "", *, labels: bool = True):
    """Draw a log-mel (T, 64) into matplotlib axes: seconds against kHz, colours from -9 to 1.5 (natural log)."""
    image = axes.imshow(np.asarray(log_mel).T, origin="lower", aspect="auto", cmap="magma", vmin=LOWEST, vmax=HIGHEST,
                        extent=(0, len(log_mel) * HOP / SAMPLE_RATE, -0.5, N_MELS - 0.5), interpolation="nearest")
    axes.set_title(title, fontsize=9)
    ticks, names = _mel_ticks()
    axes.set_yticks(ticks, names if labels else [])
    if labels:
        axes.set_xlabel("seconds")
        axes.set_ylabel("kHz (mel scale)")
    return image


def log_mel_grid(rows: Sequence[Sequence], titles: Sequence[Sequence[str]], names: Sequence[str] = ()):
    """Figure with one log-mel (T, 64) a cell, `rows` and `titles` alike in shape; `names` stand left of the rows."""
    import matplotlib.pyplot as plt

    height, width = len(rows), max(map(len, rows))
    figure, grid = plt.subplots(height, width, figsize=(2.9 * width, 2.1 * height), squeeze=False, layout="constrained")
    for r, (cells, heads) in enumerate(zip(rows, titles, strict=True)):
        for c, (cell, head) in enumerate(zip(cells, heads, strict=True)):
            image = show_log_mel(grid[r, c], cell, head, labels=c == 0)
            if r == height - 1:
                grid[r, c].set_xlabel("seconds")
        if names:
            grid[r, 0].set_ylabel(f"{names[r]}\nkHz (mel scale)")
    figure.colorbar(image, ax=grid, label="log magnitude", shrink=0.8)
    return figure


def save(figure, path: str | Path) -> None:
    """Write a figure as PNG beside `path`, then rename, and close it."""
    import matplotlib.pyplot as plt

    beside = Path(path).with_suffix(".tmp.png")
    figure.savefig(beside, dpi=110)
    beside.replace(path)
    plt.close(figure)
