"""The energy score against scipy, POT, finite differences and closed forms."""

import math

import numpy as np
import ot
import pytest
import scipy.stats
import torch
from torch import nn

from dear.objectives import Energy, EnergyAllPairs, energy_score, energy_score_all_pairs


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def test_summed_over_observations_it_is_scipys_energy_distance():
    x = torch.randn(7, generator=gen(), dtype=torch.float64)
    y = 2 + torch.rand(5, generator=gen(1), dtype=torch.float64)
    # The mean over y gives 2 E|X-Y| - E_U|X-X'| (pairs k != l). scipy's is the V-form (all pairs) with E|Y-Y'|, rooted.
    u_form = energy_score(x[:, None, None].expand(7, 5, 1), y[:, None]).mean()
    within_x, within_y = (np.abs(np.subtract.outer(a, a)) for a in (x.numpy(), y.numpy()))
    across = np.abs(np.subtract.outer(x.numpy(), y.numpy()))
    assert u_form.item() == pytest.approx(2 * across.mean() - within_x.sum() / (7 * 6), rel=1e-12)
    v_form = u_form.item() + within_x.sum() / (7 * 6) - within_x.mean() - within_y.mean()
    assert v_form == pytest.approx(scipy.stats.energy_distance(x.numpy(), y.numpy()) ** 2, rel=1e-10)


@pytest.mark.parametrize("m", [2, 3, 5])
def test_pairwise_terms_equal_pots_distances(m):
    samples, y = torch.randn(m, 4, 6, generator=gen()), torch.randn(4, 6, generator=gen(1))
    for exponent in (0.7, 1.0, 1.5, 2.0):
        score = energy_score(samples, y, exponent)
        for row in range(4):
            x = samples[:, row].double().numpy()
            to_y = ot.dist(x, y[row : row + 1].double().numpy(), metric="euclidean") ** exponent
            between = ot.dist(x, x, metric="euclidean") ** exponent
            expected = 2 * to_y.mean() - between.sum() / (m * (m - 1))
            assert score[row].item() == pytest.approx(expected, rel=1e-4)


def test_two_samples_are_the_papers_formula_and_one_has_no_repulsion():
    x1, x2, y = torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 0.0]]), torch.zeros(1, 2)
    assert energy_score(torch.stack([x1, x2]), y).item() == pytest.approx(5 + 3 - 4)
    assert energy_score(torch.stack([x1, x2]), y, exponent=2.0).item() == pytest.approx(25 + 9 - 16)
    assert energy_score(x1[None], y).item() == pytest.approx(2 * 5)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.5, 2.0])
def test_gradient_equals_finite_differences(exponent):
    samples = torch.randn(3, 2, 4, generator=gen(), dtype=torch.float64, requires_grad=True)
    y = torch.randn(2, 4, generator=gen(1), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: energy_score(s, y, exponent), samples, eps=1e-6, atol=1e-7)


@pytest.mark.parametrize("exponent", [0.3, 1.0, 1.5, 2.0])
def test_where_samples_meet_value_and_gradient_stay_finite(exponent):
    samples = torch.ones(2, 1, 3, requires_grad=True)
    score = energy_score(samples, torch.ones(1, 3), exponent)
    score.sum().backward()
    assert score.item() == 0 and (samples.grad == 0).all()


@pytest.mark.parametrize("m", [2, 4])
def test_estimate_is_unbiased_for_gaussians(m):
    # X ~ N(1, 0.5), Y ~ N(0, 1): E|X - y| has a closed form, E|N(mu, s^2)| = s sqrt(2/pi) e^{-mu^2/2s^2} + mu erf(.).
    def mean_abs(mu, s):
        return s * math.sqrt(2 / math.pi) * math.exp(-(mu**2) / (2 * s**2)) + mu * math.erf(mu / (s * math.sqrt(2)))

    rows = 200_000
    y = torch.randn(rows, 1, generator=gen(), dtype=torch.float64)
    score = energy_score(1 + 0.5 * torch.randn(m, rows, 1, generator=gen(1), dtype=torch.float64), y)
    expected = 2 * mean_abs(1, math.sqrt(1.25)) - mean_abs(0, math.sqrt(0.5))
    assert abs(score.mean().item() - expected) < 5 * score.std().item() / math.sqrt(rows)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.5])
def test_the_true_sampler_scores_best(exponent):
    y, base = torch.randn(100_000, 2, generator=gen()), torch.randn(2, 100_000, 2, generator=gen(1))
    rivals = {"shifted": base + 0.5, "shrunken": 0.5 * base, "widened": 1.5 * base, "a point": 0 * base}
    for name, samples in rivals.items():
        gain = energy_score(samples, y, exponent) - energy_score(base, y, exponent)
        assert gain.mean() > 5 * gain.std() / math.sqrt(len(y)), name


class Affine(nn.Module):
    """x = mean + scale * noise: the smallest net that has a mean and a spread of its own."""

    def __init__(self, width):
        super().__init__()
        self.mean, self.scale = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.full((width,), 0.3))

    def forward(self, noise, cond):
        return self.mean + self.scale * noise


def train(objective, draw, width, steps=600):
    net, generator = Affine(width), gen()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        x = draw(generator)
        objective.loss(net, x, x.new_zeros(len(x), 1), generator).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
    return net.mean.detach(), net.scale.detach().abs()


def gaussian(generator):
    return torch.tensor([2.0, -1.0]) + torch.tensor([1.5, 0.5]) * torch.randn(256, 2, generator=generator)


def test_training_recovers_mean_and_spread():
    mean, spread = train(Energy(samples=2), gaussian, width=2)
    torch.testing.assert_close(mean, torch.tensor([2.0, -1.0]), atol=0.08, rtol=0)
    torch.testing.assert_close(spread, torch.tensor([1.5, 0.5]), atol=0.08, rtol=0)


def test_exponent_two_recovers_the_mean_and_says_nothing_of_the_spread():
    # |x1-y|^2 + |x2-y|^2 - |x1-x2|^2 = 2 (x1-y).(x2-y): on average 2 |mean - y|^2, whatever the spread.
    mean, spread = train(Energy(samples=2, exponent=2.0), gaussian, width=2)
    torch.testing.assert_close(mean, torch.tensor([2.0, -1.0]), atol=0.08, rtol=0)
    assert (spread - torch.tensor([1.5, 0.5])).abs().max() > 0.3


def test_one_sample_collapses_to_the_median():
    def exponential(generator):  # median ln 2 = 0.69, mean 1
        return -torch.log1p(-torch.rand(256, 1, generator=generator))

    point, spread = train(Energy(samples=1), exponential, width=1)
    assert point.item() == pytest.approx(math.log(2), abs=0.05) and spread.item() < 0.05


def test_loss_calls_the_net_once_with_the_right_rows_and_the_same_seed_gives_the_same_loss():
    calls = []

    def net(noise, cond):
        calls.append((noise.shape, cond))
        return noise[:, :2] + cond

    x, cond = torch.zeros(3, 2, dtype=torch.float64), torch.arange(6.0, dtype=torch.float64).view(3, 2)
    objective = Energy(samples=4, noise_dim=5)
    first, second = (objective.loss(net, x, cond, gen(7)) for _ in range(2))
    assert first.shape == (3,) and first.dtype == torch.float64 and torch.equal(first, second)
    assert len(calls) == 2 and calls[0][0] == (12, 5) and torch.equal(calls[0][1], torch.cat([cond] * 4))
    # Each row is scored with its own condition: x is 0, so the larger a row's condition, the larger its score.
    assert first[0] < first[1] < first[2]


@pytest.mark.parametrize("exponent", [0.5, 1.5])
def test_losses_are_the_scores_of_what_the_net_draws(exponent):
    x, drawn = torch.randn(4, 2, generator=gen()), []

    def net(noise, cond):
        drawn.append(2 * noise)
        return drawn[-1]

    rows = Energy(samples=3, exponent=exponent).loss(net, x, x, gen(1))
    torch.testing.assert_close(rows, energy_score(drawn[0].view(3, 4, 2), x, exponent))
    rows = EnergyAllPairs(exponent=exponent).loss(net, x, x[:, :0], gen(1))
    torch.testing.assert_close(rows, energy_score_all_pairs(drawn[1], x, exponent))


def test_weights_are_factors_on_the_coordinates():
    x, weights = torch.randn(4, 2, generator=gen()), torch.tensor([3.0, 0.5])
    rows = Energy(weights=weights).loss(lambda noise, cond: noise + cond, x, x.flip(0), gen(1))
    scaled = Energy().loss(lambda noise, cond: (noise + cond) * weights, x * weights, x.flip(0), gen(1))
    torch.testing.assert_close(rows, scaled)
    for wrong in (torch.tensor([1.0, 0.0]), torch.tensor([1.0, -1.0]), torch.ones(2, 2)):
        with pytest.raises(ValueError, match="weights must be a vector of positive numbers"):
            Energy(weights=wrong)
    with pytest.raises(ValueError, match="a weight for each of the 2 coordinates, got 1"):
        Energy(weights=torch.ones(1)).loss(lambda noise, cond: noise + cond, x, x, gen(1))


def test_a_net_that_shares_a_condition_reads_it_once_for_all_samples_and_scores_the_same():
    class Shared:
        shares_condition = True

        def __call__(self, noise, cond):
            assert noise.shape == (3, 4, 5) and cond.shape == (4, 2)
            return noise[..., :2] * cond + cond

    x, cond = torch.randn(4, 2, generator=gen()), torch.randn(4, 2, generator=gen(1))
    plain = Energy(samples=3, noise_dim=5).loss(lambda n, c: n[..., :2] * c + c, x, cond, gen(2))
    torch.testing.assert_close(Energy(samples=3, noise_dim=5).loss(Shared(), x, cond, gen(2)), plain)


def test_sampling_is_one_call():
    noise, cond = torch.randn(3, 2, generator=gen()), torch.ones(3, 2)
    assert torch.equal(Energy().sample(lambda n, c: n + c, cond, noise), noise + 1)
    with pytest.raises(ValueError, match="one pass"):
        Energy().sample(lambda n, c: n + c, cond, noise, steps=2)


def test_bad_arguments():
    for exponent in (0.0, -1.0, 2.1):
        with pytest.raises(ValueError, match="exponent"):
            Energy(exponent=exponent)
        with pytest.raises(ValueError, match="exponent"):
            energy_score(torch.zeros(2, 1, 1), torch.zeros(1, 1), exponent)
    with pytest.raises(ValueError, match="samples must be at least 1"):
        Energy(samples=0)
    with pytest.raises(ValueError, match=r"samples must be .*, got \(2, 3, 1\) and \(3, 2\)"):
        Energy().loss(lambda noise, cond: noise[:, :1], torch.zeros(3, 2), torch.zeros(3, 0), gen())
    for objective in (Energy, EnergyAllPairs):
        with pytest.raises(ValueError, match="noise_dim must be at least 1"):
            objective(noise_dim=0)
    with pytest.raises(ValueError, match="samples must be"):
        energy_score(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4))


@pytest.mark.parametrize("exponent", [0.7, 1.0, 1.5, 2.0])
def test_all_pairs_score_every_target_with_the_same_samples(exponent):
    samples, y = torch.randn(6, 3, generator=gen()), torch.randn(4, 3, generator=gen(1))
    rows = energy_score_all_pairs(samples, y, exponent)
    torch.testing.assert_close(rows, energy_score(samples[:, None].expand(6, 4, 3), y, exponent))


def test_all_pairs_less_the_spread_of_the_data_are_pots_two_sample_statistic():
    x, y = torch.randn(7, 3, generator=gen()).double(), 1 + torch.randn(5, 3, generator=gen(1)).double()
    pairs = ((x, y), (x, x), (y, y))
    across, within_x, within_y = (ot.dist(a.numpy(), b.numpy(), metric="euclidean") for a, b in pairs)
    u_form = 2 * across.mean() - within_x.sum() / (7 * 6) - within_y.sum() / (5 * 4)
    spread = torch.pdist(y).mean()
    assert (energy_score_all_pairs(x, y).mean() - spread).item() == pytest.approx(u_form, rel=1e-12)


def test_all_pairs_are_unbiased_and_vary_less_than_pairs_per_target():
    # Batches of 8 from X ~ N(0.5, 1), Y ~ N(0, 1): E|X-Y| and E|X-X'| from E|N(mu, s^2)|.
    def mean_abs(mu, s):
        return s * math.sqrt(2 / math.pi) * math.exp(-(mu**2) / (2 * s**2)) + mu * math.erf(mu / (s * math.sqrt(2)))

    batches, draws = 4000, gen()
    x, y = (torch.randn(2, batches, 16, 1, generator=draws, dtype=torch.float64) for _ in range(2))
    x, y = 0.5 + x[0], y[0, :, :8]
    all_pairs = torch.stack([energy_score_all_pairs(xs[:8], ys).mean() for xs, ys in zip(x, y, strict=True)])
    per_target = torch.stack([energy_score(xs.view(2, 8, 1), ys).mean() for xs, ys in zip(x, y, strict=True)])
    expected = 2 * mean_abs(0.5, math.sqrt(2)) - mean_abs(0, math.sqrt(2))
    for scores in (all_pairs, per_target):
        assert abs(scores.mean().item() - expected) < 4 * scores.std().item() / math.sqrt(batches)
    # 8 calls of the net against 16, and still the smaller variance.
    assert all_pairs.var() < 0.8 * per_target.var()


def test_all_pairs_gradient_equals_finite_differences_and_is_finite_where_samples_meet():
    samples = torch.randn(4, 3, generator=gen(), dtype=torch.float64, requires_grad=True)
    y = torch.randn(2, 3, generator=gen(1), dtype=torch.float64)
    for exponent in (0.5, 1.0, 1.5):
        assert torch.autograd.gradcheck(lambda s, a=exponent: energy_score_all_pairs(s, y, a), samples, atol=1e-7)
        met = torch.ones(3, 2, requires_grad=True)
        score = energy_score_all_pairs(met, torch.ones(2, 2), exponent).sum()
        score.backward()
        assert score.item() == 0 and (met.grad == 0).all()


def test_all_pairs_training_recovers_mean_and_spread():
    mean, spread = train(EnergyAllPairs(), gaussian, width=2, steps=300)
    torch.testing.assert_close(mean, torch.tensor([2.0, -1.0]), atol=0.08, rtol=0)
    torch.testing.assert_close(spread, torch.tensor([1.5, 0.5]), atol=0.08, rtol=0)


def test_all_pairs_call_the_net_once_and_refuse_more_than_one_law():
    calls = []

    def net(noise, cond):
        calls.append((noise.shape, cond.shape))
        return noise[:, :2]

    x = torch.zeros(3, 2, dtype=torch.float64)
    rows = EnergyAllPairs(samples=5, noise_dim=4).loss(net, x, torch.zeros(3, 0), gen())
    assert rows.shape == (3,) and rows.dtype == torch.float64 and calls == [((5, 4), (5, 0))]
    EnergyAllPairs().loss(net, x, torch.ones(3, 1), gen())
    assert calls[1] == ((3, 2), (3, 1))
    with pytest.raises(ValueError, match="rows of cond must be equal"):
        EnergyAllPairs().loss(net, x, torch.arange(3.0)[:, None], gen())
    with pytest.raises(ValueError, match="one pass"):
        EnergyAllPairs().sample(net, x, x, steps=2)
    for bad in ((torch.zeros(1, 2), torch.zeros(3, 2)), (torch.zeros(3, 2), torch.zeros(3, 1))):
        with pytest.raises(ValueError, match="samples must be"):
            energy_score_all_pairs(*bad)
    with pytest.raises(ValueError, match="at least 2"):
        EnergyAllPairs(samples=1)
    with pytest.raises(ValueError, match="exponent"):
        EnergyAllPairs(exponent=3.0)


def test_several_observations_of_a_target_are_averaged():
    net, cond = lambda noise, cond: noise * 2, torch.zeros(5, 0)
    x = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    rows = Energy(samples=2).loss(net, x, cond, torch.Generator().manual_seed(1))
    each = [Energy(samples=2).loss(net, y, cond, torch.Generator().manual_seed(1)) for y in x]
    torch.testing.assert_close(rows, torch.stack(each).mean(dim=0))
    assert rows.shape == (5,)
