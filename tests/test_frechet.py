"""The Frechet distance against its closed form, scipy's matrix root, and what it must refuse."""

import warnings

import numpy as np
import pytest
import torch
from scipy import linalg

from dear.metrics.frechet import frechet_distance


def exact(mean, cov, n=200, seed=0):
    """Samples whose own mean and covariance (n - 1) are the ones given, to rounding."""
    x = np.random.default_rng(seed).standard_normal((n, len(mean)))
    x -= x.mean(0)
    x = x @ linalg.inv(linalg.cholesky(np.cov(x, rowvar=False)))
    return x @ linalg.cholesky(np.asarray(cov, float)) + mean


def random_cov(d, seed):
    a = np.random.default_rng(seed).standard_normal((d, d))
    return a @ a.T + 0.1 * np.eye(d)


def test_gaussians_with_commuting_covariances():
    # Diagonal: sum of (mean difference)^2 and of (s1 - s2)^2 = (9 + 16) + (1 - 2)^2 + (5 - 3)^2.
    x, y = exact([0, 0], np.diag([1, 25])), exact([3, 4], np.diag([4, 9]), seed=1)
    assert frechet_distance(x, y) == pytest.approx(25 + 1 + 4, rel=1e-9)
    # The same turned by any angle.
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    assert frechet_distance(x @ turn, y @ turn) == pytest.approx(30, rel=1e-9)


def test_one_dimension():
    assert frechet_distance(exact([1], [[4]]), exact([3], [[25]], seed=1)) == pytest.approx(2**2 + (2 - 5) ** 2)


@pytest.mark.parametrize("d", [2, 16, 64])
def test_equals_scipys_matrix_root(d):
    x, y = exact(np.zeros(d), random_cov(d, 1)), exact(np.ones(d) / d, random_cov(d, 2), n=150, seed=1)
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    expected = 1 / d + np.trace(a + b - 2 * linalg.sqrtm(a @ b).real)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(y, x) == pytest.approx(expected, rel=1e-6)


def test_zero_for_the_same_samples_and_growing_with_noise():
    x = exact(np.zeros(8), random_cov(8, 3))
    assert 0 <= frechet_distance(x, x[::-1]) < 1e-9
    noise = np.random.default_rng(0).standard_normal(x.shape)
    near, far = (frechet_distance(x, x + scale * noise) for scale in (0.1, 1.0))
    assert 0 < near < far


def test_torch_tensors_give_the_same_number():
    x, y = torch.randn(50, 4), 1 + torch.randn(40, 4)
    assert frechet_distance(x, y) == frechet_distance(x.numpy(), y.numpy())


def test_a_singular_covariance_is_warned_of_and_still_right():
    # All features of x on a line: (0, t) against (0, 2 t), the other dimension empty.
    x, y = np.zeros((50, 2)), np.zeros((50, 2))
    x[:, 1:], y[:, 1:] = exact([0], [[1]], 50), exact([0], [[4]], 50)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert frechet_distance(x, y) == pytest.approx(1)
    with pytest.warns(UserWarning, match="x has 4 samples for 4 dimensions: the distance is biased upwards"):
        found = frechet_distance(np.random.default_rng(0).standard_normal((4, 4)), exact(np.zeros(4), np.eye(4)))
    assert np.isfinite(found)


@pytest.mark.parametrize(("x", "y", "message"), [
    (np.zeros(5), np.zeros((5, 1)), r"x must be features \(n, d\) with n at least 2, got shape \(5,\)"),
    (np.zeros((5, 2)), np.zeros((1, 2)), r"y must be features .* got shape \(1, 2\)"),
    (np.zeros((5, 2)), np.zeros((5, 3)), "same number of dimensions, got 2 and 3"),
    (np.zeros((5, 2)), np.full((5, 2), np.nan), "y holds features that are not finite"),
    (np.full((5, 2), np.inf), np.zeros((5, 2)), "x holds features that are not finite"),
])
def test_bad_features(x, y, message):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=message):
            frechet_distance(x, y)
