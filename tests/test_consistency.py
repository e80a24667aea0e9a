"""Consistency distillation and training on a Gaussian: with affine nets the exact solutions are solvers' steps."""

import math

import pytest
import torch
from gaussian import MEAN, STD, Table, affine_of, carried, draw, fit, gen, velocity

from dear.objectives import ConsistencyDistillation, ConsistencyTraining
from dear.objectives.consistency import draw_interval, end
from dear.objectives.flow import euler_step, follow, heun_step


def teacher(x, cond, t):
    """The Gaussian's flow, pushed by the condition: guidance moves the push, and is easily known."""
    return velocity(x, t) + cond.sum(dim=-1, keepdim=True)


def solution(n, step, push=lambda cond, *w: 0):
    """The net whose f is the teacher's solver, all the way to t = 0."""

    def net(x, cond, t, *w):
        reached = carried(lambda x, t: velocity(x, t) + push(cond, *w), x, t, 0 * t, n, step)
        return (x - reached) / t.clamp(min=0.5 / n)[:, None]

    return net


def test_the_boundary_holds_for_any_net():
    x = torch.randn(4, 2, generator=gen())
    assert torch.equal(end(lambda *a: torch.randn(4, 2, generator=gen(1)), x, x, torch.zeros(4)), x)


@pytest.mark.parametrize("step", [euler_step, heun_step])
def test_the_loss_is_exactly_zero_at_the_solution_and_only_there(step):
    objective, x = ConsistencyDistillation(teacher, intervals=6, step=step), draw(500, gen())
    net, cond = solution(6, step), x.new_zeros(500, 0)
    assert objective.times == 1 and objective.needs_target
    assert objective.loss(net, x, cond, gen(1), net).max() < 1e-24
    drifting = lambda x, c, t: net(x, c, t) + 1  # noqa: E731
    # f is off by t, its target by t - 1/6.
    torch.testing.assert_close(objective.loss(drifting, x, cond, gen(1), drifting), x.new_full((500,), 1 / 36))


def test_guidance_is_drawn_for_each_row_and_reaches_teacher_and_student():
    x, cond, null = draw(500, gen()), torch.randn(500, 3, generator=gen(2)).double(), torch.ones(3).double()

    def push(cond, w):
        return null.sum() + w[:, None] * (cond.sum(dim=-1, keepdim=True) - null.sum())

    seen = []

    def net(x, cond, t, w):
        seen.append(w)
        return solution(6, heun_step, push)(x, cond, t, w)

    objective = ConsistencyDistillation(teacher, guidance=(0, 6), null_cond=null, intervals=6)
    assert objective.times == 2
    assert objective.loss(net, x, cond, gen(1), net).max() < 1e-20
    assert torch.equal(seen[0], seen[1]) and 0 <= seen[0].min() < 0.1 and 5.9 < seen[0].max() < 6

    # The same with [conditional, unconditional] side by side: the student sees the conditional half.
    halves = torch.cat([cond, null.expand(500, 3)], dim=-1)
    beside = ConsistencyDistillation(teacher, guidance=(0, 6), intervals=6)
    assert beside.loss(net, x, halves, gen(1), net).max() < 1e-20
    for scale, expected in ((None, 3.0), (4.5, 4.5)):
        seen.clear()
        ConsistencyDistillation(teacher, (0, 6), null, scale, 6).sample(net, cond, x)
        assert (seen[0] == expected).all()


def test_times_are_the_whole_grid():
    t, s = draw_interval(torch.zeros(1000, 1, dtype=torch.float64), gen(), 5)
    assert sorted((5 * t).round().unique().tolist()) == [1, 2, 3, 4, 5]
    torch.testing.assert_close(t - s, torch.full((1000,), 0.2).double())


def test_no_gradient_reaches_target_or_teacher():
    net, target, frozen = Table(4), Table(4), Table(4)
    torch.nn.init.ones_(target.scale)
    x = draw(64, gen())
    ConsistencyDistillation(frozen, intervals=4).loss(net, x, x, gen(), target).mean().backward()
    assert net.scale.grad.abs().sum() > 0 and target.scale.grad is None and frozen.scale.grad is None


def test_distillation_learns_the_teachers_solver_in_one_step():
    objective = ConsistencyDistillation(teacher, intervals=6)
    net = fit(objective, Table(6), steps=500, rate=0.05)
    scale, shift = affine_of(lambda noise: objective.sample(net, noise, noise))
    wanted = affine_of(lambda noise: follow(velocity, noise, 6, heun_step))
    torch.testing.assert_close(scale, wanted[0], rtol=0, atol=0.02)
    torch.testing.assert_close(shift, wanted[1], rtol=0, atol=0.02)
    assert ((scale - STD).abs() < 0.1).all()


def test_training_without_a_teacher_learns_eulers_flow_and_its_loss_is_flat_there():
    net, wanted = fit(ConsistencyTraining(8), Table(8), 600, 0.05), affine_of(lambda z: follow(velocity, z, 8))
    scale, shift = affine_of(lambda noise: ConsistencyTraining(8).sample(net, noise, noise))
    torch.testing.assert_close(scale, wanted[0], rtol=0, atol=0.1)
    torch.testing.assert_close(shift, wanted[1], rtol=0, atol=0.1)
    # At the exact solution the gradient is 0 on average: d loss / d(scale of f) by a z-score, at each time of the grid.
    x, solved = draw(100_000, gen()), solution(8, euler_step)
    for tilt in (lambda x: 1 + 0 * x, lambda x: x):
        moved = []
        for e in (0.5, -0.5):
            calls = iter((0.0, e))  # the target is asked first
            moved.append(ConsistencyTraining(8).loss(
                lambda x, c, t, calls=calls, f=tilt: solved(x, c, t) + next(calls) * f(x), x, x, gen(1)))
        slope = moved[0] - moved[1]
        assert abs(slope.mean().item()) < 4 * slope.std().item() / math.sqrt(len(x))


def test_huber_is_quadratic_near_zero_and_a_distance_far_away():
    x = torch.zeros(100, 4, dtype=torch.float64)
    for size in (1e-3, 1e3):
        calls = iter((0.0, size))
        plain = ConsistencyTraining(1).loss(lambda *a, c=calls: x + next(c), x, x, gen())
        calls = iter((0.0, size))
        rows = ConsistencyTraining(1, huber=0.1).loss(lambda *a, c=calls: x + next(c), x, x, gen())
        # With one interval t = 1 and s = 0: the error is that of the net, plus the noise between the two points.
        squares = 4 * plain
        torch.testing.assert_close(rows, (squares + 0.01).sqrt() - 0.1)


def test_sampling_in_several_steps_jumps_and_renoises():
    noise = torch.randn(100_000, 2, generator=gen(), dtype=torch.float64)
    times = []

    def net(x, cond, t):
        times.append(t[0].item())
        return (x - MEAN - STD * (x - (1 - t)[:, None] * MEAN) / torch.hypot((1 - t)[:, None] * STD, t[:, None])
                ) / t[:, None]

    objective = ConsistencyTraining()
    torch.testing.assert_close(objective.sample(net, noise, noise), MEAN + STD * noise)
    drawn = objective.sample(net, noise, noise, 4, gen(1))
    assert times == [1, 1, 0.75, 0.5, 0.25]
    # A perfect f draws the Gaussian again after every renoising; standard errors are 0.005 and 0.003.
    torch.testing.assert_close(drawn.mean(dim=0), MEAN, rtol=0, atol=0.02)
    torch.testing.assert_close(drawn.std(dim=0), STD, rtol=0, atol=0.015)
    assert torch.equal(drawn, objective.sample(net, noise, noise, 4, gen(1)))
    assert not torch.equal(drawn, objective.sample(net, noise, noise, 4, gen(2)))


def test_bad_arguments():
    x = torch.zeros(2, 2)
    for build in (lambda n: ConsistencyDistillation(teacher, intervals=n), ConsistencyTraining):
        with pytest.raises(ValueError, match="intervals must be at least 1, got 0"):
            build(0)
    with pytest.raises(ValueError, match="huber must be > 0"):
        ConsistencyTraining(huber=0.0)
    with pytest.raises(ValueError, match="guidance must be .low, high."):
        ConsistencyDistillation(teacher, guidance=(3, 1))
    with pytest.raises(ValueError, match="do nothing without guidance"):
        ConsistencyDistillation(teacher, null_cond=x[0])
    with pytest.raises(ValueError, match="ConsistencyDistillation learns from target"):
        ConsistencyDistillation(teacher).loss(teacher, x, x, gen())
    for width in (0, 3):
        with pytest.raises(ValueError, match="guidance wants cond .B, 2C."):
            ConsistencyDistillation(teacher, (0, 6)).loss(teacher, x, torch.zeros(2, width), gen(), teacher)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        ConsistencyTraining().sample(teacher, x, x, steps=0)
