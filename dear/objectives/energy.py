"""The energy score: learn a sampler from distances alone, and draw from it in one pass."""

from collections.abc import Callable

import torch
from torch import Tensor


def energy_score(samples: Tensor, y: Tensor, exponent: float = 1.0) -> Tensor:
    """Unbiased estimate of the energy score of the law that drew the samples, at the observation y.

        (2/m) sum_k |x_k - y|^a  -  1/(m (m-1)) sum_{k != l} |x_k - x_l|^a

    Its mean over y is the energy distance to the law of y, up to E|Y - Y'|^a, which no sampler can change
    (AudioDEAR, arXiv 2605.00329; Gneiting and Raftery 2007, eq. 21, times two). The score is strictly proper for
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


class Energy:
    """Learn to draw x given cond by the energy score of m samples; one pass of the net is one sample.

    samples: m, drawn for each target.  exponent: a in (0, 2].  noise_dim: size of the net's noise, None: as x.
    """

    def __init__(self, samples: int = 2, exponent: float = 1.0, noise_dim: int | None = None):
        if samples < 1:
            raise ValueError(f"samples must be at least 1 (2 is the usual number), got {samples}")
        _check_exponent(exponent)
        self.samples, self.exponent, self.noise_dim = samples, exponent, noise_dim

    def loss(
        self, net: Callable[..., Tensor], x: Tensor, cond: Tensor, generator: torch.Generator, target=None
    ) -> Tensor:
        """Energy score of every row, by one call of net(noise, cond) on all m samples of all rows.

        x: (B, D).  cond: (B, C).  generator: on the device of x.  target: not needed.  Returns (B,).
        """
        m, (rows, width) = self.samples, x.shape
        noise = torch.randn(
            m * rows, self.noise_dim or width, generator=generator, device=x.device, dtype=x.dtype
        )
        samples = net(noise, cond.repeat(m, 1))
        return energy_score(samples.view(m, rows, width), x, self.exponent)

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
        if steps != 1:
            raise ValueError(f"an energy model draws in one pass by construction: steps must be 1, got {steps}")
        return net(noise, cond)


def _distance(difference: Tensor, exponent: float) -> Tensor:
    """|v|^a over the last axis. torch gives |v| the gradient 0 at v = 0, which no epsilon needs to protect."""
    distance = torch.linalg.vector_norm(difference, dim=-1)
    if exponent == 1:
        return distance
    # Below a = 1 the slope of r^a at r = 0 is infinite and would turn 0 * inf into NaN: value and gradient are 0 there.
    apart = distance > 0
    return torch.where(apart, distance, 1).pow(exponent) * apart


def _check_exponent(exponent: float) -> None:
    if not 0 < exponent <= 2:
        raise ValueError(f"exponent must lie in (0, 2], got {exponent}")
