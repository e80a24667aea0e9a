"""Energy distance and MMD against scipy, double loops, the laws of Gaussians, and what they must refuse."""

import math

import numpy as np
import pytest
import torch
from scipy import spatial, stats

from dear.metrics import energy
from dear.metrics.energy import energy_distance, mmd2


def normal(n, d, seed, mean=0.0, std=1.0):
    return mean + std * np.random.default_rng(seed).standard_normal((n, d))


def test_the_v_statistic_equals_scipys_in_one_dimension():
    # scipy integrates (F - G)^2 over the line and takes the root: no pairwise distance appears.
    x, y = normal(300, 1, 0), normal(200, 1, 1, 0.4, 2)
    expected = stats.energy_distance(x[:, 0], y[:, 0]) ** 2
    assert energy_distance(x, y, unbiased=False) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.7])
def test_both_statistics_equal_numpys_sums(exponent):
    x, y = normal(40, 3, 0), normal(31, 3, 1, 0.5)
    across, xx, yy = (spatial.distance.cdist(a, b) ** exponent for a, b in ((x, y), (x, x), (y, y)))
    v = 2 * across.mean() - xx.mean() - yy.mean()
    u = 2 * across.mean() - xx.sum() / (40 * 39) - yy.sum() / (31 * 30)
    assert energy_distance(x, y, exponent, unbiased=False) == pytest.approx(v, rel=1e-9)
    assert energy_distance(x, y, exponent) == pytest.approx(u, rel=1e-9)
    assert v > u


def test_two_point_masses():
    # All mass at 0 against all mass at 3: 2 * 3 - 0 - 0.
    x, y = np.zeros((5, 2)), np.tile([3.0, 0.0], (4, 1))
    assert energy_distance(x, y) == pytest.approx(6)
    # k = exp(-9/2) across and 1 within: 2 - 2 k.
    assert mmd2(x, y, [1.0]) == pytest.approx(2 - 2 * math.exp(-4.5))


def test_the_u_statistic_is_unbiased_and_the_v_statistic_is_not():
    # N(0, 1) against N(1, 1): E|N(m, 2)| = 2 / sqrt(pi) e^(-m^2/4) + m erf(m/2); ten samples a side, many times.
    def mean_distance(m):
        return 2 / math.sqrt(math.pi) * math.exp(-m * m / 4) + m * math.erf(m / 2)

    expected, n = 2 * mean_distance(1) - 2 * mean_distance(0), 10
    pairs = [(normal(n, 1, 2 * k), normal(n, 1, 2 * k + 1, 1)) for k in range(1000)]
    u = np.array([energy_distance(x, y) for x, y in pairs])
    v = np.array([energy_distance(x, y, unbiased=False) for x, y in pairs])
    error = 5 * u.std() / math.sqrt(len(u))
    assert abs(u.mean() - expected) < error
    assert abs(v.mean() - expected - 2 * mean_distance(0) / n) < error < v.mean() - expected


def test_mmd_equals_numpys_sum():
    x, y, bandwidths = normal(40, 2, 0), normal(31, 2, 1, 0.5), (0.3, 1.0, 3.0)

    def kernel(a, b):
        square = ((a[:, None] - b[None]) ** 2).sum(-1)
        return np.mean([np.exp(-square / (2 * s * s)) for s in bandwidths], axis=0)

    def off_diagonal(k):
        return (k.sum() - np.trace(k)) / (len(k) * (len(k) - 1))

    expected = off_diagonal(kernel(x, x)) + off_diagonal(kernel(y, y)) - 2 * kernel(x, y).mean()
    assert mmd2(x, y, bandwidths) == pytest.approx(expected, rel=1e-9)


def test_mmd_of_gaussians_is_unbiased():
    # X - Y is Gaussian with variance v a coordinate: E k = (s^2 / (s^2 + v)) exp(-|mean|^2 / 2 (s^2 + v)) in the plane.
    bandwidths = (0.25, 1.0)

    def law(v, mean2=0.0):
        return np.mean([s * s / (s * s + v) * math.exp(-mean2 / (2 * (s * s + v))) for s in bandwidths])

    expected = law(2) + law(2 * 0.25) - 2 * law(1.25, 2 * 0.3**2)
    found = [mmd2(normal(12, 2, 2 * k), normal(12, 2, 2 * k + 1, 0.3, 0.5), bandwidths) for k in range(1000)]
    assert abs(np.mean(found) - expected) < 5 * np.std(found) / math.sqrt(len(found))
    assert expected > 10 * np.std(found) / math.sqrt(len(found))


def test_blocks_of_rows_change_nothing(monkeypatch):
    x, y = normal(50, 2, 0), normal(45, 2, 1)
    whole = energy_distance(x, y), mmd2(x, y)
    monkeypatch.setattr(energy, "BLOCK", 7)
    assert (energy_distance(x, y), mmd2(x, y)) == pytest.approx(whole, rel=1e-12)


def test_torch_and_numpy_give_the_same_number_and_order_does_not_matter():
    x, y = torch.randn(30, 2, generator=torch.Generator().manual_seed(0)), torch.ones(20, 2)
    for distance in (energy_distance, mmd2):
        assert distance(x, y) == distance(x.numpy(), y.numpy()) == pytest.approx(distance(y, x), rel=1e-12)


def test_exponent_two_sees_only_the_means():
    x, y = normal(500, 2, 0), normal(500, 2, 0, std=3)
    assert energy_distance(x, y) > 0.5
    expected = 2 * ((x.mean(0) - y.mean(0)) ** 2).sum()
    assert energy_distance(x, y, 2.0, unbiased=False) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("x", "y", "message"), [
    (np.zeros(5), np.zeros((5, 1)), r"x must be samples \(n, d\) with n at least 2, got shape \(5,\)"),
    (np.zeros((5, 2)), np.zeros((1, 2)), r"y must be samples .* got shape \(1, 2\)"),
    (np.zeros((5, 2)), np.zeros((5, 3)), "same number of dimensions, got 2 and 3"),
    (np.zeros((5, 2)), np.full((5, 2), np.nan), "y holds samples that are not finite"),
])
def test_bad_samples(x, y, message):
    for distance in (energy_distance, mmd2):
        with pytest.raises(ValueError, match=message):
            distance(x, y)


def test_bad_settings():
    x = np.zeros((3, 2))
    for exponent in (0.0, 2.1):
        with pytest.raises(ValueError, match="exponent must lie in"):
            energy_distance(x, x, exponent)
    for bandwidths in ([], [1.0, 0.0]):
        with pytest.raises(ValueError, match="bandwidths must be positive"):
            mmd2(x, x, bandwidths)


def test_paired_samples_leave_their_own_pairs_out():
    # y_i is x_i and a little noise: one law, but rows that depend on each other.
    pairs = [(x, x + 0.1 * normal(20, 2, 1000 + k)) for k, x in enumerate(normal(20, 2, s) for s in range(400))]
    for distance in (energy_distance, mmd2):
        plain, fair = (np.array([distance(x, y, paired=p) for x, y in pairs]) for p in (False, True))
        assert plain.mean() + 20 * plain.std() / math.sqrt(400) < 0
        assert abs(fair.mean()) < 5 * fair.std() / math.sqrt(400) + 0.01  # the noise makes y's law a little wider
    x, y = pairs[0]
    across = spatial.distance.cdist(x, y)
    expected = 2 * (across.sum() - np.trace(across)) / (20 * 19)
    expected -= sum(spatial.distance.pdist(v).mean() for v in (x, y))
    assert energy_distance(x, y, paired=True) == pytest.approx(expected, rel=1e-9)
    for distance in (energy_distance, mmd2):
        with pytest.raises(ValueError, match="paired samples must be as many, got 20 and 19"):
            distance(x, y[:19], paired=True)
    with pytest.raises(ValueError, match="V-statistic counts all pairs"):
        energy_distance(x, y, unbiased=False, paired=True)
