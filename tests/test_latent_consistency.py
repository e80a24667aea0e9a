"""AudioLCM's distillation against the scalings of diffusers and on a Gaussian whose teacher's jumps are known."""

import logging

import pytest
import torch
from gaussian import Table, affine_of, carried, draw, fit, gen, velocity

logging.getLogger("diffusers").setLevel(logging.ERROR)
from diffusers import LCMScheduler  # noqa: E402

from dear.objectives import LatentConsistency  # noqa: E402
from dear.objectives.flow import euler_step, follow  # noqa: E402


def teacher(x, cond, t):
    return velocity(x, t) + cond.sum(dim=-1, keepdim=True)


def solution(objective, jumps, push=lambda cond, *w: 0):
    """The net whose f is the teacher's Euler jumps, all the way to t = 0, with the scalings undone."""

    def net(x, cond, t, *w):
        reached = carried(lambda x, t: velocity(x, t) + push(cond, *w), x, t, 0 * t, jumps, euler_step)
        tau = 10 * objective.train_steps * t[:, None]
        skip, out = 0.25 / (tau**2 + 0.25), tau / (tau**2 + 0.25).sqrt()
        inner = (reached - skip * x) / out.clamp(min=1e-9)
        return (x - inner) / t.clamp(min=1e-9)[:, None]

    return net


def test_the_boundary_holds_and_the_scalings_are_those_of_diffusers():
    objective, x = LatentConsistency(teacher), torch.randn(3, 2, generator=gen(), dtype=torch.float64)
    assert torch.equal(objective.end(lambda x, c, t: 7 * x, x, x, torch.zeros(3).double()), x)
    for t in (0.02, 0.5, 1.0):
        skip, out = LCMScheduler().get_scalings_for_boundary_condition_discrete(1000 * t)
        drawn = objective.end(lambda x, c, t: -x, x, x, torch.full((3,), t, dtype=torch.float64))
        torch.testing.assert_close(drawn, (skip + out * (1 + t)) * x, rtol=1e-9, atol=0)


def test_the_loss_is_exactly_zero_at_the_solution_and_pseudo_huber_elsewhere():
    objective, x = LatentConsistency(teacher, train_steps=120, skip=20), draw(500, gen())
    net, cond = solution(objective, 6), x.new_zeros(500, 0)
    assert objective.times == 1 and objective.needs_target
    assert objective.loss(net, x, cond, gen(1), net).max() < 1e-12
    # A net off by e: f off by c_out t e, in every element; the target is right.
    seen = []

    def off(x, c, t):
        seen.append(t)
        return net(x, c, t) + 2

    rows = objective.loss(off, x, cond, gen(1), net)
    error = (2 * seen[0] * (1200 * seen[0]) / ((1200 * seen[0]) ** 2 + 0.25).sqrt()).abs()
    torch.testing.assert_close(rows, (error**2 + 1e-6).sqrt() - 1e-3, rtol=1e-6, atol=1e-9)
    assert sorted((6 * seen[0]).round().unique().tolist()) == [1, 2, 3, 4, 5, 6]


def test_the_guidance_weight_is_an_input_and_moves_the_teacher():
    x, cond = draw(500, gen()), torch.randn(500, 4, generator=gen(2)).double()

    def push(cond, w):
        return uncond + w[:, None] * (cond.sum(dim=-1, keepdim=True) - uncond)

    uncond = cond[:, 2:].sum(dim=-1, keepdim=True)
    objective, seen = LatentConsistency(teacher, guidance=(5, 13), train_steps=6, skip=1), []

    def net(x, cond, t, w):
        seen.append((w, cond.shape))
        return solution(objective, 6, push)(x, cond, t, w)

    assert objective.times == 2
    assert objective.loss(net, x, cond, gen(1), net).max() < 1e-12
    w, shape = seen[0]
    assert shape == (500, 2) and 5 <= w.min() < 5.1 and 12.9 < w.max() < 13
    objective.sample(net, cond[:, :2], x)
    assert (seen[-1][0] == 9).all()


def test_no_gradient_reaches_target_or_teacher():
    net, target, frozen = Table(6), Table(6), Table(6)
    torch.nn.init.ones_(target.scale)
    x = draw(64, gen())
    LatentConsistency(frozen, train_steps=12, skip=2).loss(net, x, x, gen(), target).mean().backward()
    assert net.scale.grad.abs().sum() > 0 and target.scale.grad is None and frozen.scale.grad is None


def test_training_learns_the_teachers_jumps_in_one_step():
    objective = LatentConsistency(teacher, train_steps=12, skip=2)
    net = fit(objective, Table(6), steps=700, rate=0.05)
    scale, shift = affine_of(lambda noise: objective.sample(net, noise, noise))
    wanted = affine_of(lambda noise: follow(velocity, noise, 6))
    torch.testing.assert_close(scale, wanted[0], rtol=0, atol=0.05)
    torch.testing.assert_close(shift, wanted[1], rtol=0, atol=0.05)


def test_two_steps_renoise_to_the_middle():
    times = []

    def net(x, cond, t):
        times.append(t[0].item())
        return x

    x = torch.ones(3, 2)
    first, second = (LatentConsistency(teacher).sample(net, x, x, 2, gen(seed)) for seed in (0, 1))
    assert times == [1, 0.5, 1, 0.5] and not torch.equal(first, second)


def test_bad_arguments():
    x = torch.zeros(2, 2)
    for skip in (0, 7):
        with pytest.raises(ValueError, match="skip must divide train_steps"):
            LatentConsistency(teacher, skip=skip)
    with pytest.raises(ValueError, match="huber must be > 0"):
        LatentConsistency(teacher, huber=0.0)
    with pytest.raises(ValueError, match="LatentConsistency learns from target"):
        LatentConsistency(teacher).loss(teacher, x, x, gen())
