"""Flow matching: learn the velocity that carries noise to data, and draw by following it in many small steps.

The clock of this and all later objectives: t = 0 is data, t = 1 is noise, x_t = (1 - t) x + t n, and the velocity is
n - x. Diffusion's clock runs the same way. Lipman et al., Liu et al. and the Shortcut models have noise at t = 0.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from dear.objectives.diffusion import Diffusion

Velocity = Callable[[Tensor, Tensor], Tensor]


class Flow:
    """Learn to draw x given cond by the velocity of straight lines from data to noise.

        net(x_t, cond, t) -> n - x,   x_t = (1 - t) x + t n      (Lipman et al. 2023, arXiv 2210.02747, eq. 23 with
                                                          sigma_min = 0; Liu et al. 2023, arXiv 2209.03003, eq. 1)

    The best net is E[n - x | x_t]: lines cross, so what it draws follows no line, and many steps are needed. At t = 1
    the noise says nothing of x: one step lands on the mean of the data.

    weights: (D,), a factor on each coordinate's error, as in Energy; None: all 1.
    """

    times, needs_target = 1, False

    def __init__(self, weights: Tensor | None = None):
        self.weights = weights

    def loss(
        self, net: Callable[..., Tensor], x: Tensor, cond: Tensor, generator: torch.Generator, target=None
    ) -> Tensor:
        """Squared error of the velocity, mean over D, at one uniform time a row.

        x: (B, D), of about unit variance.  cond: (B, C).  generator: on the device of x.  target: not needed.
        Returns (B,).
        """
        noise, t = draw_noise(x, generator), draw_uniform(x, generator)
        return velocity_error(net, x, noise, cond, t, weights=self.weights)

    def sample(
        self,
        net: Callable[..., Tensor],
        cond: Tensor,
        noise: Tensor,
        steps: int = 50,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """One sample per row by `steps` equal Euler steps from t = 1 to 0; the generator is not used.

        cond: (B, C).  noise: (B, D), N(0, I).  steps: at least 1.  Returns (B, D).
        """
        return follow(lambda x, t: net(x, cond, t), noise, steps)


def between(x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """x_t = (1 - t) x + t n.  x, noise: (B, D).  t: (B,), 0 is data.  Returns (B, D)."""
    return torch.lerp(x, noise, t[:, None])


def velocity_error(
    net: Callable[..., Tensor], x: Tensor, noise: Tensor, cond: Tensor, t: Tensor, *more: Tensor,
    weights: Tensor | None = None,
) -> Tensor:
    """Squared error (B,), mean over D, of net(x_t, cond, t, *more) for the velocity n - x.  x, noise: (B, D)."""
    return weighed(net(between(x, noise, t), cond, t, *more) - (noise - x), weights).square().mean(dim=-1)


def weighed(error: Tensor, weights: Tensor | None) -> Tensor:
    """Errors (B, D) times weights (D,): what a net of limited size should get right first. None: as they are.

    The best net is the same with any, as every coordinate's own best answer is.
    """
    return error if weights is None else error * weights.to(error)


def jump(net: Callable[..., Tensor], x: Tensor, cond: Tensor, t: Tensor, s: Tensor, *w: Tensor) -> Tensor:
    """x - (t - s) net(x, cond, t, s, w), (B, D): where the path through x at t is at s, by a net of mean velocities."""
    return x - (t - s)[:, None] * net(x, cond, t, s, *w)


def follow_jumps(net: Callable[..., Tensor], cond: Tensor, noise: Tensor, steps: int, *w: Tensor) -> Tensor:
    """From noise at t = 1 to data at t = 0 in `steps` equal jumps.  noise: (B, D).  Returns (B, D)."""
    check_steps(steps)
    x = noise
    for i in range(steps, 0, -1):
        x = jump(net, x, cond, *(x.new_full((len(x),), k / steps) for k in (i, i - 1)), *w)
    return x


def euler_step(velocity: Velocity, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """From x at t to s along the velocity at t; on these straight paths it is DDIM (Song et al. 2021, eq. 12).

    velocity: (x, t) -> (B, D).  x: (B, D).  t, s: (B,).  Returns (B, D).
    """
    return x + (s - t)[:, None] * velocity(x, t)


def heun_step(velocity: Velocity, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """From x at t to s along the mean of the velocities at both ends: error of third order, two calls."""
    first = velocity(x, t)
    second = velocity(x + (s - t)[:, None] * first, s)
    return x + (s - t)[:, None] * (first + second) / 2


def follow(velocity: Velocity, noise: Tensor, steps: int, step=euler_step) -> Tensor:
    """From noise at t = 1 to data at t = 0 in `steps` equal steps.  noise: (B, D).  Returns (B, D)."""
    check_steps(steps)
    x = noise
    for i in range(steps, 0, -1):
        x = step(velocity, x, x.new_full((len(x),), i / steps), x.new_full((len(x),), (i - 1) / steps))
    return x


def as_velocity(diffusion: Diffusion, net: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The velocity net that a net trained by Diffusion is, so that what distils a flow distils it, too.

    Diffusion's sqrt(abar) x + sqrt(1 - abar) n is x_t / |(1-t, t)| for abar = (1-t)^2 / ((1-t)^2 + t^2): the two paths
    are one, up to scale and clock (Kingma et al. 2021, arXiv 2107.00630, section 5.1). Times between two indices are
    interpolated, and those beyond the last or the first level are taken as that level; Diffusion's clip is not applied.

    Returns (x, cond, t, *more) -> E[n - x | x_t], (B, D); further times go to the net as they are.
    """
    sigma, signal = (1 - diffusion.alphas_cumprod).sqrt(), diffusion.alphas_cumprod.sqrt()
    levels = sigma / (sigma + signal)

    def velocity(x: Tensor, cond: Tensor, t: Tensor, *more: Tensor) -> Tensor:
        known = levels.to(x)
        t = t.clamp(known[0], known[-1])
        above = torch.searchsorted(known, t).clamp(1, len(known) - 1)
        low, high = known[above - 1], known[above]
        index = above - 1 + (t - low) / (high - low)
        size = torch.hypot(1 - t, t)[:, None]
        signal, sigma = (1 - t)[:, None] / size, t[:, None] / size
        noisy = x / size
        predicted = net(noisy, cond, index / diffusion.train_steps, *more)
        if diffusion.prediction == "epsilon":
            return predicted - (noisy - sigma * predicted) / signal
        return (sigma * noisy + signal * predicted) - (signal * noisy - sigma * predicted)

    return velocity


def draw_noise(x: Tensor, generator: torch.Generator) -> Tensor:
    """N(0, I), of the shape, dtype and device of x."""
    return torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)


def draw_uniform(x: Tensor, generator: torch.Generator) -> Tensor:
    """One number in [0, 1) per row of x, (B,)."""
    return torch.rand(len(x), generator=generator, device=x.device, dtype=x.dtype)


def check_steps(steps: int) -> None:
    """steps must be a whole number of at least 1."""
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
