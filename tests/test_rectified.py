"""Regression on a teacher's pairs: for a Gaussian the exact student is the teacher in one step."""

import pytest
import torch
from gaussian import MEAN, STD, Affine, affine_of, draw, fit, gen, velocity

from dear.objectives import Rectified
from dear.objectives.flow import follow


def teacher(x, cond, t):
    return velocity(x, t) + cond.sum(dim=-1, keepdim=True)


def rectified(x, cond, t, scale=STD, shift=MEAN):
    """n - x(n) for x(n) = shift + scale n, read off x_t = (1 - t) x(n) + t n."""
    t = t[:, None]
    noise = (x - (1 - t) * shift) / ((1 - t) * scale + t)
    return noise - (shift + scale * noise)


def test_the_loss_is_exactly_zero_at_the_truth_and_one_step_is_the_teacher():
    scale, shift = affine_of(lambda noise: follow(velocity, noise, 25))
    objective, x = Rectified(teacher), draw(500, gen())

    def net(x, cond, t):
        return rectified(x, cond, t, scale, shift)

    assert objective.times == 1 and not objective.needs_target
    assert objective.loss(net, x, x[:, :0], gen(1)).max() < 1e-24
    assert objective.loss(lambda *a: net(*a) + 1, x, x[:, :0], gen(1)).min() > 0.99
    for steps in (1, 3):
        torch.testing.assert_close(objective.sample(net, x, x, steps), follow(velocity, x, 25))


def test_pairs_made_before_give_the_loss_of_pairs_made_anew():
    objective, x = Rectified(teacher), draw(300, gen())
    generator = gen(1)
    pairs = objective.pairs(x, x[:, :0], generator)
    assert pairs.shape == (300, 4)
    torch.testing.assert_close(pairs[:, :2], follow(velocity, pairs[:, 2:], 25))
    given = Rectified().loss(teacher, pairs, x[:, :0], generator)
    torch.testing.assert_close(given, objective.loss(teacher, x, x[:, :0], gen(1)))


def test_guidance_is_the_teachers_and_the_student_sees_the_conditional_half():
    x, cond = draw(200, gen()), torch.randn(200, 4, generator=gen(2)).double()
    with_cond, without = cond[:, :2].sum(dim=-1, keepdim=True), cond[:, 2:].sum(dim=-1, keepdim=True)
    push = without + 3 * (with_cond - without)
    seen = []
    objective = Rectified(teacher, guidance_scale=3.0)
    pairs = objective.pairs(x, cond, gen(1))
    torch.testing.assert_close(pairs[:, :2], follow(lambda x, t: velocity(x, t) + push, pairs[:, 2:], 25))
    objective.loss(lambda x, c, t: seen.append(c) or x, x, cond, gen(1))
    assert torch.equal(seen[0], cond[:, :2])
    null = Rectified(teacher, 3.0, null_cond=torch.zeros(2)).pairs(x, cond[:, :2], gen(1))
    torch.testing.assert_close(null[:, :2], follow(lambda x, t: velocity(x, t) + 3 * with_cond, null[:, 2:], 25))


def test_times_are_uniform():
    x, seen = torch.zeros(40_000, 4), []  # pairs, of which nothing matters here
    Rectified().loss(lambda x, c, t: seen.append(t) or x, x, x[:, :0], gen())
    # Means of t and t^2; standard errors are 0.0014 and 0.0015.
    assert seen[0].mean().item() == pytest.approx(1 / 2, abs=0.008)
    assert seen[0].square().mean().item() == pytest.approx(1 / 3, abs=0.008)


def test_no_gradient_reaches_the_teacher():
    frozen, net = Affine(), Affine()
    x = draw(32, gen())
    Rectified(frozen, teacher_steps=2).loss(net, x, x, gen()).mean().backward()
    assert all(p.grad is None for p in frozen.parameters()) and next(net.parameters()).grad is not None


def test_training_draws_the_gaussian_in_one_step():
    objective = Rectified(teacher, teacher_steps=20)
    wanted = affine_of(lambda noise: follow(velocity, noise, 20))
    net = fit(objective, Affine(), steps=250, rows=128)
    scale, shift = affine_of(lambda noise: objective.sample(net, noise, noise))
    torch.testing.assert_close(scale, wanted[0], rtol=0, atol=0.1)
    torch.testing.assert_close(shift, wanted[1], rtol=0, atol=0.1)
    assert ((scale - STD).abs() < 0.25).all()  # unpaired flow matching would leave 0


def test_bad_arguments():
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="x must be pairs"):
        Rectified().loss(teacher, x, x, gen())
    with pytest.raises(ValueError, match="pairs are made by a teacher"):
        Rectified().pairs(x, x, gen())
    with pytest.raises(ValueError, match="without a teacher the pairs are given"):
        Rectified(guidance_scale=2.0)
    with pytest.raises(ValueError, match="null_cond does nothing with guidance_scale=1"):
        Rectified(teacher, null_cond=x[0])
    with pytest.raises(ValueError, match="teacher_steps must be at least 1"):
        Rectified(teacher, teacher_steps=0)
    with pytest.raises(ValueError, match="guidance wants cond"):
        Rectified(teacher, 2.0).loss(teacher, x, torch.zeros(2, 0), gen())
