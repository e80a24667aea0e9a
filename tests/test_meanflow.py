"""MeanFlow against finite differences, and on a Gaussian whose mean velocities are known in closed form."""

import math

import pytest
import torch
from gaussian import MEAN, STD, Affine, affine_of, draw, fit, flow_map, gen, velocity

from dear.objectives import MeanFlow
from dear.objectives.meanflow import mean_velocity


def truth(z, cond, t, r):
    """(z_t - z_r) / (t - r), and the velocity where r = t."""
    apart = (t > r)[:, None]
    return torch.where(apart, (z - flow_map(z, t, r)) / torch.where(apart, (t - r)[:, None], 1), velocity(z, t))


def random_rows(rows):
    z, v = torch.randn(2, rows, 2, generator=gen(), dtype=torch.float64)
    t, share = torch.rand(2, rows, generator=gen(1), dtype=torch.float64)
    return z, z.new_zeros(rows, 0), 0.1 + 0.9 * t, (0.1 + 0.9 * t) * share, v


def test_the_derivative_equals_finite_differences():
    net = Affine(times=2)
    z, cond, t, r, v = random_rows(50)
    wanted = mean_velocity(net, z, cond, t, r, v)
    assert not wanted.requires_grad
    with torch.no_grad():
        e = 1e-5
        slope = (net(z + e * v, cond, t + e, r) - net(z - e * v, cond, t - e, r)) / (2 * e)
    torch.testing.assert_close(wanted, v - (t - r)[:, None] * slope, rtol=0, atol=1e-8)


def test_the_truth_satisfies_the_identity_exactly():
    # With the marginal velocity the right side is the mean velocity itself: equation 6 of the paper.
    z, cond, t, r, _ = random_rows(200)
    torch.testing.assert_close(mean_velocity(truth, z, cond, t, r, velocity(z, t)), truth(z, cond, t, r),
                               rtol=0, atol=1e-10)
    wrong = mean_velocity(lambda z, c, t, r: truth(z, c, t, r) + t[:, None], z, cond, t, r, velocity(z, t))
    assert (wrong - truth(z, cond, t, r) - t[:, None]).abs().min() > 0.01


def test_the_loss_of_the_truth_cannot_be_lowered():
    # d E|u + e f - target|^2 / de = 2 E[f (u - target)] is 0 for every f of z, t, r: the loss's noise has mean 0.
    x = draw(200_000, gen())
    objective, cond = MeanFlow(share=0.5, power=0.0, sampling="uniform"), x.new_zeros(len(x), 0)
    held = truth
    for name, f in {"constant": lambda z, t, r: 1 + 0 * z, "z": lambda z, t, r: z, "t - r": lambda z, t, r:
                    (t - r)[:, None] + 0 * z, "z (t - r)": lambda z, t, r: (t - r)[:, None] * z}.items():
        def net(z, cond, t, r, f=f, e=0.0):
            return held(z, cond, t, r) + e * f(z, t, r)

        def moved(e, net=net):
            # The prediction moves, the target stays at the truth, as the gradient of the loss has it.
            calls = iter((0.0, e))
            return objective.loss(lambda *a: net(*a, e=next(calls)), x, cond, gen(1))

        slope = (moved(0.5) - moved(-0.5)).double()
        assert abs(slope.mean().item()) < 4 * slope.std().item() / math.sqrt(len(x)), name


def test_times_as_published():
    x = torch.zeros(40_000, 1, dtype=torch.float64)
    t, r = MeanFlow(share=0.25).draw_times(x, gen())
    assert (r[:10_000] < t[:10_000]).all() and torch.equal(r[10_000:], t[10_000:])
    # logit of the larger of two N(-0.4, 1) has the mean -0.4 + 1/sqrt(pi), that of the smaller -0.4 - 1/sqrt(pi).
    assert torch.logit(t).mean().item() == pytest.approx(-0.4 + 1 / math.sqrt(math.pi), abs=0.02)
    assert torch.logit(r[:10_000]).mean().item() == pytest.approx(-0.4 - 1 / math.sqrt(math.pi), abs=0.04)
    t, r = MeanFlow(share=1.0, sampling="uniform").draw_times(x, gen())
    assert t.mean().item() == pytest.approx(2 / 3, abs=0.01) and r.mean().item() == pytest.approx(1 / 3, abs=0.01)


def test_the_adaptive_weight_scales_the_gradient_and_not_its_direction():
    net, x = Affine(times=2), draw(1, gen())

    def loss_and_gradient(power):
        net.zero_grad()
        loss = MeanFlow(share=0.0, power=power, c=0.01).loss(net, x, x, gen(1))
        loss.sum().backward()
        return loss.item(), torch.cat([p.grad.flatten() for p in net.parameters()])

    plain, gradient = loss_and_gradient(0.0)
    for power in (0.5, 1.0):
        weight = (plain + 0.01) ** -power
        weighted, scaled = loss_and_gradient(power)
        assert weighted == pytest.approx(weight * plain)
        torch.testing.assert_close(scaled, weight * gradient)


def test_the_loss_of_a_known_error_is_its_square_over_d_by_its_own_size():
    # cond is x, so the net knows n - x and is off by exactly (3, 4): |error|^2 = 25 is the sum over D, as published.
    x = torch.randn(50, 2, generator=gen(), dtype=torch.float64)

    def net(z, cond, t, r):
        return (z - cond) / t[:, None] + torch.tensor([3.0, 4.0], dtype=torch.float64)

    for power, c in ((0.0, 0.01), (0.5, 11.0), (1.0, 0.01), (1.0, 75.0)):
        rows = MeanFlow(share=0.0, power=power, c=c).loss(net, x, x, gen(1))
        torch.testing.assert_close(rows, x.new_full((50,), 25 / (25 + c) ** power))


def test_sampling_the_truth_gives_the_gaussian_in_any_number_of_steps():
    noise = torch.randn(5, 2, generator=gen(), dtype=torch.float64)
    for steps in (1, 2, 7):
        torch.testing.assert_close(MeanFlow().sample(truth, noise, noise, steps), MEAN + STD * noise)


def test_training_draws_the_gaussian_in_one_step():
    objective = MeanFlow(share=0.5, power=0.5, sampling="uniform")
    net = fit(objective, Affine(times=2), steps=600, rows=256)
    scale, shift = affine_of(lambda noise: objective.sample(net, noise, noise))
    torch.testing.assert_close(scale, STD, rtol=0, atol=0.2)
    torch.testing.assert_close(shift, MEAN, rtol=0, atol=0.15)


def test_bad_arguments():
    with pytest.raises(ValueError, match="share must lie in"):
        MeanFlow(share=-0.1)
    with pytest.raises(ValueError, match="power must be >= 0 and c > 0"):
        MeanFlow(c=0.0)
    with pytest.raises(ValueError, match="sampling must be 'lognormal' or 'uniform', got 'beta'"):
        MeanFlow(sampling="beta")
    with pytest.raises(ValueError, match="steps must be at least 1"):
        MeanFlow().sample(truth, torch.zeros(1, 0), torch.zeros(1, 2), steps=0)
