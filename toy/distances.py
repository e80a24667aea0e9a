"""Distances between two sets of samples of the plane, and which modes a set of samples reaches."""

import math

import ot
import torch
from torch import Tensor


def wasserstein(x: Tensor, y: Tensor, order: int = 2) -> float:
    """Exact Wasserstein distance between the empirical laws of x (n, 2) and y (k, 2), by linear programming.

        (min over couplings of E|X - Y|^p)^(1/p)        (Peyre and Cuturi 2019, eq. 2.18), p = order, 1 or 2

    Even two sets from the same law are some way apart: print that floor beside it. Seconds at n = 2000.
    """
    x, y = _checked(x, y)
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, got {order}")
    cost = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").pow(order).numpy()
    return float(ot.emd2([], [], cost, numItermax=10_000_000)) ** (1 / order)


def sliced_wasserstein(x: Tensor, y: Tensor, directions: int = 64) -> float:
    """Sliced Wasserstein-2 distance of x and y, both (n, 2): the root mean square over directions of W2 on a line.

    The directions are even steps of half a turn, so nothing is random; on a line the sorted samples are matched.
    """
    x, y = _checked(x, y)
    if len(x) != len(y):
        raise ValueError(f"sorted samples are matched one to one: want as many x as y, got {len(x)} and {len(y)}")
    angle = torch.arange(directions, dtype=torch.float64) * math.pi / directions
    lines = torch.stack([angle.cos(), angle.sin()])
    return float(((x @ lines).sort(0).values - (y @ lines).sort(0).values).square().mean().sqrt())


def in_mode_share(modes: Tensor) -> float:
    """Share of samples that lie in any mode, from shape.mode_of(x) (n,), where -1 is none."""
    return float((modes >= 0).double().mean())


def mode_coverage(modes: Tensor, weights: Tensor, fair: float = 0.25) -> float:
    """Share of the modes that get at least `fair` of their share of all samples.

    modes: shape.mode_of(x) (n,), -1 for none.  weights: (K,), the modes' shares in the data, with sum 1.
    fair: 0.25, since even noise over the whole square would cover every mode at 0.01.
    """
    if not 0 < fair <= 1:
        raise ValueError(f"fair must lie in (0, 1], got {fair}")
    got = torch.bincount(modes[modes >= 0].cpu(), minlength=len(weights)) / len(modes)
    return float((got >= fair * weights.cpu()).double().mean())


def _checked(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    for name, v in (("x", x), ("y", y)):
        if v.ndim != 2 or v.shape[1] != 2 or len(v) == 0 or not v.isfinite().all():
            raise ValueError(f"{name} must be finite samples (n, 2), got shape {tuple(v.shape)}")
    return x.detach().double().cpu(), y.detach().double().cpu()
