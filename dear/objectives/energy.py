"""The energy score: learn a sampler from distances alone, and draw from it in one pass."""

from collections.abc import Callable

import torch
from torch import Tensor


def energy_score(samples: Tensor, y: Tensor, exponent: float = 1.0) -> Tensor:
    """Unbiased estimate of the energy score of the law that drew the samples, at the observation y.

        (2/m) sum_k |x_k - y|^a  -  1/(m (m-1)) sum_{k != l} |x_k - x_l|^a

    Its mean over y is the energy distance to the law of y, up to E|Y - Y'|^a, which no sampler can change
    (AudioDEAR, arXiv 2605.00329; Gneiting and Raftery 2007, eq. 22, times -2). The score is strictly proper for
    0 < a < 2; at a = 2 only the mean is matched. With m = 1 there is no repulsive term, 2 |x - y|^a is left, and its
    minimum is a point: the spatial median for a = 1.

    samples: (m, B, D), drawn independently.  y: (B, D).  exponent: a in (0, 2].  Returns (B,).
    """
    if samples.ndim != 3 or samples.shape[0] == 0 or samples.shape[1:] != y.shape:
        raise ValueError(f"samples must be (m, B, D) and y (B, D), got {tuple(samples.shape)} and {tuple(y.shape)}")
    _check_exponent(exponent)
    attraction = 2 * _distance(samples - y, exponent).mean(dim=0)
    m = samples.shape[0]
    if m == 1:
        return attraction
    # Every unordered pair once: the mean over k < l equals the mean over k != l.
    k, l = torch.triu_indices(m, m, offset=1, device=samples.device)  # noqa: E741
    return attraction - _distance(samples[k] - samples[l], exponent).mean(dim=0)


def energy_score_all_pairs(samples: Tensor, y: Tensor, exponent: float = 1.0) -> Tensor:
    """Unbiased energy score of every observation, each against all samples of one law: a two-sample U-statistic.

        row j:  (2/m) sum_k |x_k - y_j|^a  -  1/(m (m-1)) sum_{k != l} |x_k - x_l|^a

    The rows are `energy_score` with the same m samples for all y, so their mean estimates the same number, from m B
    distances to the data and m (m-1) / 2 between samples: with equal calls of the net the variance is far smaller. The
    mean less 1/(B (B-1)) sum_{i != j} |y_i - y_j|^a is the U-statistic of the energy distance (Szekely and Rizzo 2013,
    J. Stat. Plan. Inference 143, have its V-form), which may be negative.

    samples: (m, D), m at least 2, independent.  y: (B, D).  exponent: a in (0, 2].  Returns (B,).
    """
    if samples.ndim != 2 or y.ndim != 2 or len(samples) < 2 or samples.shape[1] != y.shape[1]:
        shapes = f"{tuple(samples.shape)} and {tuple(y.shape)}"
        raise ValueError(f"samples must be (m, D) with m at least 2, and y (B, D), got {shapes}")
    _check_exponent(exponent)
    # Exact differences: the fast form |x|^2 + |y|^2 - 2 x.y loses the digits of a small distance.
    exact = {"compute_mode": "donot_use_mm_for_euclid_dist"}
    attraction = 2 * _power(torch.cdist(y, samples, **exact), exponent).mean(dim=1)
    return attraction - _power(torch.pdist(samples), exponent).mean()


class Energy:
    """Learn to draw x given cond by the energy score of m samples; one pass of the net is one sample.

    samples: m, drawn for each target.  exponent: a in (0, 2].  noise_dim: size of the net's noise, None: as x.
    weights: (D,), positive, a factor on each coordinate inside the distances, |w (x - y)|; None: all 1. The score is
    strictly proper with any; they say which coordinates a net of limited size should get right first.
    """

    times, needs_target = 0, False

    def __init__(
        self, samples: int = 2, exponent: float = 1.0, noise_dim: int | None = None, weights: Tensor | None = None
    ):
        if samples < 1:
            raise ValueError(f"samples must be at least 1 (2 is the usual number), got {samples}")
        if weights is not None and not (weights.ndim == 1 and (weights > 0).all()):
            raise ValueError(f"weights must be a vector of positive numbers, got {weights}")
        _check_exponent(exponent)
        _check_noise_dim(noise_dim)
        self.samples, self.exponent, self.noise_dim, self.weights = samples, exponent, noise_dim, weights

    def loss(
        self, net: Callable[..., Tensor], x: Tensor, cond: Tensor, generator: torch.Generator, target=None
    ) -> Tensor:
        """Energy score of every row, by one call of net(noise, cond) on all m samples of all rows.

        A net that says `shares_condition` gets noise (m, B, .) and cond (B, C), and reads a condition once for its m
        samples; any other gets m B rows of both.

        x: (B, D), or (K, B, D): K observations of every target, whose scores are averaged, as CALM has them (arXiv
        2510.27688).  cond: (B, C).  generator: on the device of x.  target: not needed.  Returns (B,).
        """
        m, (rows, width) = self.samples, x.shape[-2:]
        if self.weights is not None and len(self.weights) != width:
            raise ValueError(f"there must be a weight for each of the {width} coordinates, got {len(self.weights)}")
        noise = torch.randn(
            m * rows, self.noise_dim or width, generator=generator, device=x.device, dtype=x.dtype
        )
        if getattr(net, "shares_condition", False):
            samples = net(noise.unflatten(0, (m, rows)), cond)
        else:
            samples = net(noise, cond.repeat(m, 1)).unflatten(0, (m, rows))
        if self.weights is not None:
            samples, x = (part * self.weights.to(x) for part in (samples, x))
        return torch.stack([energy_score(samples, y, self.exponent) for y in x.view(-1, rows, width)]).mean(dim=0)

    def sample(
        self,
        net: Callable[..., Tensor],
        cond: Tensor,
        noise: Tensor,
        steps: int = 1,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """One sample per row, net(noise, cond); nothing else is random, so the generator is not used.

        cond: (B, C).  noise: (B, noise_dim), N(0, I).  steps: 1, anything else is an error.  Returns (B, D).
        """
        _check_one_step(steps)
        return net(noise, cond)


class EnergyAllPairs:
    """Learn to draw x from one law, the same for all rows, by scoring every row against all samples of the batch.

    Where `Energy` draws m samples for each target, here m samples serve B targets: one call of the net a row, and the
    variance of all pairs. It needs one law: cond is the same in every row, or (B, 0).

    samples: m, drawn in one loss, None: as many as rows of x.  exponent, noise_dim: as in Energy.
    """

    times, needs_target = 0, False

    def __init__(self, samples: int | None = None, exponent: float = 1.0, noise_dim: int | None = None):
        if samples is not None and samples < 2:
            raise ValueError(f"samples must be at least 2, or None for as many as rows, got {samples}")
        _check_exponent(exponent)
        _check_noise_dim(noise_dim)
        self.samples, self.exponent, self.noise_dim = samples, exponent, noise_dim

    def loss(
        self, net: Callable[..., Tensor], x: Tensor, cond: Tensor, generator: torch.Generator, target=None
    ) -> Tensor:
        """Energy score of every row against the same m samples, by one call of net(noise, cond).

        x: (B, D).  cond: (B, C), equal rows.  generator: on the device of x.  target: not needed.  Returns (B,).
        """
        if not (cond == cond[:1]).all():
            raise ValueError("all pairs are of one law: the rows of cond must be equal; for others there is Energy")
        m = self.samples or len(x)
        noise = torch.randn(m, self.noise_dim or x.shape[1], generator=generator, device=x.device, dtype=x.dtype)
        return energy_score_all_pairs(net(noise, cond[:1].expand(m, -1)), x, self.exponent)

    def sample(
        self,
        net: Callable[..., Tensor],
        cond: Tensor,
        noise: Tensor,
        steps: int = 1,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """One sample per row, net(noise, cond), as Energy.  steps: 1, anything else is an error.  Returns (B, D)."""
        _check_one_step(steps)
        return net(noise, cond)


def _distance(difference: Tensor, exponent: float) -> Tensor:
    """|v|^a over the last axis. torch gives |v| the gradient 0 at v = 0, which no epsilon needs to protect."""
    return _power(torch.linalg.vector_norm(difference, dim=-1), exponent)


def _power(distance: Tensor, exponent: float) -> Tensor:
    """r^a with gradient 0 at r = 0."""
    if exponent == 1:
        return distance
    # Below a = 1 the slope of r^a at r = 0 is infinite and would turn 0 * inf into NaN: value and gradient are 0 there.
    apart = distance > 0
    return torch.where(apart, distance, 1).pow(exponent) * apart


def _check_one_step(steps: int) -> None:
    if steps != 1:
        raise ValueError(f"an energy model draws in one pass by construction: steps must be 1, got {steps}")


def _check_noise_dim(noise_dim: int | None) -> None:
    if noise_dim is not None and noise_dim < 1:
        raise ValueError(f"noise_dim must be at least 1, or None for as many as x has, got {noise_dim}")


def _check_exponent(exponent: float) -> None:
    if not 0 < exponent <= 2:
        raise ValueError(f"exponent must lie in (0, 2], got {exponent}")
