"""Data of the plane: shapes with a generator argument, standardised by constants, never by a batch.

Every shape is called as shape(n, generator) -> (n, 2), float32, on the generator's device. Its mean is zero and the
mean of its two variances is one, so that its total variance is 2. Every shape is divided into modes: the bumps of a
mixture, pieces of equal mass of a curve, squares of a checkerboard. shape.mode_of(x) says in which one a point lies.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

RADIUS = 3.0  # in standard deviations: further than this from its centre or curve a point lies in no mode


class Mixture:
    """Gaussians of one spread around centres, each drawn with its weight.

    centres: (K, 2) and std: the spread of a mode, both in any unit, standardised here.  weights: (K,), None: equal.
    After construction `centres` (K, 2), `weights` (K,) with sum 1 and `std` are those of the standardised data.
    """

    def __init__(self, centres: Sequence[Sequence[float]], std: float, weights: Sequence[float] | None = None):
        raw = torch.tensor(centres, dtype=torch.float64)
        if raw.ndim != 2 or raw.shape[1] != 2 or len(raw) == 0:
            raise ValueError(f"centres must be (K, 2) with K at least 1, got {tuple(raw.shape)}")
        share = torch.ones(len(raw), dtype=torch.float64) if weights is None else torch.tensor(weights).double()
        if share.shape != (len(raw),) or not (share > 0).all() or std <= 0:
            raise ValueError(f"want {len(raw)} positive weights and a positive std, got {share.tolist()} and {std}")
        share = share / share.sum()
        raw = raw - share @ raw
        scale = math.sqrt(float(share @ raw.square().sum(1)) / 2 + std**2)
        self.centres, self.weights, self.std = (raw / scale).float(), share.float(), std / scale

    def __call__(self, n: int, generator: torch.Generator) -> Tensor:
        """n points, (n, 2)."""
        device = generator.device
        which = torch.multinomial(self.weights.to(device), n, replacement=True, generator=generator)
        return self.centres.to(device)[which] + self.std * torch.randn(n, 2, generator=generator, device=device)

    def mode_of(self, x: Tensor) -> Tensor:
        """Index (n,) of the nearest centre to x (n, 2), -1 where that is further than 3 standard deviations."""
        return _nearest(x, self.centres, RADIUS * self.std)

    def velocity(self, x: Tensor, cond: Tensor, t: Tensor) -> Tensor:
        """E[n - x | x_t], what flow matching learns on this mixture, in closed form: a net without training.

        Given its mode k, x_t is N((1 - t) c_k, v I) with v = (1 - t)^2 std^2 + t^2, and what is known of data and of
        noise is linear in x_t; the modes are mixed by their probabilities given x_t.
        x: (B, 2).  cond: not used.  t: (B,), 0 is data.  Returns (B, 2).
        """
        t = t[:, None, None]
        variance = (1 - t) ** 2 * self.std**2 + t**2
        away = x[:, None] - (1 - t) * self.centres.to(x)
        share = (self.weights.to(x).log() - away.square().sum(2) / (2 * variance[:, 0])).softmax(1)[:, :, None]
        noise, data = t / variance * away, self.centres.to(x) + (1 - t) * self.std**2 / variance * away
        return (share * (noise - data)).sum(1)


class Curve:
    """Gaussian noise around curves, each drawn equally often, their parameters u uniform on [0, 1].

    curves: functions u (n,) -> (n, 2) in any unit.  noise: standard deviation in the same unit.  mean (2,) and
    variance (the mean of the two) of the curves without noise: analytic values, which standardise.
    pieces: modes in all, each an equal stretch of u and therefore of equal mass.
    """

    def __init__(self, curves: Sequence[Callable[[Tensor], Tensor]], noise: float, mean: Sequence[float],
                 variance: float, pieces: int):
        if pieces % len(curves):
            raise ValueError(f"pieces must be a multiple of the {len(curves)} curves, got {pieces}")
        self.curves, self.mean, self.scale = curves, torch.tensor(mean), math.sqrt(variance + noise**2)
        self.std, self.weights = noise / self.scale, torch.full((pieces,), 1 / pieces)

    def path(self, points: int) -> Tensor:
        """Points on the curves without noise, (curves, points, 2), at even steps of u."""
        u = (torch.arange(points) + 0.5) / points
        return (torch.stack([curve(u) for curve in self.curves]) - self.mean) / self.scale

    def __call__(self, n: int, generator: torch.Generator) -> Tensor:
        """n points, (n, 2)."""
        device = generator.device
        u = torch.rand(n, generator=generator, device=device)
        which = torch.randint(len(self.curves), (n, 1), generator=generator, device=device)
        exact = sum((which == k) * curve(u) for k, curve in enumerate(self.curves))
        noise = torch.randn(n, 2, generator=generator, device=device)
        return (exact - self.mean.to(device)) / self.scale + self.std * noise

    def mode_of(self, x: Tensor) -> Tensor:
        """Index (n,) of the piece that comes nearest to x (n, 2), -1 where that is further than 3 std of the noise."""
        path = self.path(200 * len(self.weights) // len(self.curves)).flatten(0, 1)
        found = _nearest(x, path, RADIUS * self.std)
        return torch.where(found < 0, found, found // 200)


class Checkerboard:
    """Even density on the 8 dark squares of a board of 4 x 4; every square is a mode."""

    weights = torch.full((8,), 1 / 8)
    side = 1 / math.sqrt(4 / 3)  # the board spans [-2, 2] sides, and each coordinate alone is even on it

    def __call__(self, n: int, generator: torch.Generator) -> Tensor:
        """n points, (n, 2)."""
        square = torch.randint(8, (n,), generator=generator, device=generator.device)
        row = square // 2
        corner = torch.stack([2 * (square % 2) + row % 2, row], dim=1) - 2
        return self.side * (corner + torch.rand(n, 2, generator=generator, device=generator.device))

    def mode_of(self, x: Tensor) -> Tensor:
        """Index (n,) of the dark square of x (n, 2), -1 on light squares and off the board."""
        column, row = (x / self.side + 2).floor().long().unbind(1)
        dark = (column + row) % 2 == 0
        on_board = (column >= 0) & (column < 4) & (row >= 0) & (row < 4)
        return torch.where(dark & on_board, 2 * row + column // 2, -1)


def _nearest(x: Tensor, points: Tensor, reach: float) -> Tensor:
    """Index (n,) of the nearest of points (K, 2) to each x (n, 2), -1 where it is further than reach."""
    distance, index = torch.cdist(x.float(), points.to(x.device)).min(dim=1)
    return torch.where(distance <= reach, index, -1)


def _roll(u: Tensor) -> Tensor:
    """One and a half turns of r = t, from t = 1.5 pi to 4.5 pi (scikit-learn's parameters)."""
    t = 1.5 * math.pi * (1 + 2 * u)
    return torch.stack([t * t.cos(), t * t.sin()], dim=1)


def _upper(u: Tensor) -> Tensor:
    return torch.stack([(math.pi * u).cos(), (math.pi * u).sin()], dim=1)


def _lower(u: Tensor) -> Tensor:
    return torch.stack([1 - (math.pi * u).cos(), 0.5 - (math.pi * u).sin()], dim=1)


gaussian = Mixture([[0, 0]], std=1)
mixture = Mixture([[-1, -1], [1, -1], [0, 1]], std=0.2, weights=[0.5, 0.35, 0.15])
eight_gaussians = Mixture([[math.cos(k * math.pi / 4), math.sin(k * math.pi / 4)] for k in range(8)], std=0.07)
grid = Mixture([[column, row] for row in range(5) for column in range(5)], std=0.07)
# Means and variances by integration over t. Roll: E t cos t = 2, E t sin t = 2 / 3 pi, E t^2 = 9.75 pi^2.
# Moons: E x = 1/2, E y = 1/4, Var x = 3/4, Var y = 9/16 - 1/pi.
swiss_roll = Curve([_roll], noise=0.3, mean=[2, 2 / (3 * math.pi)], pieces=12,
                   variance=(9.75 * math.pi**2 - 4 - 4 / (9 * math.pi**2)) / 2)
two_moons = Curve([_upper, _lower], noise=0.05, mean=[0.5, 0.25], pieces=8,
                  variance=(21 / 16 - 1 / math.pi) / 2)
checkerboard = Checkerboard()

SHAPES = {"gaussian": gaussian, "mixture": mixture, "eight_gaussians": eight_gaussians, "grid": grid,
          "two_moons": two_moons, "swiss_roll": swiss_roll, "checkerboard": checkerboard}
