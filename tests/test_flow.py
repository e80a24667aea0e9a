"""Flow matching against the flow of a Gaussian, which is known in closed form, and against diffusers' DDIM."""

import logging
import math

import pytest
import torch
from gaussian import MEAN, STD, Affine, affine_of, draw, fit, flow_map, gen, velocity

logging.getLogger("diffusers").setLevel(logging.ERROR)
from diffusers import DDIMScheduler  # noqa: E402

from dear.objectives import Diffusion, Flow  # noqa: E402
from dear.objectives.flow import as_velocity, between, euler_step, follow, heun_step  # noqa: E402


def exact(x, cond, t):
    return velocity(x, t)


def test_the_closed_form_is_the_flow():
    # The oracle of these tests is itself checked: d flow_map / ds at s = t is the velocity, by finite differences.
    x, t = torch.randn(5, 2, generator=gen(), dtype=torch.float64), torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    slope = (flow_map(x, t, t + 1e-5) - flow_map(x, t, t - 1e-5)) / 2e-5
    torch.testing.assert_close(slope, velocity(x, t), rtol=1e-7, atol=1e-8)
    assert torch.allclose(flow_map(x, torch.ones(5).double(), torch.zeros(5).double()), MEAN + STD * x)


def test_the_ends_of_the_path():
    x, noise = torch.randn(2, 4, 3, generator=gen())
    assert torch.equal(between(x, noise, torch.zeros(4)), x) and torch.equal(between(x, noise, torch.ones(4)), noise)


def test_loss_is_zero_for_a_net_that_knows_x_and_sees_the_right_time():
    x = torch.randn(500, 4, generator=gen())
    seen = []

    def knows_x(x_t, cond, t):
        seen.append(t)
        return (x_t - cond) / t[:, None]  # cond is x: (x_t - x) / t = n - x

    rows = Flow().loss(knows_x, x, x, gen(1))
    assert rows.shape == (500,) and rows.max() < 1e-6
    assert 0 <= seen[0].min() < 0.02 and 0.98 < seen[0].max() < 1


def test_the_loss_at_the_truth_is_the_variance_that_no_net_explains():
    # E|n - x - E[n - x | x_t]|^2 = 1 + s^2 - cov^2 / var, averaged over t and D; here by a fine sum over t.
    t = (torch.arange(20_000, dtype=torch.float64) + 0.5)[:, None] / 20_000
    cov, var = t - (1 - t) * STD**2, (1 - t) ** 2 * STD**2 + t**2
    expected = (1 + STD**2 - cov**2 / var).mean().item()
    x = draw(100_000, gen())
    rows = Flow().loss(exact, x, x.new_zeros(len(x), 0), gen(1))
    assert abs(rows.mean().item() - expected) < 4 * rows.std().item() / math.sqrt(len(x))
    worse = Flow().loss(lambda *a: exact(*a) + 0.1, x, x, gen(1)) - rows
    assert abs(worse.mean().item() - 0.01) < 4 * worse.std().item() / math.sqrt(len(x))


def test_one_step_lands_on_the_mean_and_many_steps_on_the_gaussian():
    noise = torch.randn(7, 2, generator=gen(), dtype=torch.float64)
    torch.testing.assert_close(Flow().sample(exact, noise, noise, 1), MEAN.expand(7, 2), rtol=0, atol=1e-12)
    torch.testing.assert_close(Flow().sample(exact, noise, noise, 2000), MEAN + STD * noise, rtol=0, atol=5e-3)


@pytest.mark.parametrize("step, order", [(euler_step, 1), (heun_step, 2)])
def test_solvers_converge_with_their_order(step, order):
    noise = torch.ones(1, 2, dtype=torch.float64)
    errors = [(follow(velocity, noise, steps, step) - MEAN - STD).abs().max().item() for steps in (100, 200)]
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.1)


def test_euler_is_diffusers_ddim_in_other_coordinates():
    # One DDIM step of an epsilon net on the diffusion path, from index 600 to 400; then the same with as_velocity.
    def net(x, cond, t):
        return torch.tanh(x) + t[:, None]

    reference = DDIMScheduler(beta_schedule="linear", beta_start=1e-4, beta_end=0.02, clip_sample=False,
                              set_alpha_to_one=False)
    reference.set_timesteps(5)
    assert reference.timesteps[1:3].tolist() == [600, 400]
    abar = Diffusion(schedule="linear").alphas_cumprod.float()[[600, 400]]
    size, t = abar.sqrt() + (1 - abar).sqrt(), (1 - abar).sqrt() / (abar.sqrt() + (1 - abar).sqrt())
    noisy = torch.randn(6, 3, generator=gen())
    expected = reference.step(net(noisy, None, torch.full((6,), 0.6)), 600, noisy).prev_sample
    teacher = as_velocity(Diffusion(schedule="linear", prediction="epsilon"), net)
    drawn = euler_step(lambda x, t: teacher(x, None, t), noisy / size[0], t[0].expand(6), t[1].expand(6))
    torch.testing.assert_close(drawn * size[1], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_a_diffusion_net_as_a_velocity_net(prediction):
    # The best prediction of a diffusion net for the Gaussian, from the closed form, at any t in [0, 1).
    objective = Diffusion(prediction=prediction)

    def diffusion_net(noisy, cond, t):
        index = t * 1000
        low, share = index.floor().long().clamp(max=998), index - index.floor().clamp(max=998)
        levels = (1 - objective.alphas_cumprod).sqrt() / ((1 - objective.alphas_cumprod).sqrt()
                                                         + objective.alphas_cumprod.sqrt())
        linear = torch.lerp(levels[low], levels[low + 1], share)
        signal, sigma = ((part / torch.hypot(linear, 1 - linear))[:, None] for part in (1 - linear, linear))
        variance = signal**2 * STD**2 + sigma**2
        eps = sigma * (noisy - signal * MEAN) / variance
        x0 = MEAN + signal * STD**2 * (noisy - signal * MEAN) / variance
        return eps if prediction == "epsilon" else signal * eps - sigma * x0

    teacher = as_velocity(objective, diffusion_net)
    x, t = torch.randn(9, 2, generator=gen(), dtype=torch.float64), torch.linspace(0.05, 0.95, 9, dtype=torch.float64)
    torch.testing.assert_close(teacher(x, x, t), velocity(x, t), rtol=1e-9, atol=1e-9)
    noise = torch.randn(5, 2, generator=gen(1), dtype=torch.float64)
    drawn = Flow().sample(teacher, noise, noise, 500)
    torch.testing.assert_close(drawn, MEAN + STD * noise, rtol=0, atol=0.02)


def test_training_finds_the_flow_of_a_gaussian():
    net = fit(Flow(), Affine(), steps=500, rows=512)
    cond = torch.zeros(2, 0)
    scale, shift = affine_of(lambda noise: Flow().sample(net, cond, noise, 100))
    exact_scale, exact_shift = affine_of(lambda noise: Flow().sample(exact, cond, noise, 100))
    torch.testing.assert_close(scale, exact_scale, rtol=0, atol=0.08)
    torch.testing.assert_close(shift, exact_shift, rtol=0, atol=0.08)
    torch.testing.assert_close(scale, STD, rtol=0, atol=0.1)
    one_scale, one_shift = affine_of(lambda noise: Flow().sample(net, cond, noise, 1))
    # The exact scale is 0. A smooth net is slow at the steep end of the clock: a sixth of STD is left.
    assert (one_scale.abs() < STD / 3).all() and (one_shift - MEAN).abs().max() < 0.25


def test_bad_arguments():
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        Flow().sample(exact, torch.zeros(1, 0), torch.zeros(1, 2), steps=0)
