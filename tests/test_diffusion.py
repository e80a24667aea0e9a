"""The diffusion objective against diffusers, and against a Gaussian whose exact noise prediction is known."""

import logging

import pytest
import torch

logging.getLogger("diffusers").setLevel(logging.ERROR)
from diffusers import DDPMScheduler  # noqa: E402

from dear.objectives import Diffusion  # noqa: E402
from dear.objectives.diffusion import respaced  # noqa: E402


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def scheduler(schedule="squaredcos_cap_v2", clip=None, prediction="epsilon"):
    return DDPMScheduler(
        beta_schedule=schedule, beta_start=1e-4, beta_end=0.02, variance_type="fixed_small",
        clip_sample=clip is not None, clip_sample_range=clip or 1.0, timestep_spacing="linspace",
        prediction_type={"epsilon": "epsilon", "v": "v_prediction"}[prediction],
    )


@pytest.mark.parametrize("ours, theirs", [("cosine", "squaredcos_cap_v2"), ("linear", "linear")])
def test_schedule_equals_diffusers(ours, theirs):
    # diffusers computes in float32: the relative error of its product of 1000 factors is about 1e-5.
    torch.testing.assert_close(
        Diffusion(schedule=ours).alphas_cumprod.float(), scheduler(theirs).alphas_cumprod, rtol=1e-4, atol=1e-9
    )


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
@pytest.mark.parametrize("clip", [None, 2.0])
@pytest.mark.parametrize("steps", [2, 100, 1000])
def test_all_reverse_steps_equal_diffusers(steps, clip, prediction):
    reference = scheduler(clip=clip, prediction=prediction)
    reference.set_timesteps(steps)
    assert reference.timesteps.tolist() == respaced(1000, steps)

    def net(x, cond, t):
        return 0.9 * x + 0.1 * torch.sin(5 * x + cond) + 0.1 * t[:, None]

    cond = torch.linspace(0, 1, 12).view(4, 3)
    noise = torch.randn(4, 3, generator=gen(1))
    expected, noises = noise, gen(2)
    for index in reference.timesteps:
        predicted = net(expected, cond, torch.full((4,), index / 1000))
        expected = reference.step(predicted, index, expected, generator=noises).prev_sample
    drawn = Diffusion(clip=clip, prediction=prediction).sample(net, cond, noise, steps, gen(2))
    # Without a clip the first step divides by sqrt(abar) = 5e-5, and float32 rounding grows with it.
    torch.testing.assert_close(drawn, expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_the_exact_prediction_of_a_gaussian_gives_the_gaussian(prediction):
    mean, std = 0.7, 0.4
    objective, cold_one = (Diffusion(clip=None, prediction=prediction, temperature=t) for t in (1.0, 0.5))
    alphas_cumprod = objective.alphas_cumprod

    def exact(x, cond, t):
        # x_t ~ N(sqrt(abar) mean, abar std^2 + 1 - abar) and cov(eps, x_t) = sqrt(1 - abar): regression of eps on x_t.
        abar = alphas_cumprod[(t * 1000).round().long(), None]
        eps = (1 - abar).sqrt() * (x - abar.sqrt() * mean) / (abar * std**2 + 1 - abar)
        x0 = mean + abar.sqrt() * std**2 * (x - abar.sqrt() * mean) / (abar * std**2 + 1 - abar)  # likewise of x
        return eps if prediction == "epsilon" else abar.sqrt() * eps - (1 - abar).sqrt() * x0

    noise = torch.randn(20_000, 1, generator=gen(), dtype=torch.float64)
    # Standard errors are 0.003 and 0.002. The small posterior variance narrows what few steps draw: the map is linear,
    # and its recursion gives 0.952 of the std for 100 steps, 0.998 for 1000.
    drawn = objective.sample(exact, noise, noise, 100, gen(1))
    assert drawn.mean().item() == pytest.approx(mean, abs=0.015)
    assert drawn.std().item() == pytest.approx(0.952 * std, abs=0.01)
    finer = objective.sample(exact, noise, noise, 1000, gen(1))
    assert finer.mean().item() == pytest.approx(mean, abs=0.015)
    assert finer.std().item() == pytest.approx(std, abs=0.01)
    cold = cold_one.sample(exact, noise, noise, 100, gen(1))
    assert cold.std() < 0.8 * drawn.std()


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_loss_is_one_at_zero_prediction_and_zero_at_the_truth(prediction):
    objective, x = Diffusion(repeats=4, prediction=prediction), torch.randn(500, 16, generator=gen())
    calls = []

    def knows_x(noisy, cond, t):
        calls.append(noisy.shape)
        assert t.shape == (len(noisy),) and 0 <= t.min() and t.max() < 1
        abar = objective.alphas_cumprod[(t * 1000).round().long(), None].float()
        eps = (noisy - abar.sqrt() * cond) / (1 - abar).sqrt()  # cond is x itself
        return eps if prediction == "epsilon" else abar.sqrt() * eps - (1 - abar).sqrt() * cond

    assert objective.loss(knows_x, x, x, gen(1)).max() < 1e-4
    assert calls == [(2000, 16)]
    blind = objective.loss(lambda noisy, cond, t: torch.zeros_like(noisy), x, x, gen(1))
    assert blind.shape == (500,) and blind.mean().item() == pytest.approx(1, abs=0.04)  # five standard errors


def test_loss_keeps_rows_apart_and_draws_all_times():
    x = torch.zeros(3, 8)
    cond = torch.tensor([[0.0], [10.0], [0.0]])
    rows = Diffusion(repeats=2).loss(lambda noisy, cond, t: noisy + cond, x, cond, gen())
    assert rows[1] > 50 and rows[0] < 10 and rows[2] < 10
    seen = []
    many = torch.zeros(20_000, 1)
    Diffusion(repeats=1).loss(lambda noisy, cond, t: seen.append(t) or noisy, many, many, gen())
    assert (seen[0] * 1000).round().unique().numel() == 1000


def test_bad_arguments():
    with pytest.raises(ValueError, match="schedule"):
        Diffusion(schedule="squared")
    with pytest.raises(ValueError, match="repeats"):
        Diffusion(repeats=0)
    with pytest.raises(ValueError, match="prediction must be 'epsilon' or 'v', got 'x0'"):
        Diffusion(prediction="x0")
    with pytest.raises(ValueError, match="clip"):
        Diffusion(clip=0.0)
    for steps in (0, 1001):
        with pytest.raises(ValueError, match="steps must lie in"):
            Diffusion().sample(None, None, torch.zeros(1, 1), steps)


def test_clip_keeps_an_imperfect_net_from_blowing_up():
    # A prediction 5 % too small and, as behind a layer norm, bounded: the first step multiplies its error by
    # sqrt(abar_s / abar_t), about 300, and no later one can predict noise that large.
    noise = torch.randn(200, 4, generator=gen())

    def net(x, cond, t):
        return 0.95 * x.clamp(-3, 3)

    assert Diffusion(clip=None, prediction="epsilon").sample(net, noise, noise, 100, gen(1)).std() > 10
    assert Diffusion(clip=5.0, prediction="epsilon").sample(net, noise, noise, 100, gen(1)).abs().max() <= 5
