"""Frechet distance between two sets of features: FD and FAD are this arithmetic on different embeddings."""

import warnings

import numpy as np
from numpy.typing import ArrayLike


def frechet_distance(x: ArrayLike, y: ArrayLike) -> float:
    """Frechet distance between the Gaussians fitted to features x (n, d) and y (m, d), in float64.

        |mu_x - mu_y|^2 + tr(S_x + S_y - 2 (S_x S_y)^(1/2))        (Dowson and Landau, 1982)

    The trace of the root is the sum of the root eigenvalues of S_x^(1/2) S_y S_x^(1/2), which is symmetric. Fewer
    samples than dimensions give a singular covariance and a warning; NaN, a single sample or sets of different
    dimensions are a ValueError.

    There is no convention to choose: audioldm_eval and fadtk compute this formula, covariances over n - 1 included.
    They differ in numerics alone (a general matrix root of S_x S_y, whose imaginary part is dropped below 1e-3 and an
    error above, and 1e-6 on both diagonals where the root is not finite), which a symmetric root does not need. What
    makes two published distances differ is what a sample is: one embedding a clip (PANNs, FD) or one for each 0.96 s
    (VGGish, FAD).
    """
    from scipy import linalg  # late: `dear generate` asks this package what it hears, and nothing of scipy

    x, y = (np.asarray(v, np.float64) for v in (x, y))
    for name, v in (("x", x), ("y", y)):
        if v.ndim != 2 or len(v) < 2:
            raise ValueError(f"{name} must be features (n, d) with n at least 2, got shape {v.shape}")
        if not np.isfinite(v).all():
            raise ValueError(f"{name} holds features that are not finite; look for silent or broken clips")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"x and y must have the same number of dimensions, got {x.shape[1]} and {y.shape[1]}")
    for name, v in (("x", x), ("y", y)):
        if len(v) <= v.shape[1]:
            warnings.warn(f"{name} has {len(v)} samples for {v.shape[1]} dimensions: the distance is biased upwards",
                          stacklevel=2)
    cov_x, cov_y = np.cov(x, rowvar=False).reshape(x.shape[1], -1), np.cov(y, rowvar=False).reshape(y.shape[1], -1)
    values, vectors = linalg.eigh(cov_x)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(linalg.eigvalsh(root @ cov_y @ root).clip(0)).sum()
    distance = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(cov_x) + np.trace(cov_y) - 2 * cross
    return max(0.0, float(distance))  # equal sets differ by rounding, to either side
