"""Energy distance and maximum mean discrepancy between two sets of samples, from their pairwise distances alone."""

from collections.abc import Callable, Sequence

import torch
from numpy.typing import ArrayLike
from torch import Tensor

BLOCK = 1024  # rows of a distance matrix held at once


def energy_distance(
    x: ArrayLike, y: ArrayLike, exponent: float = 1.0, *, unbiased: bool = True, paired: bool = False
) -> float:
    """Energy distance between the laws that drew x (n, d) and y (k, d), estimated in float64.

        2 E|X - Y|^a - E|X - X'|^a - E|Y - Y'|^a        (Szekely and Rizzo 2013, eq. 5)

    unbiased: the U-statistic leaves a sample's distance to itself out of its mean, has the right expectation and may
    fall below zero; False: the V-statistic counts it, is the distance of the two empirical laws, never negative, and
    too large by (E|X - X'|^a) / n + (E|Y - Y'|^a) / k on average.  exponent: a in (0, 2]; at 2 only means are compared.
    paired: rows x_i and y_i depend on each other (clips of one caption), so their distance is left out too; it would
    make the U-statistic too small.
    """
    x, y = _checked(x, y, paired)
    if not 0 < exponent <= 2:
        raise ValueError(f"exponent must lie in (0, 2], got {exponent}")
    if paired and not unbiased:
        raise ValueError("the V-statistic counts all pairs: paired must be False with unbiased=False")

    def power(distance: Tensor) -> Tensor:
        return distance if exponent == 1 else distance.pow(exponent)

    across, within = _across(power, x, y, paired), [_mean(power, v, v) for v in (x, y)]
    if unbiased:  # the diagonal adds nothing to the sum: only the count changes
        within = [mean * len(v) / (len(v) - 1) for mean, v in zip(within, (x, y), strict=True)]
    return 2 * across - sum(within)


def mmd2(
    x: ArrayLike, y: ArrayLike, bandwidths: Sequence[float] = (0.125, 0.25, 0.5, 1.0, 2.0), *, paired: bool = False
) -> float:
    """Unbiased squared maximum mean discrepancy between the laws that drew x (n, d) and y (k, d), in float64.

        E k(X, X') + E k(Y, Y') - 2 E k(X, Y),   k = mean over s of exp(-|x - y|^2 / 2 s^2)
                                                                            (Gretton et al. 2012, eq. 3)

    It may fall below zero when the laws are near.  bandwidths: the s of the kernel; the default suits a few dimensions
    of unit variance, and two numbers are comparable only with the same bandwidths.  paired: as in `energy_distance`;
    this is Gretton's equation 4.
    """
    x, y = _checked(x, y, paired)
    if len(bandwidths) == 0 or min(bandwidths) <= 0:
        raise ValueError(f"bandwidths must be positive and at least one, got {tuple(bandwidths)}")

    def kernel(distance: Tensor) -> Tensor:
        square = distance.square()
        return sum(torch.exp(square * (-0.5 / s**2)) for s in bandwidths) / len(bandwidths)

    # Every sample's kernel with itself is 1 and leaves the mean: (n^2 mean - n) / (n (n - 1)).
    within = [(_mean(kernel, v, v) * len(v) - 1) / (len(v) - 1) for v in (x, y)]
    return sum(within) - 2 * _across(kernel, x, y, paired)


def _mean(function: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> float:
    """Mean of a function of |x_i - y_j| over all pairs, the diagonal included, a block of rows at a time."""
    exact = "donot_use_mm_for_euclid_dist"  # the product form loses digits where points are close
    total = sum(float(function(torch.cdist(rows, y, compute_mode=exact)).sum()) for rows in x.split(BLOCK))
    return total / (len(x) * len(y))


def _across(function: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, paired: bool) -> float:
    """Mean of a function of |x_i - y_j| over all i and j; over i != j if rows are paired."""
    mean, n = _mean(function, x, y), len(x)
    return (mean * n * n - float(function((x - y).norm(dim=1)).sum())) / (n * (n - 1)) if paired else mean


def _checked(x: ArrayLike, y: ArrayLike, paired: bool) -> tuple[Tensor, Tensor]:
    x, y = (torch.as_tensor(v, dtype=torch.float64) for v in (x, y))
    for name, v in (("x", x), ("y", y)):
        if v.ndim != 2 or len(v) < 2:
            raise ValueError(f"{name} must be samples (n, d) with n at least 2, got shape {tuple(v.shape)}")
        if not v.isfinite().all():
            raise ValueError(f"{name} holds samples that are not finite")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"x and y must have the same number of dimensions, got {x.shape[1]} and {y.shape[1]}")
    if paired and len(x) != len(y):
        raise ValueError(f"paired samples must be as many, got {len(x)} and {len(y)}")
    return x, y
