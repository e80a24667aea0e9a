"""Consistency trajectories on a Gaussian: with affine nets the exact jumps are the teacher's solver's."""

import pytest
import torch
from gaussian import Table, affine_of, carried, draw, fit, gen, velocity

from dear.objectives import Trajectory
from dear.objectives.flow import follow, heun_step, jump


def teacher(x, cond, t):
    return velocity(x, t) + cond.sum(dim=-1, keepdim=True)


def solution(n, push=lambda cond, *w: 0):
    """The net whose jumps are the teacher's Heun steps of 1/n, and which is the velocity where s = t."""

    def net(x, cond, t, s, *w):
        reached = carried(lambda x, t: velocity(x, t) + push(cond, *w), x, t, s, n, heun_step)
        apart = (t > s)[:, None]
        return torch.where(apart, (x - reached) / torch.where(apart, (t - s)[:, None], 1), velocity(x, t))

    return net


def test_a_jump_of_no_length_stays_for_any_net():
    x, t = torch.randn(4, 2, generator=gen()), torch.rand(4, generator=gen(1))
    assert torch.equal(jump(lambda *a: torch.randn(4, 2, generator=gen(2)), x, x, t, t), x)


def test_the_loss_is_exactly_zero_at_the_solution_and_only_there():
    objective, x = Trajectory(teacher, intervals=6, most=4, denoising=0.0), draw(500, gen())
    net, cond = solution(6), x.new_zeros(500, 0)
    assert objective.times == 2 and objective.needs_target
    for seed in range(4):  # the number of solver steps is drawn once a batch
        assert objective.loss(net, x, cond, gen(seed), net).max() < 1e-24

    def drifting(x, cond, t, s):
        return net(x, cond, t, s) + 1

    # The jump is off by t - s, its target by u - s: a difference of at least one step of 1/6.
    assert objective.loss(drifting, x, cond, gen(1), drifting).min() > 0.99 / 36


def test_times_are_ordered_on_the_grid_and_the_target_starts_where_the_teacher_stopped():
    seen, taught, counts = [], [], set()

    def net(x, cond, t, s):
        seen.append((t, s))
        return x

    def target(x, cond, t, s):
        taught.append((t, s))
        return x

    x = torch.zeros(2000, 2, dtype=torch.float64)
    for seed in range(12):
        seen.clear(), taught.clear()
        Trajectory(teacher, intervals=6, most=3, denoising=0.0).loss(net, x, x[:, :0], gen(seed), target)
        ((t, s),), ((u, same),) = seen, taught
        t, s, u = ((6 * part).round() for part in (t, s, u))
        assert torch.equal(seen[0][1], same) and (s < t).all() and (s <= u).all() and (u < t).all()
        count = int((t - u).max())
        assert torch.equal(u, torch.maximum(t - count, s))
        counts.add(count)
        assert set(t.tolist()) == {1, 2, 3, 4, 5, 6} and set(s[t == 3].tolist()) == {0, 1, 2}
    assert counts == {1, 2, 3}


def test_guidance_reaches_teacher_and_student():
    x, cond, null = draw(300, gen()), torch.randn(300, 3, generator=gen(2)).double(), torch.ones(3).double()

    def push(cond, w):
        return null.sum() + w[:, None] * (cond.sum(dim=-1, keepdim=True) - null.sum())

    net = solution(6, push)
    objective = Trajectory(teacher, (2, 5), null, intervals=6, most=2, denoising=0.0)
    assert objective.times == 3 and objective.loss(net, x, cond, gen(1), net).max() < 1e-20
    seen = []
    objective.sample(lambda *a: seen.append(a[-1]) or net(*a), cond, x)
    assert (seen[0] == 3.5).all()


def test_the_denoising_loss_is_flow_matching_at_s_equal_t():
    x, seen = draw(400, gen()), []

    def net(x_t, cond, t, s):
        seen.append((x_t, t, s))
        return solution(18)(x_t, cond, t, s)

    objective = Trajectory(lambda x, cond, t: velocity(x, t), denoising=3.0)
    rows = objective.loss(net, x, x, gen(1), solution(18))  # the jumps' part is 0
    x_t, t, s = seen[-1]
    assert len(seen) == 2 and torch.equal(t, s) and t.unique().numel() == 400
    # The noise of the line is (x_t - x) / t + x.
    torch.testing.assert_close(rows, 3 * (velocity(x_t, t) - (x_t - x) / t[:, None]).square().mean(dim=-1))


def test_the_denoising_loss_sees_the_guidance_weight_and_the_conditional_half():
    x, cond, seen = draw(300, gen()), torch.randn(300, 4, generator=gen(2)).double(), []

    def net(x_t, cond, t, s, w):
        seen.append((cond, t, s, w))
        return x_t

    Trajectory(teacher, (2, 5), denoising=1.0).loss(net, x, cond, gen(1), net)
    _, jumped, denoised = seen  # the target, the jump, the denoising loss
    assert torch.equal(denoised[1], denoised[2])  # t = s
    for given in (jumped, denoised):
        assert torch.equal(given[0], cond[:, :2]) and torch.equal(given[3], jumped[3])
    assert 2 <= jumped[3].min() < 2.1 and 4.9 < jumped[3].max() < 5


def test_ends_may_be_compared_in_features():
    x, net = draw(300, gen()), Table(18, times=2)

    def loss(features):
        return Trajectory(teacher, denoising=0.0, features=features).loss(net, x, x[:, :0], gen(1), solution(18))

    torch.testing.assert_close(loss(lambda x, cond, s: 3 * x), 9 * loss(None))
    assert (loss(lambda x, cond, s: 0 * x) == 0).all()


def test_features_are_of_the_end_at_s_and_take_no_gradient_from_the_target():
    x, cond, at, seen = draw(300, gen()), torch.randn(300, 4, generator=gen(2)).double(), [], []

    def net(x_t, cond, t, s, w):
        at.append(s)
        return x_t

    def features(end, cond, s):
        seen.append((cond, s, torch.is_grad_enabled()))
        return end

    Trajectory(teacher, (2, 5), denoising=0.0, features=features).loss(net, x, cond, gen(1), net)
    assert len(seen) == 2 and [grad for *_, grad in seen] == [False, True]
    for given, s, _ in seen:
        assert torch.equal(given, cond[:, :2]) and torch.equal(s, at[0])


def test_no_gradient_reaches_target_or_teacher():
    net, target, frozen = Table(4, times=2), Table(4, times=2), Table(4)
    torch.nn.init.ones_(target.scale)
    x = draw(64, gen())
    Trajectory(frozen, intervals=4, most=2).loss(net, x, x, gen(), target).mean().backward()
    assert net.scale.grad.abs().sum() > 0 and target.scale.grad is None and frozen.scale.grad is None


def test_training_learns_one_step_and_many():
    objective = Trajectory(teacher, intervals=4, most=3, denoising=0.0)
    net = fit(objective, Table(4, times=2), steps=500, rate=0.05)
    wanted = affine_of(lambda noise: follow(velocity, noise, 4, heun_step))
    for steps in (1, 2, 4):
        scale, shift = affine_of(lambda noise, k=steps: objective.sample(net, noise, noise, k))
        torch.testing.assert_close(scale, wanted[0], rtol=0, atol=0.03)
        torch.testing.assert_close(shift, wanted[1], rtol=0, atol=0.03)


def test_bad_arguments():
    x = torch.zeros(2, 2)
    for most in (0, 19):
        with pytest.raises(ValueError, match="most must lie in 1..intervals"):
            Trajectory(teacher, most=most)
    with pytest.raises(ValueError, match="denoising must be >= 0"):
        Trajectory(teacher, denoising=-1.0)
    with pytest.raises(ValueError, match="Trajectory learns from target"):
        Trajectory(teacher).loss(teacher, x, x, gen())
    with pytest.raises(ValueError, match="steps must be at least 1"):
        Trajectory(teacher).sample(teacher, x, x, steps=0)
