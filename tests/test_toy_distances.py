"""Distances between samples of the plane against assignment, scipy and the laws of Gaussians; modes counted by hand."""

import math

import pytest
import torch
from scipy import optimize, spatial, stats

from toy.data import checkerboard, eight_gaussians, gaussian, grid, swiss_roll
from toy.distances import in_mode_share, mode_coverage, sliced_wasserstein, wasserstein


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("order", [1, 2])
def test_wasserstein_equals_the_best_assignment(order):
    # Between as many points on both sides some best coupling is a permutation (Birkhoff).
    x, y = swiss_roll(60, gen()), gaussian(60, gen(1))
    cost = spatial.distance.cdist(x.double(), y.double()) ** order
    expected = cost[optimize.linear_sum_assignment(cost)].mean() ** (1 / order)
    assert wasserstein(x, y, order) == pytest.approx(expected, rel=1e-9)
    assert wasserstein(y, x, order) == pytest.approx(expected, rel=1e-9)


def test_wasserstein_one_on_a_line_equals_scipys_with_unequal_numbers():
    x, y = torch.randn(70, 1, generator=gen()), 1 + torch.randn(50, 1, generator=gen(1))
    expected = stats.wasserstein_distance(x[:, 0], y[:, 0])
    flat = [torch.cat([v, torch.zeros_like(v)], dim=1) for v in (x, y)]
    assert wasserstein(*flat, order=1) == pytest.approx(expected, rel=1e-6)


def test_a_shift_costs_its_length_and_a_stretch_what_the_law_says():
    x = gaussian(200, gen())
    shift = torch.tensor([3.0, -4.0])
    assert wasserstein(x, x + shift, 1) == pytest.approx(5, rel=1e-5)
    assert wasserstein(x, x + shift, 2) == pytest.approx(5, rel=1e-5)
    # x -> 2 x is the gradient of a convex function, so it is the best map (Brenier): cost E|x|^2.
    assert wasserstein(x, 2 * x, 2) == pytest.approx(float(x.square().sum(1).mean().sqrt()), rel=1e-5)


def test_a_point_is_as_far_as_the_root_of_the_total_variance():
    x = swiss_roll(1000, gen())
    assert wasserstein(x, torch.zeros(1, 2), 2) == pytest.approx(float(x.square().sum(1).mean().sqrt()), rel=1e-5)
    assert wasserstein(x, torch.zeros(1, 2), 2) == pytest.approx(math.sqrt(2), abs=0.05)


def test_sliced_wasserstein_of_affine_maps_is_exact():
    # Every line sees the shift's component and, as the same points are stretched, |x . u| once more.
    x = gaussian(500, gen())
    assert sliced_wasserstein(x, x + torch.tensor([3.0, -4.0])) == pytest.approx(math.sqrt(25 / 2), rel=1e-5)
    assert sliced_wasserstein(x, 2 * x) == pytest.approx(float(x.square().sum(1).mean() / 2) ** 0.5, rel=1e-5)


def test_sliced_wasserstein_is_the_mean_of_wasserstein_over_lines():
    x, y = swiss_roll(80, gen()), gaussian(80, gen(1))
    squares = []
    for k in range(16):
        line = torch.tensor([math.cos(k * math.pi / 16), math.sin(k * math.pi / 16)])
        shadows = [torch.stack([v @ line, torch.zeros(80)], dim=1) for v in (x, y)]
        squares.append(wasserstein(*shadows, order=2) ** 2)
    assert sliced_wasserstein(x, y, 16) == pytest.approx(math.sqrt(sum(squares) / 16), rel=1e-4)
    assert sliced_wasserstein(x, y) < wasserstein(x, y)  # a projection only shortens


def test_in_mode_share_and_coverage_by_hand():
    modes = torch.tensor([0, 0, 0, 0, 0, 1, 1, 2, -1, -1])
    assert in_mode_share(modes) == pytest.approx(0.8)
    # Shares of ten samples: .5, .2, .1, 0; a quarter of the fair shares: .1, .1, .1, .025.
    weights = torch.tensor([0.4, 0.4, 0.4, 0.1])
    assert mode_coverage(modes, weights / weights.sum()) == pytest.approx(0.75)
    assert mode_coverage(modes, torch.tensor([0.25, 0.25, 0.45, 0.05])) == pytest.approx(0.5)  # .1 < .1125
    assert mode_coverage(modes, torch.tensor([0.25, 0.25, 0.45, 0.05]), fair=0.2) == pytest.approx(0.75)
    assert in_mode_share(torch.full((5,), -1)) == 0 == mode_coverage(torch.full((5,), -1), weights)


@pytest.mark.parametrize("shape", [eight_gaussians, grid])
def test_data_covers_all_modes_and_even_noise_none_unless_one_per_cent_is_enough(shape):
    data = shape.mode_of(shape(5000, gen()))
    assert mode_coverage(data, shape.weights) == 1 and in_mode_share(data) > 0.97
    square = shape.mode_of((2 * torch.rand(5000, 2, generator=gen()) - 1) * math.sqrt(3))
    assert mode_coverage(square, shape.weights) == 0 and mode_coverage(square, shape.weights, fair=0.01) == 1


def test_a_missing_half_is_seen():
    x = swiss_roll(5000, gen())
    modes = swiss_roll.mode_of(x[swiss_roll.mode_of(x) < 6])
    assert mode_coverage(modes, swiss_roll.weights) == pytest.approx(0.5)
    x = checkerboard(5000, gen())
    assert mode_coverage(checkerboard.mode_of(x[x[:, 0] < 0]), checkerboard.weights) == 0.5


def test_bad_arguments():
    x = torch.zeros(3, 2)
    with pytest.raises(ValueError, match="order must be 1 or 2"):
        wasserstein(x, x, 3)
    with pytest.raises(ValueError, match=r"y must be finite samples \(n, 2\)"):
        wasserstein(x, torch.zeros(3, 1))
    with pytest.raises(ValueError, match="x must be finite"):
        sliced_wasserstein(x / 0, x)
    with pytest.raises(ValueError, match="as many x as y, got 3 and 2"):
        sliced_wasserstein(x, x[:2])
    with pytest.raises(ValueError, match="fair must lie in"):
        mode_coverage(torch.zeros(3, dtype=torch.long), torch.ones(1), 0)
