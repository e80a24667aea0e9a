"""A Gaussian whose probability flow is known in closed form, and two small nets that can hold that flow exactly."""

import copy

import torch
from torch import Tensor, nn

MEAN, STD = torch.tensor([1.0, -0.5], dtype=torch.float64), torch.tensor([1.5, 0.5], dtype=torch.float64)


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(rows, generator):
    return MEAN + STD * torch.randn(rows, 2, generator=generator, dtype=torch.float64)


def spread(t: Tensor) -> Tensor:
    """Standard deviation of x_t = (1 - t) x + t n.  t: (B,) -> (B, 2)."""
    return torch.hypot((1 - t)[:, None] * STD, t[:, None])


def velocity(x: Tensor, t: Tensor) -> Tensor:
    """E[n - x | x_t], by the regression of n - x on x_t: both are Gaussian."""
    t = t[:, None]
    covariance, variance = t - (1 - t) * STD**2, (1 - t) ** 2 * STD**2 + t**2
    return -MEAN + covariance / variance * (x - (1 - t) * MEAN)


def flow_map(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Where the flow that is at x at time t is at time s: it keeps the standardised x."""
    return (1 - s)[:, None] * MEAN + spread(s) / spread(t) * (x - (1 - t)[:, None] * MEAN)


class Table(nn.Module):
    """scale[i] * x + shift[i], i being the first `times` scalars in units of 1/N: any affine flow on N steps."""

    def __init__(self, n: int, times: int = 1):
        super().__init__()
        self.n, self.times = n, times
        shape = (n + 1,) * times + (2,)
        self.scale, self.shift = (nn.Parameter(torch.zeros(shape, dtype=torch.float64)) for _ in range(2))

    def forward(self, x, cond, *times):
        index = tuple((t * self.n).round().long() for t in times[: self.times])
        return self.scale[index] * x + self.shift[index]


class Affine(nn.Module):
    """a(times) * x + b(times), a and b from a small MLP of the times: close to any affine flow."""

    def __init__(self, times: int = 1, width: int = 32):
        super().__init__()
        torch.manual_seed(0)
        self.mlp = nn.Sequential(nn.Linear(times, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
                                 nn.Linear(width, 4)).double()

    def forward(self, x, cond, *times):
        a, b = self.mlp(torch.stack(times, dim=-1)).chunk(2, dim=-1)
        return a * x + b


def fit(objective, net, steps, rate=0.02, rows=256, decay=0.95, cond=0):
    """Train as a training loop would, with a moving average as the target; returns the average."""
    generator, target = gen(), copy.deepcopy(net)
    optimizer = torch.optim.Adam(net.parameters(), rate)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        x = draw(rows, generator)
        optimizer.zero_grad()
        objective.loss(net, x, x.new_zeros(rows, cond), generator, target).mean().backward()
        optimizer.step()
        scheduler.step()
        with torch.no_grad():
            for mine, theirs in zip(target.parameters(), net.parameters(), strict=True):
                mine.lerp_(theirs, 1 - decay)
    return target


def affine_of(sampler):
    """(scale, shift) of an affine map of noise, both (2,)."""
    with torch.no_grad():
        shift, both = sampler(torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=torch.float64))
    return both - shift, shift


def carried(velocity, x, t, s, n, step):
    """From t down to s, (B,) each and multiples of 1/n, by steps of 1/n; rows that have arrived stay."""
    u, s = (t * n).round(), (s * n).round()
    for _ in range(n):
        lower = torch.maximum(u - 1, s)
        x, u = step(velocity, x, u / n, lower / n), lower
    return x
