"""What all objectives share: one protocol, on the audio head as on a plane without conditions."""

import pytest
import torch
from gaussian import gen, velocity

from dear import objectives
from dear.decoding import guided
from dear.head import AdaLNHead, HeadConfig


def flow_teacher(x, cond, t):
    return velocity(x.double(), t.double()).to(x)


PLAIN = {
    "Energy": objectives.Energy(),
    "EnergyAllPairs": objectives.EnergyAllPairs(),
    "Diffusion": objectives.Diffusion(train_steps=20),
    "Flow": objectives.Flow(),
    "Shortcut": objectives.Shortcut(),
    "MeanFlow": objectives.MeanFlow(),
    "ConsistencyTraining": objectives.ConsistencyTraining(),
    "ConsistencyDistillation": objectives.ConsistencyDistillation(flow_teacher),
    "LatentConsistency": objectives.LatentConsistency(flow_teacher),
    "Trajectory": objectives.Trajectory(flow_teacher),
    "Rectified": objectives.Rectified(flow_teacher),
}


def test_every_objective_is_here():
    classes = {name for name in objectives.__all__ if name[0].isupper()}
    assert classes == set(PLAIN)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", PLAIN)
def test_the_protocol_without_conditions(name, dtype):
    objective, counts = PLAIN[name], set()

    def net(x, cond, *times):
        counts.add(len(times))
        assert cond.shape == (len(x), 0) and all(t.shape == (len(x),) and t.dtype == dtype for t in times)
        return 0.5 * x + sum(times)[:, None] if times else 0.5 * x

    x = torch.randn(8, 2, generator=gen(), dtype=dtype)
    cond, before = x[:, :0], torch.get_rng_state()
    first, again, other = (objective.loss(net, x, cond, gen(seed), net) for seed in (1, 1, 2))
    assert first.shape == (8,) and first.dtype == dtype and torch.equal(first, again) and not torch.equal(first, other)
    drawn = objective.sample(net, cond, x, 1, gen(1))
    assert drawn.shape == x.shape and drawn.dtype == dtype and counts == {objective.times}
    assert torch.equal(torch.get_rng_state(), before)  # nothing random but from the generator
    if objective.needs_target:
        with pytest.raises(ValueError, match=f"{name} learns from target"):
            objective.loss(net, x, cond, gen())


@pytest.mark.parametrize("name", PLAIN)
def test_every_call_sees_each_rows_own_condition(name):
    objective, seen = PLAIN[name], []

    def net(x, cond, *times):
        seen.append(cond)
        return 0.5 * x

    x, cond = torch.randn(8, 2, generator=gen()), torch.arange(8.0)[:, None]
    if name == "EnergyAllPairs":
        cond = torch.ones(8, 1)  # one law: it refuses others
    objective.loss(net, x, cond, gen(1), net)
    objective.sample(net, cond, x, 1, gen(1))
    for given in seen:  # all rows, or the first of them (Shortcut's half steps, MeanFlow's derivative), or repeats
        assert torch.equal(given, cond.repeat(4, 1)[: len(given)])


@pytest.mark.parametrize("name", PLAIN)
def test_a_head_built_from_the_objective_learns(name):
    objective = PLAIN[name]
    torch.manual_seed(0)
    head = AdaLNHead(HeadConfig(token_dim=2, cond_dim=3, width=16, depth=1, times=objective.times, time_scale=10.0))
    x, cond = torch.randn(16, 2, generator=gen()), torch.ones(16, 3)
    objective.loss(head, x, cond, gen(1), head).mean().backward()
    assert head.out.weight.grad.abs().sum() > 0
    assert objective.sample(head, cond, x, 1, gen(1)).shape == x.shape


@pytest.mark.parametrize("name", ["ConsistencyDistillation", "LatentConsistency", "Trajectory"])
def test_every_step_of_a_guided_sampler_sees_the_guidance_scale(name):
    objective, seen = getattr(objectives, name)(flow_teacher, guidance=(2, 5), guidance_scale=4.5), []
    x = torch.randn(6, 2, generator=gen())
    objective.sample(lambda x, cond, *times: seen.append(times) or x, torch.ones(6, 3), x, 4, gen(1))
    assert len(seen) == 4 and {len(times) for times in seen} == {objective.times}
    assert all((w == 4.5).all() for *_, w in seen)


def test_a_guided_teacher_is_decodings_guided_net():
    torch.manual_seed(0)
    head = AdaLNHead(HeadConfig(token_dim=2, cond_dim=3, width=16, depth=1, times=1))
    torch.nn.init.normal_(head.out.weight)
    x, both = torch.randn(5, 2, generator=gen()), torch.randn(5, 6, generator=gen(1))
    teacher = objectives.LatentConsistency(head, guidance=(4, 4)).teacher
    t, (w,) = torch.full((5,), 0.3), teacher.draw(x, gen())
    torch.testing.assert_close(teacher.velocity(x, both, t, w), guided(head, 4.0)(x, both, t))


@pytest.mark.parametrize("name", ["Flow", "Shortcut", "MeanFlow", "ConsistencyDistillation", "LatentConsistency",
                                  "Trajectory", "Rectified", "Energy"])
def test_weights_choose_the_coordinates_that_count(name):
    def teacher(x, cond, t):
        return x * t[:, None]

    def net(x, cond, *times):
        return x * scale + sum(times)[:, None] * 0.1 if times else x * scale

    distilled = [teacher] if name in ("ConsistencyDistillation", "LatentConsistency", "Trajectory", "Rectified") else []
    x, cond = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)), torch.zeros(8, 0)
    found = {}
    for told, weights in (("none", None), ("ones", torch.ones(3)), ("first", torch.tensor([1.0, 1e-6, 1e-6]))):
        scale = torch.full((3,), 0.7, requires_grad=True)
        objective = getattr(objectives, name)(*distilled, weights=weights)
        rows = objective.loss(net, x, cond, torch.Generator().manual_seed(1), net)
        rows.mean().backward()
        found[told] = rows.detach(), scale.grad
    torch.testing.assert_close(found["ones"], found["none"])
    gradient = found["first"][1].abs()
    assert gradient[0] > 1e-3 and (gradient[1:] < 1e-4 * gradient[0]).all()
