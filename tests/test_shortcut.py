"""Shortcut models on a Gaussian: the exact shortcuts of its flow are affine, and fit into a table."""

import math

import pytest
import torch
from gaussian import MEAN, Table, affine_of, draw, fit, gen, velocity

from dear.objectives import Flow, Shortcut


def truth(x, cond, t, d, finest=8):
    """What a perfect learner ends with: the velocity at d = 1/finest, means of two half steps above."""
    size = d[0].item()
    assert (d == size).all()
    if size <= 1 / finest:
        return velocity(x, t)
    first = truth(x, cond, t, d / 2, finest)
    return (first + truth(x - d[:, None] / 2 * first, cond, t - d / 2, d / 2, finest)) / 2


def by_size(x, cond, t, d):
    """truth for a batch of mixed step sizes."""
    out = torch.empty_like(x)
    for size in d.unique():
        here = d == size
        out[here] = truth(x[here], cond[here], t[here], d[here])
    return out


def test_self_consistency_is_exactly_zero_at_the_truth_and_only_there():
    x, objective = draw(512, gen()), Shortcut(finest=8, share=1.0)
    assert objective.loss(by_size, x, x, gen(1), by_size).max() < 1e-24
    # A constant error in the half steps is a constant error of the target, an error that grows with d is not.
    assert objective.loss(lambda *a: by_size(*a) + 1, x, x, gen(1), by_size).min() > 0.99
    drifting = [lambda x, c, t, d, k=k: by_size(x, c, t, d) + k * d[:, None] for k in (0, 1)]
    assert objective.loss(drifting[1], x, x, gen(1), drifting[1]).min() > 1e-4


def test_the_rows_of_flow_matching_see_the_finest_step_and_the_velocity_of_their_own_line():
    x, seen = torch.randn(400, 3, generator=gen()), []

    def knows_x(x_t, cond, t, d):
        seen.append((t, d))
        return (x_t - cond) / t[:, None]  # cond is x: n - x

    assert Shortcut(finest=8, share=0.0).loss(knows_x, x, x, gen(1), knows_x).max() < 1e-8
    (t, d), = seen
    assert (d == 1 / 8).all() and sorted((8 * t).unique().tolist()) == list(range(1, 9))


def test_the_other_rows_see_every_larger_step_at_its_multiples_and_the_target_takes_its_halves():
    seen, taught = [], []

    def net(x_t, cond, t, d):
        seen.append((t, d))
        return x_t

    def target(x_t, cond, t, d):
        taught.append((t, d))
        return x_t

    x = torch.zeros(4000, 1)
    Shortcut(finest=8, share=0.25).loss(net, x, x, gen(), target)
    t, d = seen[0]
    assert (d[1000:] == 1 / 8).all() and len(seen) == 1
    t, d = t[:1000], d[:1000]
    for size in (0.25, 0.5, 1.0):
        assert (d == size).sum().item() == pytest.approx(1000 / 3, abs=75)  # five standard deviations
        assert set(t[d == size].tolist()) == {size * k for k in range(1, round(1 / size) + 1)}
    (t1, d1), (t2, d2) = taught
    assert torch.equal(t1, t) and torch.equal(t2, t - d / 2) and torch.equal(d1, d / 2) and torch.equal(d2, d / 2)


def test_no_gradient_reaches_the_target():
    net = Table(4, times=2)
    x = draw(64, gen())
    target = Table(4, times=2)
    Shortcut(finest=4).loss(net, x, x, gen(), target).mean().backward()
    assert net.scale.grad.abs().sum() > 0 and target.scale.grad is None


def test_sampling_the_truth_in_any_number_of_steps_is_the_fine_euler_flow():
    noise = torch.randn(5, 2, generator=gen(), dtype=torch.float64)
    expected = Flow().sample(lambda x, cond, t: velocity(x, t), noise, noise, 8)
    for steps in (1, 2, 4, 8):
        torch.testing.assert_close(Shortcut(finest=8).sample(truth, noise, noise, steps), expected)


def test_training_finds_the_one_step_map_of_the_fine_euler_flow():
    objective = Shortcut(finest=4, share=0.5)
    net = fit(objective, Table(4, times=2), steps=600, rate=0.05)
    exact = affine_of(lambda noise: Flow().sample(lambda x, cond, t: velocity(x, t), noise, noise, 4))
    for steps in (1, 4):
        scale, shift = affine_of(lambda noise, k=steps: objective.sample(net, noise, noise, k))
        torch.testing.assert_close(scale, exact[0], rtol=0, atol=0.12)
        torch.testing.assert_close(shift, exact[1], rtol=0, atol=0.12)
    # One step of flow matching would land on the mean, with scale 0; these four steps keep most of the spread.
    assert scale[0] > 0.9 and math.isclose(MEAN[0].item(), shift[0].item(), abs_tol=0.12)


def test_bad_arguments():
    for finest in (0, 1, 12):
        with pytest.raises(ValueError, match="finest must be a power of two"):
            Shortcut(finest=finest)
    with pytest.raises(ValueError, match="share must lie in"):
        Shortcut(share=1.5)
    x = torch.zeros(1, 2)
    with pytest.raises(ValueError, match="moving average"):
        Shortcut().loss(by_size, x, x, gen())
    for steps in (0, 3, 256):
        with pytest.raises(ValueError, match="steps must be a power of two in 1..128"):
            Shortcut().sample(truth, x, x, steps)
