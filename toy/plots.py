"""Pictures of the plane: samples, paths, the map from noise to data, and metrics with the range over seeds.

Colours are those of Okabe and Ito, which people with any colour vision tell apart. Every function returns a figure.
"""

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

BLUE, ORANGE, GREEN, PURPLE, SKY, RED, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#B8B8B8")
LIMIT = 2.6  # the shapes are standardised: nearly all of their mass lies within


def scatter_panels(samples: Mapping[str, Tensor], data: Tensor | None = None, *, columns: int = 4,
                   limit: float = LIMIT, notes: Mapping[str, str] | None = None):
    """One panel a set of samples (n, 2), in blue, titled with its key; `data` lies beneath all of them in grey.

    notes: a line under the title of a panel, for example its distance to the data.
    """
    columns = min(columns, len(samples))
    figure, grid = _panels(math.ceil(len(samples) / columns), columns)
    for axes, (name, x) in zip(grid.flat, samples.items(), strict=False):
        if data is not None:
            _dots(axes, data, GREY, size=2.5, alpha=0.6)
        _dots(axes, x, BLUE, size=2.5, alpha=0.5)
        note = (notes or {}).get(name)
        _square(axes, limit, f"{name}\n{note}" if note else name)
    for place, axes in enumerate(grid.flat[len(samples):], len(samples)):
        grid.flat[place - columns].tick_params(labelbottom=True)  # now the lowest of its column
        axes.set_visible(False)
    return figure


def trajectories(paths: Mapping[str, Tensor], data: Tensor | None = None, *, limit: float = 3.2):
    """One panel a set of paths (steps + 1, n, 2): orange where they start, blue where they end, thin lines between."""
    figure, grid = _panels(1, len(paths), size=3.1)
    for axes, (name, path) in zip(grid.flat, paths.items(), strict=True):
        path = path.detach().cpu()
        if data is not None:
            _dots(axes, data, GREY, size=2.5, alpha=0.5)
        axes.plot(path[:, :, 0].numpy(), path[:, :, 1].numpy(), color="black", linewidth=0.5, alpha=0.35)
        _dots(axes, path[0], ORANGE, size=9, alpha=0.9)
        _dots(axes, path[-1], BLUE, size=9, alpha=0.9)
        _square(axes, limit, name)
    return figure


def warped_grid(maps: Mapping[str, Callable[[Tensor], Tensor]], data: Tensor | None = None, *, reach: float = 2.4,
                lines: int = 25, limit: float = LIMIT):
    """The grid of the noise, and what each map (n, 2) -> (n, 2) makes of it: a picture of a one-step sampler.

    Lines fade with the density of N(0, I), so that what is drawn faintly is seldom sampled. Where lines crowd, samples
    crowd; where a line leaps between modes the map is steep, and those few samples lie between modes.
    """
    from matplotlib.collections import LineCollection

    figure, grid = _panels(1, len(maps) + 1, size=3.1)
    along, at = torch.linspace(-reach, reach, 400), torch.linspace(-reach, reach, lines)
    level = torch.stack([along.expand(lines, -1), at[:, None].expand(-1, 400)], dim=2)  # (lines, 400, 2), y constant
    panels = {"noise": lambda n: n, **maps}
    for axes, (name, mapped) in zip(grid.flat, panels.items(), strict=True):
        if data is not None and name != "noise":
            _dots(axes, data, GREY, size=2.5, alpha=0.5)
        for family, colour in ((level, BLUE), (level.flip(2), RED)):
            with torch.no_grad():
                ends = mapped(family.reshape(-1, 2)).detach().cpu().view_as(family)
            pieces = torch.stack([ends[:, :-1], ends[:, 1:]], dim=2).flatten(0, 1)
            density = torch.exp(-family[:, :-1].square().sum(2) / 2).flatten()
            alpha = (0.9 * density).clamp(min=0.08).numpy()
            axes.add_collection(LineCollection(pieces.numpy(), colors=colour, linewidths=0.8, alpha=alpha))
        _square(axes, limit, name)
    return figure


def metric_bars(values: Mapping[str, Sequence[float]], label: str, *, floor: Sequence[float] | None = None,
                controls: Mapping[str, float] | None = None, colours: Mapping[str, str] | None = None, axes=None):
    """One bar a method, as long as the mean of its seeds, each seed a dot and a line from the least to the greatest.

    label: name of the metric, with the direction that is better.  floor: values of data against fresh data, drawn as a
    band from least to greatest.  controls: lines of trivial samplers; one far beyond all bars is told in words under
    the axis instead.  axes: draw there rather than into a new figure. Returns the figure.
    """
    import matplotlib.pyplot as plt

    if axes is None:
        _, axes = plt.subplots(figsize=(6.4, 0.36 * len(values) + 1.1), layout="constrained")
    greatest = max(v for seeds in [*values.values(), floor or []] for v in seeds)
    least = min(0, *(v for seeds in [*values.values(), floor or []] for v in seeds))  # an unbiased MMD may be below 0
    for place, (name, seeds) in enumerate(values.items()):
        mean = sum(seeds) / len(seeds)
        axes.barh(place, mean, height=0.62, color=(colours or {}).get(name, SKY), alpha=0.75, linewidth=0)
        axes.plot([min(seeds), max(seeds)], [place, place], color="black", linewidth=1.2)
        axes.plot(seeds, [place] * len(seeds), "o", color="black", markersize=3)
        axes.annotate(f"{mean:.3g}", (max(seeds), place), xytext=(6, 0), textcoords="offset points", va="center",
                      fontsize=8, color="#333333")
    if floor:
        axes.axvspan(min(floor), max(floor), color=GREEN, alpha=0.25, linewidth=0)
        axes.axvline(sum(floor) / len(floor), color=GREEN, linewidth=1.2)
        _above(axes, sum(floor) / len(floor), "data", GREEN)
    edge, far = 1.12 * greatest, []
    for line, (name, value) in enumerate((controls or {}).items()):
        if value <= 1.6 * greatest:
            edge = max(edge, 1.06 * value)
            axes.axvline(value, color=PURPLE, linewidth=1.2, linestyle="--")
            _above(axes, value, name, PURPLE, line)
        else:
            far.append(f"{name} {value:.3g}")
    axes.set_yticks(range(len(values)), list(values))
    axes.set_ylim(len(values) - 0.5, -0.5)
    axes.set_xlim(1.1 * least, edge)
    axes.locator_params(axis="x", nbins=4)
    axes.set_xlabel(label + ("\n" + textwrap.fill("beyond the edge: " + "; ".join(far), 44) if far else ""))
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return axes.figure


def _above(axes, value: float, words: str, colour: str, line: int = 0) -> None:
    """Words over the top end of an upright line; each text line higher, so that close neighbours stay readable."""
    axes.annotate(words, (value, 1), xycoords=axes.get_xaxis_transform(), xytext=(0, 2 + 9 * line),
                  textcoords="offset points",
                  ha="center", va="bottom", fontsize=8, color=colour)


def _panels(rows: int, columns: int, size: float = 2.5):
    """Figure and its grid of axes, which share both scales; ticks stand at the left and at the bottom only."""
    import matplotlib.pyplot as plt

    figure, grid = plt.subplots(rows, columns, figsize=(size * columns, (size + 0.25) * rows), squeeze=False,
                                sharex=True, sharey=True, layout="constrained")
    figure.supxlabel("first coordinate", fontsize=9)
    figure.supylabel("second coordinate", fontsize=9)
    return figure, grid


def _dots(axes, x: Tensor, colour: str, *, size: float, alpha: float) -> None:
    x = x.detach().cpu().numpy()
    axes.scatter(x[:, 0], x[:, 1], s=size, color=colour, alpha=alpha, linewidths=0, rasterized=True)


def _square(axes, limit: float, title: str) -> None:
    """Equal axes from -limit to limit, three ticks each, thin grey frame."""
    axes.set_aspect("equal")
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), xticks=(-2, 0, 2), yticks=(-2, 0, 2))
    axes.set_title(title, fontsize=10)
    axes.tick_params(length=2, labelsize=8, color=GREY)
    axes.spines[:].set_color(GREY)
