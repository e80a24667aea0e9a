"""Shortcut models: a flow that is told the size of its next step, and learns large steps from two half ones."""

from collections.abc import Callable

import torch
from torch import Tensor

from dear.objectives.flow import between, draw_noise, draw_uniform, weighed
from dear.objectives.teacher import needed


class Shortcut:
    """Learn to draw x given cond by steps of any size d in {1, 1/2, 1/4, ..., 1/M}, one of them if need be.

        x_{t-d} = x_t - d net(x_t, cond, t, d)                        (Frans et al. 2024, arXiv 2410.12557, eq. 3)
        net(x_t, cond, t, 2d) -> (net(x_t, cond, t, d) + net(x_{t-d}, cond, t-d, d)) / 2                   (eq. 4)
        net(x_t, cond, t, 1/M) -> n - x                                                     (flow matching, eq. 5)

    Here t = 0 is data and t = 1 noise, so a step goes down; the paper's clock runs the other way and its velocity is
    x - n. The times given to the net are t and d themselves; the paper's code gives it the index log2(1/d).
    The paper has flow matching at d = 0, its code at the finest d, as here: the finest net is then both taught by the
    data and the foundation of all coarser ones. Mistakes of the half steps add up on the way from 1/M to 1.

    finest: M, a power of two, 128 in the paper.  share: of the rows that learn from half steps, the first of each
    batch; 1/4 in the paper, 1/8 in its code.
    weights: (D,), a factor on each coordinate's error, as in Energy; None: all 1.
    """

    times, needs_target = 2, True

    def __init__(self, finest: int = 128, share: float = 0.25, weights: Tensor | None = None):
        if finest < 2 or finest & (finest - 1):
            raise ValueError(f"finest must be a power of two, at least 2, got {finest}")
        if not 0 <= share <= 1:
            raise ValueError(f"share must lie in [0, 1], got {share}")
        self.finest, self.share, self.weights = finest, share, weights

    def loss(
        self,
        net: Callable[..., Tensor],
        x: Tensor,
        cond: Tensor,
        generator: torch.Generator,
        target: Callable[..., Tensor] | None = None,
    ) -> Tensor:
        """Squared error, mean over D, of a velocity in some rows and of two half steps of `target` in the others.

        x: (B, D), of about unit variance.  cond: (B, C).  generator: on the device of x.
        target: the moving average of net (decay 0.999 in the paper), or net itself.  Returns (B,).
        """
        target = needed(target, self)
        rows, halves = len(x), round(self.share * len(x))
        doublings = (self.finest - 1).bit_length()
        # Step sizes 1/M in the rows of flow matching; 2/M, 4/M, ..., 1 with equal chances in the others.
        exponent = 1 + (draw_uniform(x, generator) * doublings).floor()
        exponent = torch.where(torch.arange(rows, device=x.device) < halves, exponent, 0)
        d = 2**exponent / self.finest
        # A step of size d starts at a multiple of d: t in {d, 2d, ..., 1}.
        t = d * (1 + (draw_uniform(x, generator) / d).floor())
        noise = draw_noise(x, generator)
        x_t = between(x, noise, t)
        wanted = noise - x
        if halves:
            taught = self._two_half_steps(target, x_t[:halves], cond[:halves], t[:halves], d[:halves])
            wanted = torch.cat([taught, wanted[halves:]])
        return weighed(net(x_t, cond, t, d) - wanted, self.weights).square().mean(dim=-1)

    @torch.no_grad()
    def _two_half_steps(self, net: Callable[..., Tensor], x: Tensor, cond: Tensor, t: Tensor, d: Tensor) -> Tensor:
        half = d / 2
        first = net(x, cond, t, half)
        second = net(x - half[:, None] * first, cond, t - half, half)
        return (first + second) / 2

    def sample(
        self,
        net: Callable[..., Tensor],
        cond: Tensor,
        noise: Tensor,
        steps: int = 1,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """One sample per row by `steps` steps of size d = 1/steps; the generator is not used.

        cond: (B, C).  noise: (B, D), N(0, I).  steps: a power of two from 1 to M, as no other d was trained.
        Returns (B, D).
        """
        if not 1 <= steps <= self.finest or steps & (steps - 1):
            raise ValueError(f"steps must be a power of two in 1..{self.finest}, got {steps}")
        x, d = noise, noise.new_full((len(noise),), 1 / steps)
        for i in range(steps, 0, -1):
            x = x - net(x, cond, i * d, d) / steps
        return x
