"""The head: what must depend on what, before and after a training step."""

import pytest
import torch

from dear.head import AdaLNHead, HeadConfig, TimeEmbedding
from dear.objectives import Diffusion, Energy

SMALL = {"token_dim": 6, "cond_dim": 10, "width": 16, "depth": 2}


def build(**changes):
    torch.manual_seed(0)
    return AdaLNHead(HeadConfig(**{**SMALL, **changes}))


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("main", ["noise", "hidden"])
@pytest.mark.parametrize("times", [0, 1, 2])
def test_shapes_and_every_parameter_gets_a_gradient_within_three_steps(main, times):
    head = build(main=main, times=times, noise_dim=4)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    x, cond, ts = torch.randn(5, 4, generator=gen()), torch.randn(5, 10, generator=gen(1)), [torch.rand(5)] * times
    for _ in range(3):  # layers behind a zero start one after the other
        optimizer.zero_grad()
        out = head(x, cond, *ts)
        assert out.shape == (5, 6)
        (out - 1).square().mean().backward()
        optimizer.step()
    for name, parameter in head.named_parameters():
        assert parameter.grad.abs().max() > 0, name


def test_diffusion_head_starts_at_zero_and_its_loss_at_one():
    head = build(times=1)
    assert (head(torch.randn(5, 6), torch.randn(5, 10), torch.rand(5)) == 0).all()


@pytest.mark.parametrize("main", ["noise", "hidden"])
def test_energy_head_starts_with_samples_that_differ(main):
    head = build(main=main)
    noise, cond = torch.randn(2, 400, 6, generator=gen()), torch.randn(400, 10, generator=gen(1))
    first, second = (head(n, cond) for n in noise)
    spread = (first - second).norm(dim=-1).mean() / first.norm(dim=-1).mean()
    # Noise as main stream: independent samples, a ratio of about sqrt(2). Through the modulation only: small, not 0.
    assert spread > (0.7 if main == "noise" else 0.01)
    assert 0.3 < first.std() < 3  # about the spread of tokens


@pytest.mark.parametrize("main", ["noise", "hidden"])
def test_what_is_main_reaches_the_output_without_the_modulation(main):
    head = build(main=main)
    for holder in (*head.blocks, head):
        torch.nn.init.zeros_(holder.modulation[-1].weight)
    x, cond = torch.randn(5, 6, generator=gen()), torch.randn(5, 10, generator=gen(1))
    out = head(x, cond)
    assert torch.equal(head(x + 1, cond), out) == (main == "hidden")
    assert torch.equal(head(x, cond + 1), out) == (main == "noise")


def test_fresh_energy_heads_repulsion_has_a_gradient():
    head, x, cond = build(), torch.zeros(50, 6), torch.zeros(50, 10)
    one, two = (Energy(samples=m).loss(head, x, cond, gen()).mean() for m in (1, 2))
    gradient = torch.autograd.grad(one - two, head.out.weight)[0]
    assert gradient.abs().max() > 1e-3


@pytest.mark.parametrize("main", ["noise", "hidden"])
def test_samples_that_share_a_condition_are_those_of_repeated_conditions(main):
    head = build(main=main)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=gen())
    noise, cond = torch.randn(3, 4, 6, generator=gen(1)), torch.randn(4, 10, generator=gen(2))
    torch.testing.assert_close(head(noise, cond), head(noise.flatten(0, 1), cond.repeat(3, 1)).unflatten(0, (3, 4)))


def test_rows_do_not_mix_and_dtype_follows_the_module():
    head = build(times=1).double()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=gen())
    x, cond, t = (torch.randn(4, n, generator=gen(n), dtype=torch.float64) for n in (6, 10, 1))
    t = t[:, 0].sigmoid()
    out = head(x, cond, t)
    assert out.dtype == torch.float64
    torch.testing.assert_close(out[2:3], head(x[2:3], cond[2:3], t[2:3]))
    for changed in [(x + 1, cond, t), (x, cond + 1, t), (x, cond, t / 2)]:
        assert (head(*changed) - out).abs().max() > 1e-3


def test_time_embedding_tells_all_diffusion_levels_apart_and_can_be_slow():
    angles = []
    for scale in (1000.0, 10.0):
        embedding = TimeEmbedding(8, scale).double()
        embedding.mlp = torch.nn.Identity()
        angles.append(embedding(torch.arange(1000, dtype=torch.float64) / 1000))
    gaps = torch.cdist(*[angles[0]] * 2) + 10 * torch.eye(1000)
    assert gaps.min() > 0.5
    # |d/dt cos(w t)| <= w: the slow features change at most 10 radians over the whole of time.
    steps = [a.diff(dim=0).abs().max() * 1000 for a in angles]
    assert steps[0] > 500 and steps[1] <= 10


def test_two_different_times_have_two_embeddings():
    head = build(times=2)
    torch.nn.init.normal_(head.out.weight, generator=gen())
    torch.nn.init.normal_(head.modulation[-1].weight, generator=gen())
    x, cond, s, t = torch.randn(3, 6), torch.randn(3, 10), torch.full((3,), 0.2), torch.full((3,), 0.9)
    assert (head(x, cond, s, t) - head(x, cond, t, s)).abs().max() > 1e-3


@pytest.mark.parametrize("objective, times", [(Energy(), 0), (Diffusion(clip=5.0), 1)])
def test_head_learns_a_condition_dependent_gaussian(objective, times):
    torch.manual_seed(0)
    head, generator = AdaLNHead(HeadConfig(token_dim=2, cond_dim=1, width=32, depth=2, times=times)), gen()
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
    for _ in range(300):
        cond = torch.randint(0, 2, (128, 1), generator=generator) * 2.0 - 1
        x = cond + 0.3 * torch.randn(128, 2, generator=generator)
        optimizer.zero_grad()
        objective.loss(head, x, cond, generator).mean().backward()
        optimizer.step()
    cond = torch.tensor([[-1.0], [1.0]]).repeat(500, 1)
    with torch.no_grad():
        noise = torch.randn(1000, 2, generator=generator)
        drawn = objective.sample(head, cond, noise, 50 if times else 1, generator)
    residual = drawn - cond
    # Truth: mean 0, standard deviation 0.3 around either condition; a mean predictor would have 0, a blind one 1.
    assert residual.mean().abs() < 0.1 and 0.2 < residual.std() < 0.42


def test_bad_arguments():
    with pytest.raises(ValueError, match="main must be"):
        build(main="both")
    with pytest.raises(ValueError, match="built for 1 time"):
        build(times=1)(torch.zeros(1, 6), torch.zeros(1, 10))
