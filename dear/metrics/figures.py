"""The figures of a set of clips against a reference set, each with the bootstrap interval that suits it."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from dear.metrics.bootstrap import interval
from dear.metrics.divergence import inception_score, kl_divergence
from dear.metrics.energy import energy_distance, mmd2
from dear.metrics.frechet import frechet_distance
from dear.metrics.similarity import clap_score, mean_distance

DRAWS = 200  # resamples of a figure of whole sets; a mean over clips has 1000


@dataclass(frozen=True)
class Figure:
    """A value and the ends of its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        value, low, high = (f"{x:.0f}" if abs(x) >= 1000 else f"{x:.3g}" for x in (self.value, self.low, self.high))
        return f"{value} [{low}, {high}]"


def of_set(metric: Callable[..., float], *sets: Sequence, paired: bool = True) -> Figure:
    """A figure that only whole sets have, with a centred interval: duplicates in a resample shift it (`interval`)."""
    value = metric(*sets)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # every resample would repeat what the line above has said
        return Figure(value, *interval(metric, *sets, paired=paired, draws=DRAWS, method="centred"))


def of_clips(values: Sequence[float], weights: Sequence[float] | None = None) -> Figure:
    """Mean of one value a clip, weighted if the clips count differently, with a BCa interval."""
    values = np.asarray(values, float)
    rows = np.stack([values, np.ones(len(values)) if weights is None else np.asarray(weights, float)], axis=1)

    def mean(rows: np.ndarray) -> float:
        return float((rows[:, 0] * rows[:, 1]).sum() / rows[:, 1].sum())

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # scipy's, where leaving a clip out changes nothing
        return Figure(mean(rows), *interval(mean, rows))


def bandwidths(reference: Tensor) -> tuple[float, float, float]:
    """Bandwidths of an MMD in the space of reference features (n, F): half, once and twice their median distance.

    They depend on the reference alone, so that what is compared with it is compared by one measure.
    """
    middle = float(torch.pdist(torch.as_tensor(reference, dtype=torch.float64)).median())
    return middle / 2, middle, 2 * middle


def measure(
    heard: tuple[Tensor, Tensor | None],
    reference: tuple[Tensor, Tensor | None],
    *,
    paired: bool = True,
    copies: int = 1,
    text: Tensor | None = None,
    convention: str = "audioldm_eval",
) -> dict[str, Figure]:
    """All figures that two sets of clips have, by name.

    heard: features (n copies, F) and class probabilities (n copies, C) or None, the copies of a caption side by side;
    only "diversity", the mean distance of the features within a caption, looks beyond the first.  reference: the same
    of m clips, one a caption.  paired: row i of both is of one caption (m = n); else there is no "kl".
    text: embeddings (n, F) of the captions, for "clap".  convention: that of "kl" and "inception".
    """
    (features, classes), (real, real_classes) = heard, reference
    groups = features.unflatten(0, (-1, copies))
    features = groups[:, 0]
    found = {
        "frechet": of_set(frechet_distance, features, real, paired=paired),
        "energy": of_set(partial(energy_distance, paired=paired), features, real, paired=paired),
        "mmd": of_set(partial(mmd2, bandwidths=bandwidths(real), paired=paired), features, real, paired=paired),
    }
    if classes is not None:
        classes = classes[::copies]
        if paired:
            pairs = zip(real_classes.split(1), classes.split(1), strict=True)
            found["kl"] = of_clips([kl_divergence(r, p, convention) for r, p in pairs])
        found["inception"] = of_set(partial(inception_score, convention=convention), classes)
    if text is not None:
        found["clap"] = of_clips([clap_score(t, a) for t, a in zip(text.split(1), features.split(1), strict=True)])
    if copies > 1:
        found["diversity"] = of_clips([mean_distance(group[None]) for group in groups])
    return found


def table(rows: dict[str, dict[str, Figure]]) -> str:
    """A markdown table of figures by row and name, a dash where a row has none."""
    names = list(dict.fromkeys(name for figures in rows.values() for name in figures))
    lines = [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    lines += [f"| {row} | {' | '.join(str(figures.get(name, '–')) for name in names)} |"
              for row, figures in rows.items()]
    return "\n".join(lines) + "\n"
