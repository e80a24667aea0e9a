"""Checks of exercise answers: right answers pass in any form, each typical mistake is named."""

import pytest
import torch

from dear import check
from dear.objectives.energy import energy_score


def score(x, y, *, factor=2.0, sign=-1.0, divide=None, power=1):
    m = len(x)
    pull = factor * ((x - y).norm(dim=2) ** power).mean(0)
    push = sum((x[k] - x[j]).norm(dim=1) ** power for k in range(m) for j in range(m)) / (divide or m * (m - 1))
    return pull + sign * push


WRONG = {
    "factor 2": dict(factor=1.0),
    "second term is missing": dict(sign=0.0),
    "wrong sign": dict(sign=1.0),
    "squared": dict(power=2),
    "no mistake known": dict(factor=3.0),
}


def loss(net, y, generator, **mistake):
    noise = torch.randn(2 * len(y), y.shape[1], generator=generator)
    return score(net(noise).view(2, *y.shape), y, **mistake)


def test_right_answers():
    assert check.energy_score(energy_score) == check.RIGHT
    assert check.energy_score(score) == check.RIGHT
    assert check.energy_loss(loss) == check.RIGHT

    def called_twice(net, y, generator):
        a, b = (net(torch.randn(y.shape, generator=generator)) for _ in range(2))
        return (a - y).norm(dim=1) + (b - y).norm(dim=1) - (a - b).norm(dim=1)

    assert check.energy_loss(called_twice) == check.RIGHT


@pytest.mark.parametrize(("said", "mistake"), WRONG.items())
def test_mistakes_are_told_apart(said, mistake):
    assert said in check.energy_score(lambda x, y: score(x, y, **mistake))
    assert said in check.energy_loss(lambda net, y, g: loss(net, y, g, **mistake))


def test_the_v_statistic_is_named():
    assert "V-statistic" in check.energy_score(lambda x, y: score(x, y, divide=len(x) ** 2))
    assert "V-statistic" in check.energy_loss(lambda net, y, g: loss(net, y, g, divide=4))


def test_shared_noise_is_named():
    def shared(net, y, generator):
        noise = torch.randn(y.shape, generator=generator)
        return score(torch.stack([net(noise), net(noise)]), y)

    assert "same noise" in check.energy_loss(shared)


def test_other_shapes_and_types():
    assert "shape (5,)" in check.energy_score(lambda x, y: energy_score(x, y).mean())
    assert "got float" in check.energy_score(lambda x, y: 0.0)
    assert "2 samples" in check.energy_loss(lambda net, y, g: net(torch.randn(y.shape, generator=g)).norm(dim=1))
    assert "2 samples" in check.energy_loss(lambda net, y, g: y.norm(dim=1))
