"""MeanFlow: learn the mean velocity over an interval from its derivative, and cross the interval in one step."""

from collections.abc import Callable

import torch
from torch import Tensor

from dear.objectives.flow import between, draw_noise, draw_uniform, follow_jumps, weighed


class MeanFlow:
    """Learn to draw x given cond by the mean velocity u of the flow from t down to r; one pass, or several.

        u(z, t, r) = 1/(t - r) int_r^t v(z_s, s) ds,   z_r = z_t - (t - r) u(z_t, t, r)   (Geng et al. 2025,
        net(z, cond, t, r) -> v - (t - r) d/dt net(z, cond, t, r),   v = n - x             arXiv 2505.13447, eq. 3, 10)

    The arrow's right side, with d/dt along (v, 1, 0), is held fixed. At r = t it is flow matching. t = 0 is data and
    t = 1 noise, as in the paper. The net is given t and r; t and t - r, as in the paper, were a little better there.
    The derivative is that of the net's time features: fast ones (a sine of 1000 t) make it noise.

    share: of the rows with r != t, the first of each batch; 0.25 in the paper's ImageNet, 0.75 in its CIFAR-10 setting.
    power: p of the adaptive weight 1/(|error|^2 + c)^p; 1 in the paper, 0 is plain squared error.
    c: 0.01 in the code, 0.001 in the paper.
    sampling: of t and r. "lognormal": logistic(N(-0.4, 1)), as published; "uniform".
    weights: (D,), a factor on each coordinate's error, as in Energy; None: all 1.
    """

    times, needs_target = 2, False

    def __init__(
        self, share: float = 0.25, power: float = 1.0, c: float = 0.01, sampling: str = "lognormal",
        weights: Tensor | None = None,
    ):
        if not 0 <= share <= 1:
            raise ValueError(f"share must lie in [0, 1], got {share}")
        if power < 0 or c <= 0:
            raise ValueError(f"power must be >= 0 and c > 0, got {power} and {c}")
        if sampling not in ("lognormal", "uniform"):
            raise ValueError(f"sampling must be 'lognormal' or 'uniform', got {sampling!r}")
        self.share, self.power, self.c, self.sampling, self.weights = share, power, c, sampling, weights

    def loss(
        self, net: Callable[..., Tensor], x: Tensor, cond: Tensor, generator: torch.Generator, target=None
    ) -> Tensor:
        """Squared error of the mean velocity, summed over D and divided by its own size to the power p.

        With p = 1 every row's loss is close to 1: watch the samples, not the loss.

        x: (B, D), of about unit variance.  cond: (B, C).  generator: on the device of x.  target: not needed.
        Returns (B,).
        """
        crossing = round(self.share * len(x))
        t, r = self.draw_times(x, generator)
        noise = draw_noise(x, generator)
        z, v = between(x, noise, t), noise - x
        # Only rows with r != t need the derivative; it takes no part in the gradient.
        head = slice(0, crossing)
        wanted = torch.cat([mean_velocity(net, z[head], cond[head], t[head], r[head], v[head]), v[crossing:]])
        error = weighed(net(z, cond, t, r) - wanted, self.weights).square().sum(dim=-1)
        return error / (error.detach() + self.c) ** self.power

    def draw_times(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """t and r <= t, (B,) each: two draws, ordered, in the first share of the rows; t = r in the others.

        In the others t keeps the law of the larger of two draws, as in the code of the paper.
        """
        if self.sampling == "uniform":
            pair = [draw_uniform(x, generator) for _ in range(2)]
        else:
            pair = [torch.sigmoid(draw_noise(x[:, 0], generator) - 0.4) for _ in range(2)]
        t, r = torch.maximum(*pair), torch.minimum(*pair)
        crossing = torch.arange(len(x), device=x.device) < round(self.share * len(x))
        return t, torch.where(crossing, r, t)

    def sample(
        self,
        net: Callable[..., Tensor],
        cond: Tensor,
        noise: Tensor,
        steps: int = 1,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """One sample per row by `steps` equal intervals from t = 1 to 0; the generator is not used.

        cond: (B, C).  noise: (B, D), N(0, I).  steps: at least 1.  Returns (B, D).
        """
        return follow_jumps(net, cond, noise, steps)


def mean_velocity(net: Callable[..., Tensor], z: Tensor, cond: Tensor, t: Tensor, r: Tensor, v: Tensor) -> Tensor:
    """v - (t - r) du/dt with du/dt = v . du/dz + du/dt at fixed z, by one forward-mode product; carries no gradient.

    z, v: (B, D).  cond: (B, C).  t, r: (B,).  Returns (B, D).
    """
    with torch.no_grad():
        ones, zeros = torch.ones_like(t), torch.zeros_like(r)
        _, slope = torch.func.jvp(lambda z, t, r: net(z, cond, t, r), (z, t, r), (v, ones, zeros))
        return v - (t - r)[:, None] * slope
