"""How far a figure would differ on other clips of the same kind: confidence intervals by resampling."""

import warnings
from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats


def interval(
    metric: Callable[..., float],
    *sets: Sequence,
    paired: bool = True,
    level: float = 0.95,
    draws: int = 1000,
    method: str = "BCa",
    seed: int = 0,
) -> tuple[float, float]:
    """Lower and upper end of a bootstrap interval of metric(*sets), by scipy.stats.bootstrap on the rows' numbers.

    sets: arrays or tensors whose rows are clips.  paired: row i of all sets belongs together and is drawn together;
    False: each set is drawn by itself.  method: "BCa" (Efron 1987), for means and other figures that resampling hardly
    shifts, at the cost of one more evaluation a row; "percentile"; "basic"; "centred": the percentiles moved by as much
    as puts the resamples' mean on the figure. Figures of whole sets (Frechet and energy distance, MMD, inception score)
    want "centred": duplicates of clips shift them, a Frechet distance in 64 dimensions with 500 clips by 4.6 standard
    errors, where "percentile" and "basic" never held its expectation in 60 trials, BCa had no value, and "centred" held
    it in 97 % (16 dimensions, 100 clips: 70 %, 59 % and 95 %). Between sets of one law, where a distance is nothing but
    its bias, it is too wide: 1.9 times for 500 rendered clips in the oracle's features, 1.3 times for slightly blurred
    ones, at twice the distance. Its lower end may lie below zero.
    Where no resampling moves the figure (all clips right) both ends are that figure.
    The interval holds the chance in the choice of clips, not that of another training or another seed of the drawing.
    """
    if not sets or min(len(s) for s in sets) < 2:
        raise ValueError(f"every set needs at least 2 rows to be resampled, got {[len(s) for s in sets]}")
    if paired and len({len(s) for s in sets}) > 1:
        raise ValueError(f"paired sets must have as many rows each, got {[len(s) for s in sets]}")
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), got {level}")
    rows = [np.arange(len(s)) for s in (sets[:1] if paired else sets)]

    def of_rows(*picked: np.ndarray) -> float:
        picked = [p.astype(np.int64) for p in picked]
        return metric(*(s[p] for s, p in zip(sets, picked * len(sets) if paired else picked, strict=True)))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.bootstrap(rows, of_rows, n_resamples=draws, vectorized=False, confidence_level=level,
                                method="percentile" if method == "centred" else method, rng=np.random.default_rng(seed))
    if np.ptp(found.bootstrap_distribution) == 0:  # where scipy has no interval
        return (float(found.bootstrap_distribution[0]),) * 2
    shift = metric(*sets) - found.bootstrap_distribution.mean() if method == "centred" else 0.0
    return float(found.confidence_interval.low + shift), float(found.confidence_interval.high + shift)
