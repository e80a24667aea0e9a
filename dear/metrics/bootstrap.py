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
    False: each set is drawn by itself.  method: "BCa" (Efron 1987) corrects for a metric that resampling shifts, as
    duplicates of clips do to a Frechet distance; also "percentile" and "basic".
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
                                method=method, rng=np.random.default_rng(seed))
    if np.ptp(found.bootstrap_distribution) == 0:  # where scipy has no interval
        return (float(found.bootstrap_distribution[0]),) * 2
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
