"""The net and the training loop of the plane: arity, derivatives, schedule, average, limits, and a law recovered."""

import math

import pytest
import torch
from torch import nn

import toy.train
from dear.objectives.diffusion import Diffusion
from dear.objectives.energy import Energy
from dear.objectives.flow import Flow
from toy.data import Mixture
from toy.nets import MLP, NetConfig, load_net, save_net, time_features
from toy.train import TrainConfig, one_cycle, sample, trace, train


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def small(**sizes):
    return MLP(NetConfig(width=32, depth=2, **sizes), gen())


def test_the_net_takes_noise_condition_and_times_of_its_config():
    net = small(times=2, noise_dim=5, data_dim=3, cond_dim=4)
    t = torch.rand(7, generator=gen())
    assert net(torch.zeros(7, 5), torch.zeros(7, 4), t, t).shape == (7, 3)
    with pytest.raises(ValueError, match="takes 2 times, got 1"):
        net(torch.zeros(7, 5), torch.zeros(7, 4), t)
    assert small()(torch.zeros(7, 2), torch.zeros(7, 0)).shape == (7, 2)


def test_every_input_reaches_the_output():
    net = small(times=2, cond_dim=1)
    inputs = [torch.rand(6, 2, generator=gen()), torch.rand(6, 1, generator=gen(1)),
              torch.rand(6, generator=gen(2)), torch.rand(6, generator=gen(3))]
    before = net(*inputs)
    for k, value in enumerate(inputs):
        assert not torch.equal(net(*inputs[:k], value + 0.1, *inputs[k + 1:]), before)


def test_the_default_is_four_hidden_layers_of_256():
    sizes = [tuple(layer.weight.shape) for layer in MLP().layers if isinstance(layer, nn.Linear)]
    assert sizes == [(256, 2), (256, 256), (256, 256), (256, 256), (2, 256)]
    assert sum(isinstance(layer, nn.ReLU) for layer in MLP().layers) == 4


def test_first_weights_are_torchs_and_come_from_the_generator():
    before = torch.get_rng_state()
    net, same, other = (MLP(generator=gen(seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    weight, again, different = (n.layers[2].weight for n in (net, same, other))
    assert torch.equal(weight, again) and not torch.equal(weight, different)
    torch.testing.assert_close(weight.std(), nn.Linear(256, 256).weight.std(), rtol=0.02, atol=0)
    assert weight.abs().max() <= 1 / 16


def test_time_features_are_slow_waves():
    features = time_features(torch.tensor([0.0, 0.5]), 2)
    torch.testing.assert_close(features, torch.tensor([[0.0, 0, 0, 1, 1], [0.5, 1, 0, 0, -1]]))


def test_the_derivative_in_time_is_that_of_finite_differences():
    net = MLP(NetConfig(times=2, activation="silu"), gen()).double()
    x, cond = torch.randn(8, 2, generator=gen(), dtype=torch.float64), torch.zeros(8, 0, dtype=torch.float64)
    r, t = torch.rand(2, 8, generator=gen(), dtype=torch.float64)
    _, slope = torch.func.jvp(lambda t: net(x, cond, r, t), (t,), (torch.ones_like(t),))
    step = 1e-5
    expected = (net(x, cond, r, t + step) - net(x, cond, r, t - step)) / (2 * step)
    torch.testing.assert_close(slope, expected, rtol=1e-6, atol=1e-8)
    assert 0 < slope.abs().max() < 10  # an embedding of 1000 t would give hundreds


def test_a_saved_net_is_the_same_in_half_precision(tmp_path):
    net = small(times=1, activation="silu")
    save_net(net, tmp_path / "deep" / "net.safetensors")
    again = load_net(tmp_path / "deep" / "net.safetensors")
    assert again.config == net.config and not again.training
    for ours, theirs in zip(net.parameters(), again.parameters(), strict=True):
        assert torch.equal(ours.half().float(), theirs)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["net.safetensors"]


@pytest.mark.parametrize(("sizes", "message"), [
    ({"width": 0}, "width must be at least 1"), ({"times": -1}, "times must be 0 or more"),
    ({"activation": "step"}, "activation must be one of relu"),
])
def test_bad_sizes(sizes, message):
    with pytest.raises(ValueError, match=message):
        NetConfig(**sizes)


def test_the_cycle_is_torchs():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2.0, 10_000, cycle_momentum=False)
    for step in range(10_000):
        if step % 500 == 0:
            assert one_cycle(step / 10_000, 2.0) == pytest.approx(scheduler.get_last_lr()[0], abs=1e-3)
        optimizer.step()
        scheduler.step()
    assert one_cycle(0, 2.0) == pytest.approx(0.08) and one_cycle(0.3, 2.0) == pytest.approx(2)
    assert one_cycle(1, 2.0) == pytest.approx(8e-6)


class Watch:
    """Squared distance to x of the net's answer at zero noise; keeps what the loop hands it."""

    def __init__(self, needs_target):
        self.needs_target, self.targets, self.nets, self.conds = needs_target, [], [], []

    def loss(self, net, x, cond, generator, target=None):
        self.targets.append(target and target.point.item())
        self.nets.append(net.point.item())
        self.conds.append(cond)
        return (net.point - x).square().sum(1)


class Point(nn.Module):
    def __init__(self):
        super().__init__()
        self.point = nn.Parameter(torch.zeros(()))


def ones(n, generator):
    return torch.ones(n, 1)


@pytest.mark.parametrize("target_ema", [None, 0.3])
def test_the_average_is_returned_and_another_one_is_the_target_if_its_decay_differs(target_ema):
    def run(ema, target_ema):
        watch = Watch(needs_target=True)
        config = TrainConfig(steps=30, batch_size=2, learning_rate=0.1, ema=ema, target_ema=target_ema)
        return watch, train(watch, Point(), ones, config)

    watch, trained = run(0.7, target_ema)
    path = [*watch.nets[1:], run(0, None)[1].net.point.item()]  # the net after each step: ema 0 returns the last

    def averages(decay):
        value, found = 0.0, []
        for step, net in enumerate(path, 1):
            value += (1 - min(decay, step / (9 + step))) * (net - value)
            found.append(value)
        return found

    assert watch.targets == pytest.approx([0, *averages(target_ema or 0.7)[:-1]], abs=1e-6)
    assert trained.net.point.item() == pytest.approx(averages(0.7)[-1], abs=1e-6) != pytest.approx(path[-1], abs=1e-3)
    assert not trained.net.point.requires_grad
    assert trained.steps == len(trained.losses) == 30 and trained.losses[0] == 1 > trained.losses[-1]


def test_no_target_for_those_that_need_none_and_an_empty_condition():
    watch = Watch(needs_target=False)
    train(watch, Point(), ones, TrainConfig(steps=2, batch_size=3))
    assert watch.targets == [None, None] and watch.conds[0].shape == (3, 0)
    train(watch, Point(), lambda n, g: (torch.ones(n, 1), torch.full((n, 2), 7.0)), TrainConfig(steps=1, batch_size=3))
    assert torch.equal(watch.conds[-1], torch.full((3, 2), 7.0))


def test_the_seed_is_all_the_randomness_and_the_given_net_stays_as_it_was():
    net, shape = small(), Mixture([[-1, 0], [1, 0]], 0.2)
    given = [p.clone() for p in net.parameters()]
    before = torch.get_rng_state()
    first, same, other = (train(Energy(), net, shape, TrainConfig(steps=3, batch_size=16, seed=seed))
                          for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert first.losses == same.losses != other.losses
    assert all(torch.equal(a, b) for a, b in zip(first.net.parameters(), same.net.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(given, net.parameters(), strict=True))


def test_a_time_limit_ends_training_and_completes_the_cycle(monkeypatch):
    done = []
    monkeypatch.setattr(toy.train, "one_cycle", lambda share, peak: done.append(share) or 1e-3)
    trained = train(Energy(), small(), ones_in_the_plane, TrainConfig(steps=10**6, batch_size=8, cpu_seconds=0.3))
    assert 10 < trained.steps == len(done) < 10**5
    assert 0.3 <= trained.cpu_seconds < 1
    assert done == sorted(done) and done[-1] > 0.8


def ones_in_the_plane(n, generator):
    return torch.ones(n, 2)


def test_a_loss_that_is_not_finite_stops():
    with pytest.raises(FloatingPointError, match=r"the loss of step 1 is nan.*learning_rate \(0.002\)"):
        train(Energy(), small(), lambda n, g: torch.full((n, 2), math.nan), TrainConfig(steps=5, batch_size=4))


@pytest.mark.parametrize(("settings", "message"), [
    ({"steps": 0}, "steps must be positive"), ({"learning_rate": -1}, "learning_rate must be positive"),
    ({"ema": 1}, "ema must lie"), ({"target_ema": -1}, "target_ema must lie"),
    ({"cpu_seconds": 0}, "cpu_seconds must be positive"),
])
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**settings)


@pytest.mark.parametrize(("objective", "times", "steps"), [(Energy(samples=4), 0, 1), (Diffusion(repeats=1), 1, 50)])
def test_two_unequal_modes_are_learned(objective, times, steps):
    shape = Mixture([[-1, 0], [1, 0]], 0.15, [0.7, 0.3])
    trained = train(objective, MLP(NetConfig(times=times, width=64, depth=2), gen()), shape,
                    TrainConfig(steps=600, batch_size=256, learning_rate=1e-2, ema=0.98))
    x = sample(objective, trained.net, 3000, gen(1), steps)
    modes = shape.mode_of(x)
    assert (modes >= 0).double().mean() > 0.75  # the data has 0.99, N(0, I) 0.2
    # An even split is 0.2 away.
    assert (modes == 0).sum() / (modes >= 0).sum() == pytest.approx(0.7, abs=0.08)


def test_samples_come_from_the_generator_and_noise_is_as_wide_as_the_net_takes():
    net = small(noise_dim=5)
    first, same, other = (sample(Energy(noise_dim=5), net, 9, gen(seed)) for seed in (1, 1, 2))
    assert first.shape == (9, 2) and torch.equal(first, same) and not torch.equal(first, other)
    assert not first.requires_grad
    wide = small(cond_dim=1)
    cond = torch.arange(9.0)[:, None]
    assert not torch.equal(sample(Energy(), wide, 9, gen(), cond=cond), sample(Energy(), wide, 9, gen(), cond=-cond))


def test_sampling_takes_the_objectives_steps_unless_told():
    net, calls = small(times=1), []
    net.register_forward_hook(lambda *_: calls.append(1))
    for steps, expected in ((None, 50), (3, 3)):
        calls.clear()
        sample(Flow(), net, 4, gen(), steps)
        assert len(calls) == expected


def test_a_trace_holds_every_point_that_the_sampler_visits():
    noise = torch.randn(5, 2, generator=gen())
    path = trace(Flow(), lambda x, cond, t: x.sign(), noise, 4)  # a velocity that keeps its sign: steps of 1/4 to zero
    expected = torch.stack([noise - k / 4 * noise.sign() for k in range(5)])
    far = noise.abs() > 1  # nearer ones cross zero and turn
    assert far.any()
    torch.testing.assert_close(path[:, far], expected[:, far])
