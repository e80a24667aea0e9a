"""The shapes of the plane: standardised by constants, drawn as their weights say, and divided into modes."""

import math

import pytest
import torch
from scipy import stats

from toy.data import SHAPES, Curve, Mixture, checkerboard, eight_gaussians, grid, mixture, swiss_roll, two_moons

MIXTURES = [name for name, shape in SHAPES.items() if isinstance(shape, Mixture)]


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", SHAPES)
def test_mean_zero_and_mean_variance_one(name):
    n = 100_000
    x = SHAPES[name](n, gen()).double()
    assert (x.mean(0).abs() < 5 * x.std(0) / math.sqrt(n)).all()
    energy = x.square().mean(1)  # its expectation is the mean variance
    assert abs(energy.mean() - 1) < 5 * energy.std() / math.sqrt(n)


@pytest.mark.parametrize("name", SHAPES)
def test_standardised_by_constants_and_not_by_the_batch(name):
    few = SHAPES[name](4, gen(1))
    assert few.shape == (4, 2) and few.dtype == torch.float32
    assert few.mean(0).abs().max() > 1e-3 and abs(few.var(0).mean() - 1) > 1e-3


@pytest.mark.parametrize("name", SHAPES)
def test_only_the_generator_is_random(name):
    before = torch.get_rng_state()
    first, same, other = SHAPES[name](50, gen(3)), SHAPES[name](50, gen(3)), SHAPES[name](50, gen(4))
    assert torch.equal(first, same) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", MIXTURES)
def test_a_mixtures_own_numbers_are_those_of_the_standardised_data(name):
    shape = SHAPES[name]
    torch.testing.assert_close(shape.weights @ shape.centres, torch.zeros(2), atol=1e-6, rtol=0)
    assert float(shape.weights @ shape.centres.square().sum(1)) / 2 + shape.std**2 == pytest.approx(1, abs=1e-6)
    # Of a Gaussian in the plane 1 - exp(-9/2) lies within 3 standard deviations, if no other mode is near.
    x = shape(20_000, gen())
    share = (shape.mode_of(x) >= 0).double().mean()
    assert share == pytest.approx(1 - math.exp(-4.5), abs=5 * math.sqrt(0.011 * 0.989 / 20_000))


@pytest.mark.parametrize("name", SHAPES)
def test_modes_are_drawn_as_their_weights_say(name):
    shape, n = SHAPES[name], 20_000
    assert shape.weights.sum() == pytest.approx(1, abs=1e-6)
    modes = shape.mode_of(shape(n, gen(5)))
    inside = modes[modes >= 0]
    counts = torch.bincount(inside, minlength=len(shape.weights))
    assert len(counts) == len(shape.weights) and len(inside) > 0.98 * n
    # A mode of a curve wins and loses a little where pieces meet at its ends: 1 % more than chance allows.
    spread = (shape.weights * (1 - shape.weights) / n).sqrt()
    assert ((counts / len(inside) - shape.weights).abs() < 4.5 * spread + 0.01 * shape.weights).all()


def test_unequal_weights_are_kept():
    torch.testing.assert_close(mixture.weights, torch.tensor([0.5, 0.35, 0.15]))
    torch.testing.assert_close(Mixture([[0, 0], [1, 0]], 0.1, [3, 1]).weights, torch.tensor([0.75, 0.25]))


def test_eight_and_twenty_five_centres():
    radius = eight_gaussians.centres.norm(dim=1)
    torch.testing.assert_close(radius, radius.mean().expand(8))
    assert torch.pdist(eight_gaussians.centres).min() > 6 * eight_gaussians.std  # no two modes touch
    assert len(grid.centres) == 25 and torch.pdist(grid.centres).min() > 6 * grid.std
    assert eight_gaussians.mode_of(eight_gaussians.centres).tolist() == list(range(8))
    assert grid.mode_of(grid.centres + 2.9 * grid.std * torch.tensor([1.0, 0])).tolist() == list(range(25))
    assert (grid.mode_of(grid.centres + 3.1 * grid.std * torch.tensor([1.0, 0])) == -1).all()


@pytest.mark.parametrize("shape", [swiss_roll, two_moons])
def test_a_curves_constants_agree_with_numerical_integration(shape):
    path = shape.path(20_000).double().flatten(0, 1)
    torch.testing.assert_close(path.mean(0), torch.zeros(2, dtype=torch.float64), atol=1e-4, rtol=0)
    assert float(path.square().sum(1).mean()) / 2 + shape.std**2 == pytest.approx(1, abs=1e-4)


def test_the_swiss_roll_is_a_spiral_of_one_and_a_half_turns():
    raw = swiss_roll.path(3000)[0] * swiss_roll.scale + swiss_roll.mean
    radius, angle = raw.norm(dim=1), torch.atan2(raw[:, 1], raw[:, 0])
    torch.testing.assert_close(radius[[0, -1]], math.pi * torch.tensor([1.5, 4.5]), atol=2e-2, rtol=0)
    turns = (angle.diff() % (2 * math.pi)).sum() / (2 * math.pi)
    assert turns == pytest.approx(1.5, abs=0.01)
    # Radius and angle grow together: r = t.
    torch.testing.assert_close(radius % (2 * math.pi), angle % (2 * math.pi), atol=1e-3, rtol=0)


def test_pieces_of_a_curve_follow_it_and_end_three_deviations_from_it():
    path = swiss_roll.path(120)[0]
    assert swiss_roll.mode_of(path).tolist() == [k // 10 for k in range(120)]
    middle = path[65] / path[65].norm()
    assert swiss_roll.mode_of(path[65:66] + 2.8 * swiss_roll.std * middle).item() == 6
    assert swiss_roll.mode_of(path[65:66] + 3.5 * swiss_roll.std * middle).item() == -1
    moons = two_moons.path(8)
    assert two_moons.mode_of(moons[0]).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert two_moons.mode_of(moons[1]).tolist() == [4, 4, 5, 5, 6, 6, 7, 7]


def test_the_checkerboard_is_dark_every_other_square_and_even_along_each_axis():
    side = checkerboard.side
    centres = side * (torch.cartesian_prod(torch.arange(4), torch.arange(4)) - 1.5)
    modes = checkerboard.mode_of(centres).view(4, 4)
    dark = (torch.arange(4)[:, None] + torch.arange(4)) % 2 == 0
    assert torch.equal(modes >= 0, dark) and sorted(modes[dark].tolist()) == list(range(8))
    assert (checkerboard.mode_of(side * torch.tensor([[2.1, 2.1], [-2.1, -2.1], [2.1, 0.5]])) == -1).all()
    x = checkerboard(5000, gen())
    assert (checkerboard.mode_of(x) >= 0).all()
    for column in x.T:
        assert stats.kstest(column.numpy(), stats.uniform(-2 * side, 4 * side).cdf).pvalue > 0.001


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"centres must be \(K, 2\)"):
        Mixture([[0.0, 0, 0]], 1)
    with pytest.raises(ValueError, match="want 2 positive weights"):
        Mixture([[0, 0], [1, 1]], 1, [1.0])
    with pytest.raises(ValueError, match="positive std"):
        Mixture([[0, 0]], 0)
    with pytest.raises(ValueError, match="multiple of the 2 curves"):
        Curve([torch.sin, torch.cos], 0.1, [0, 0], 1, pieces=3)


def test_the_velocity_of_a_mixture():
    """It is E[n - x | x_t]: no function of x_t tells it from n - x on average; at t = 1 and 0 it is known exactly."""
    n = 400_000
    x, noise = mixture(n, gen()), torch.randn(n, 2, generator=gen(1))
    for time in (0.2, 0.6, 0.9):
        x_t = (1 - time) * x + time * noise
        missed = noise - x - mixture.velocity(x_t, x_t[:, :0], torch.full((n,), time))
        for test in (torch.ones_like(x_t), x_t, torch.sin(3 * x_t), (x_t.flip(1) > 0.3).float()):
            assert (missed * test).mean(0).abs().max() < 5 * (missed * test).std() / n**0.5
    at = torch.tensor([[0.4, -0.2], [1.0, 2.0]])
    torch.testing.assert_close(mixture.velocity(at, at[:, :0], torch.ones(2)), at, atol=1e-6, rtol=0)  # the mean is 0
    torch.testing.assert_close(mixture.velocity(at, at[:, :0], torch.zeros(2)), -at)  # nothing is known of the noise
