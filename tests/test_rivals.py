"""Every method's tries can be built, start as they say, learn, and draw."""

import copy

import pytest
import torch

from dear.frozen import HiddenStates, train_head
from dear.objectives import Rectified, as_velocity
from dear.rivals import METHODS, build, method, sees_both, with_guidance
from dear.training import TrainConfig

EVERY = [(m.name, k) for m in METHODS for k in range(len(m.tries))]


@pytest.fixture(scope="module")
def states():
    draw = torch.Generator().manual_seed(0)
    parts = [torch.randn(64, size, generator=draw).half() for size in (160, 160, 48)]
    return HiddenStates(*parts, torch.full((64, 48), 0.1).half(), "mark")


@pytest.mark.parametrize("name, number", EVERY)
def test_a_try_is_built_trained_and_drawn_from(master, states, tmp_path, name, number):
    chosen = method(name)
    setting = chosen.tries[number]
    objective, head = build(chosen, setting, master, torch.linspace(0.5, 1.5, 48), seed=0)
    learner, data = objective, states
    if chosen.objective is Rectified:  # as Frame does
        learner = Rectified()
        data = HiddenStates(states.h, states.null, torch.cat([states.mean, states.mean], 1),
                            torch.zeros(64, 96).half(), "pairs")
    before = copy.deepcopy(head)
    train_head(head, learner, data, TrainConfig(steps=2, batch_size=16), tmp_path, target=setting.target,
               both=sees_both(setting) and chosen.objective is not Rectified, progress=False)
    assert any(not torch.equal(a, b) for a, b in zip(head.parameters(), before.parameters(), strict=True))
    assert all(p.isfinite().all() for p in head.parameters())
    noise = torch.randn(5, setting.arguments.get("noise_dim") or 48, generator=torch.Generator().manual_seed(2))
    for steps in chosen.steps:
        drawn = objective.sample(head, states.h[:5].float(), noise, steps, torch.Generator().manual_seed(3))
        assert drawn.shape == (5, 48) and drawn.isfinite().all()


@pytest.mark.parametrize("name, number", [(n, k) for n, k in EVERY if method(n).tries[k].start == "teacher"])
def test_a_head_that_starts_as_the_teacher_is_its_velocity(master, name, number):
    objective, head = build(method(name), method(name).tries[number], master, torch.ones(48), seed=0)
    draw = torch.Generator().manual_seed(0)
    x, h, t = torch.randn(6, 48, generator=draw), torch.randn(6, 160, generator=draw), torch.rand(6, generator=draw)
    more = [torch.rand(6, generator=draw) for _ in range(objective.times - 1)]
    want = as_velocity(master.objective, master.head)(x, h, t)
    torch.testing.assert_close(head(x, h, t, *more), want)
    copied = copy.deepcopy(head)
    with torch.no_grad():
        for p in copied.parameters():
            p.add_(0.1)
    torch.testing.assert_close(head(x, h, t, *more), want)  # the copy's velocity is its own head's
    assert not torch.allclose(copied(x, h, t, *more), want)
    assert not any(p.requires_grad is False for p in head.parameters())


def test_the_teacher_of_a_student_is_not_the_student(master):
    objective, head = build(method("consistency"), method("consistency").tries[1], master, torch.ones(48), seed=0)
    x, h, t = torch.ones(2, 48), torch.ones(2, 160), torch.full((2,), 0.5)
    before = objective.teacher.velocity(x, h, t)
    with torch.no_grad():
        for p in head.parameters():
            p.zero_()
    assert torch.equal(objective.teacher.velocity(x, h, t), before)


def test_a_guided_student_draws_with_the_weight_that_is_asked(master):
    setting = method("consistency").tries[0]
    objective, _ = build(method("consistency"), setting, master, torch.ones(48), seed=0)
    asked = with_guidance(objective, 1.5)
    seen = []

    def net(x, cond, t, w):
        seen.append(w)
        return torch.zeros_like(x)

    asked.sample(net, torch.zeros(2, 160), torch.zeros(2, 48), 1)
    assert seen[0].tolist() == [1.5, 1.5]
    assert objective.teacher.guidance_scale == 3.0  # the middle of (0, 6), as it was


def test_sizes_and_the_ear_reach_the_head(master):
    weights = torch.linspace(0.5, 1.5, 48)
    objective, head = build(method("energy"), method("energy").tries[2], master, weights, seed=0, depth=2, width=32)
    assert objective.weights is weights and (head.config.depth, head.config.width) == (2, 32)
    assert head.config.noise_dim == 8 and objective.samples == 4
    plain, usual = build(method("energy"), method("energy").tries[0], master, weights, seed=0)
    assert plain.weights is None and usual.config.depth == master.head.config.depth


def test_unknown_methods_are_refused_with_all_names():
    with pytest.raises(ValueError, match="energy, flow, shortcut.*got 'gan'"):
        method("gan")
