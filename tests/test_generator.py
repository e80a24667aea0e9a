"""The loss of one training step: its terms by hand, and that teacher and student see the same."""

import math
from dataclasses import replace

import pytest
import torch

from dear.backbone import BackboneConfig
from dear.distillation import hidden_state_loss
from dear.generator import Generator, grown, training_loss
from dear.head import HeadConfig
from dear.masking import random_mask, sample_mask_ratios, training_mask
from dear.objectives import Diffusion, Energy
from dear.text import TextConfig

TEXT = TextConfig(("a", "bell", "bird", "low"), length=6, width=16, layers=1, heads=2)
BACKBONE = BackboneConfig(tokens=8, token_dim=4, text_dim=16, text_length=6, width=24, encoder_layers=1,
                          decoder_layers=2, heads=2)
HEAD = dict(token_dim=4, cond_dim=24, width=16, depth=1)


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def model(seed=0, times=0) -> Generator:
    torch.manual_seed(seed)
    net = Generator(TEXT, BACKBONE, HeadConfig(**HEAD, times=times))
    with torch.no_grad():  # the head's last layers start at zero; moved, so that h matters to its output
        for p in net.head.parameters():
            p.add_(0.1 * torch.randn(p.shape))
    return net


@pytest.fixture
def batch():
    ids = torch.tensor([[0, 3, 1], [0, 2, 0], [1, 0, 0]])
    words = torch.tensor([[True, True, True], [True, True, False], [True, False, False]])
    return torch.randn(3, 8, 4, generator=gen(9)), ids, words


class Spy:
    """A net that writes down what it is called with."""

    def __init__(self, net):
        self.net, self.seen = net, []
        self.head, self.mean = net.head, net.mean

    def __call__(self, *args):
        self.seen.append([a.clone() for a in args if a is not None])
        return self.net(*args)


def test_the_loss_is_the_objectives_mean_over_masked_tokens(batch):
    net, (tokens, ids, words) = model(), batch
    loss, figures = training_loss(net, Energy(), tokens, ids, words, gen(3))
    replay = gen(3)  # ratios, masks, dropped texts, then the objective's noise
    counts = (sample_mask_ratios(3, replay, 0.0, 1.0, 0.3) * 8).ceil().long()
    masked = random_mask(8, counts, replay)
    drop = torch.rand(3, generator=replay) < 0.1
    h = net.backbone(tokens, masked, net.text(ids, words), words, drop)
    expected = Energy().loss(net.head, tokens[masked], h[masked], replay)
    assert expected.shape == (counts.sum(),) and counts.unique().numel() > 1 and figures.keys() == {"objective"}
    assert loss.item() == pytest.approx(expected.mean().item(), rel=1e-5) == figures["objective"]


def test_teacher_and_student_see_identical_tokens_masks_and_texts(batch):
    student, teacher = Spy(model(0)), Spy(model(1, times=1))
    training_loss(student, Energy(), *batch, gen(3), teacher=teacher, text_drop=0.5)
    assert len(student.seen) == len(teacher.seen) == 1 and len(student.seen[0]) == 5
    for ours, theirs in zip(student.seen[0], teacher.seen[0], strict=True):
        assert torch.equal(ours, theirs)
    masked, drop = student.seen[0][1], student.seen[0][4]
    assert masked.any(dim=1).all()
    assert drop.dtype == torch.bool


def test_texts_are_dropped_at_the_rate_told(batch):
    spy = Spy(model())
    for seed in range(100):
        training_loss(spy, Energy(), *batch, gen(seed), text_drop=0.3)
    share = torch.cat([seen[4] for seen in spy.seen]).float().mean().item()
    assert share == pytest.approx(0.3, abs=0.1)  # 300 draws: 4 standard deviations


@pytest.mark.parametrize("law, expected", [((0.0, 1.0, 0.3), {1, 2, 3, 4, 5, 6, 7, 8}), ((0.7, 1.0, 0.25), {6, 7, 8})])
def test_every_clip_has_a_mask_ratio_of_its_own_from_the_law_told(batch, law, expected):
    spy = Spy(model())
    for seed in range(100):
        training_loss(spy, Energy(), *batch, gen(seed), mask_law=law)
    counts = torch.stack([seen[1].sum(1) for seen in spy.seen])
    assert set(counts.flatten().tolist()) == expected  # ceil of 8 times low to 1
    assert (counts != counts[:, :1]).any()


def test_runs_with_and_without_distillation_and_of_any_start_share_masks_and_noise(batch):
    teacher, calls = model(5, times=1), []
    for net, options in ((model(0), {"teacher": teacher}), (model(0), {"teacher": teacher, "distillation_weight": 0}),
                         (model(0), {}), (model(7), {"teacher": teacher})):
        spy = Spy(net)
        _, figures = training_loss(spy, Energy(), *batch, gen(3), **options)
        calls.append((spy.seen[0], figures["objective"]))
    for seen, _ in calls[1:]:
        assert all(torch.equal(a, b) for a, b in zip(seen, calls[0][0], strict=True))
    # Same weights, same masks and same noise of the head: the same objective, whatever is added to it.
    assert calls[0][1] == calls[1][1] == calls[2][1] != calls[3][1]


def hidden(net, batch, seed):
    spy = Spy(net)
    training_loss(spy, Energy(), *batch, gen(seed))
    return net(*spy.seen[0]), spy.seen[0][1]


@pytest.mark.parametrize("layers", ["last", "all", (0,)])
def test_the_whole_is_the_objective_plus_lambda_times_the_distance_of_hidden_states(batch, layers):
    student, teacher = model(0), model(1, times=1)
    loss, figures = training_loss(student, Energy(), *batch, gen(3), teacher=teacher, distillation_weight=7.0,
                                  layers=layers)
    ours, masked = hidden(student, batch, 3)
    theirs, _ = hidden(teacher_as_student(teacher), batch, 3)
    assert not masked.all()  # seed 3 leaves two tokens of eight known: these do not count
    distance = hidden_state_loss(ours, theirs, masked, layers).item()
    assert figures["distill"] == pytest.approx(distance, rel=1e-5) and distance > 0.01
    assert loss.item() == pytest.approx(figures["objective"] + 7 * distance, rel=1e-5)


def teacher_as_student(teacher):
    """The teacher with a head that an energy objective can call: the hidden states do not depend on it."""
    net = model(0)
    net.text.load_state_dict(teacher.text.state_dict())
    net.backbone.load_state_dict(teacher.backbone.state_dict())
    return net


def test_a_student_that_starts_as_its_teacher_is_at_no_distance(batch):
    teacher = model(1, times=1)
    _, figures = training_loss(teacher_as_student(teacher), Energy(), *batch, gen(), teacher=teacher)
    assert figures["distill"] == 0


def test_weight_zero_logs_the_distance_and_trains_without_it(batch):
    student, teacher = model(0), model(1, times=1)
    plain, _ = training_loss(student, Energy(), *batch, gen(), teacher=None)
    loss, figures = training_loss(student, Energy(), *batch, gen(), teacher=teacher, distillation_weight=0.0)
    assert loss.item() == plain.item() and figures["distill"]() > 0 and "gradient_ratio" not in figures
    first = torch.autograd.grad(plain, student.backbone.parameters(), allow_unused=True)
    second = torch.autograd.grad(loss, student.backbone.parameters(), allow_unused=True)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True) if a is not None)


def test_the_ratio_of_gradients_is_that_of_the_two_terms_at_h(batch):
    student, teacher = model(0), model(1, times=1)
    grabbed = []

    class Keeping(Spy):
        def __call__(self, *args):
            grabbed.append(super().__call__(*args))
            return grabbed[-1]

    loss, figures = training_loss(Keeping(student), Energy(), *batch, gen(6), teacher=teacher, distillation_weight=50.0)
    ratio = figures["gradient_ratio"]()
    assert all(p.grad is None for p in student.parameters())  # asking leaves no trace, and the graph is still there
    plain, _ = training_loss(Keeping(student), Energy(), *batch, gen(6))
    (both,), (objective,) = (torch.autograd.grad(value, states[-1]) for value, states in
                             zip((loss, plain), grabbed, strict=True))
    assert ratio == pytest.approx(((both - objective).norm() / objective.norm()).item(), rel=1e-3)
    _, double = training_loss(student, Energy(), *batch, gen(6), teacher=teacher, distillation_weight=100.0)
    assert double["gradient_ratio"]() == pytest.approx(2 * ratio, rel=1e-4)


def test_a_frozen_text_encoder_and_the_teacher_get_no_gradient(batch):
    student, teacher = model(0), model(1, times=1)
    student.text.requires_grad_(False)
    loss, _ = training_loss(student, Energy(), *batch, gen(), teacher=teacher)
    loss.backward()
    assert all(p.grad is None for p in [*student.text.parameters(), *teacher.parameters()])
    for part in (student.backbone, student.head):
        assert all(p.grad is not None for p in part.parameters())


def test_a_teacher_of_diffusion_trains_its_text_encoder_too(batch):
    net = model(0, times=1)
    loss, figures = training_loss(net, Diffusion(), *batch, gen())
    loss.backward()
    assert math.isfinite(loss.item()) and figures.keys() == {"objective"}
    assert all(p.grad is not None for p in net.parameters())
    assert net.text.embedding.weight.grad.abs().sum() > 0


def test_hidden_states_come_after_each_decoder_layer(batch):
    tokens, ids, words = batch
    masked, drop = torch.ones(3, 8, dtype=torch.bool), torch.zeros(3, dtype=torch.bool)
    states = model()(tokens, masked, ids, words, drop)
    assert [tuple(s.shape) for s in states] == [(3, 8, 24)] * 2


def test_a_model_with_a_mean_also_regresses_each_masked_token(batch):
    tokens, ids, words = batch
    torch.manual_seed(0)
    net = Generator(TEXT, BACKBONE, HeadConfig(**HEAD), mean=True)
    plain, _ = training_loss(net, Energy(), tokens, ids, words, gen(3), mean_weight=0.0)
    loss, figures = training_loss(net, Energy(), tokens, ids, words, gen(3), mean_weight=2.0)
    replay = gen(3)
    masked = training_mask(3, 8, replay)
    h = net(tokens, masked, ids, words, torch.rand(3, generator=replay) < 0.1)[-1]
    wanted = ((net.mean(h) - tokens) ** 2).mean(dim=2)[masked].mean()
    torch.testing.assert_close(loss - plain, 2 * wanted)
    assert figures["mean"] == pytest.approx(float(wanted.detach()))
    loss.backward()
    assert net.mean.weight.grad.abs().sum() > 0
    assert "mean" not in training_loss(model(), Energy(), tokens, ids, words, gen(3))[1]


@pytest.mark.parametrize("times", [0, 1])
def test_a_grown_network_is_the_same_function_and_all_that_is_new_can_learn(batch, times):
    small, (tokens, ids, words) = model(times=times), batch
    large = grown(small, decoder_layers=4, head_depth=3)
    masked, drop = random_mask(8, torch.tensor([3, 5, 8]), gen(1)), torch.zeros(3, dtype=torch.bool)
    states = [net(tokens, masked, ids, words, drop) for net in (small, large)]
    assert [len(s) for s in states] == [2, 4]
    torch.testing.assert_close(states[0][-1], states[1][-1])
    noise, t = torch.randn(16, 4, generator=gen(2)), [torch.rand(16, generator=gen(4))] * times
    h = states[0][-1][masked]
    torch.testing.assert_close(large.head(noise, h, *t), small.head(noise, h, *t))
    optimizer = torch.optim.SGD(large.parameters(), lr=0.1)
    for _ in range(2):  # one step opens the gates, the next moves what lies behind them
        before = {n: p.clone() for n, p in large.named_parameters()}
        optimizer.zero_grad()
        training_loss(large, Diffusion() if times else Energy(), tokens, ids, words, gen(5))[0].backward()
        optimizer.step()
    new = {n for n, _ in large.named_parameters()} - {n for n, _ in small.named_parameters()}
    still = {n for n in new if torch.equal(before[n], large.state_dict()[n])}
    assert len(new) == 2 * 12 + 2 * 6 and not still


def test_a_network_cannot_grow_smaller_nor_where_that_would_change_it():
    with pytest.raises(ValueError, match="of 2 decoder layers and 1 blocks of the head cannot grow to 1 and 1"):
        grown(model(), 1, 1)
    hidden = Generator(TEXT, BACKBONE, HeadConfig(**HEAD, main="hidden"))
    with pytest.raises(ValueError, match="would change its function at once"):
        grown(hidden, 2, 2)
    assert grown(hidden, 3, 1).backbone.config.decoder_layers == 3


def test_texts_may_come_as_vectors_of_a_frozen_encoder_with_one_more_for_the_whole(batch):
    sizes = replace(BACKBONE, pooled_dim=6, text_length=BACKBONE.text_length + 1)
    net = Generator(None, sizes, HeadConfig(**HEAD), mean=True)  # a new head does not look at h, the mean does
    tokens, _, words = batch
    vectors, pooled = torch.randn(3, 3, sizes.text_dim, generator=gen(1)), torch.randn(3, 6, generator=gen(2))
    told = (tokens, random_mask(8, torch.tensor([3, 5, 8]), gen(1)), vectors, words)
    drop = torch.tensor([False, False, True])
    states, others = (net(*told, drop, whole) for whole in (pooled, pooled + 1))
    torch.testing.assert_close(states[-1], net.backbone(*told, drop, pooled))
    assert [torch.equal(a, b) for a, b in zip(states[-1], others[-1], strict=True)] == [False, False, True]
    loss, _ = training_loss(net, Energy(), tokens, vectors, words, gen(3), pooled=pooled)
    other, _ = training_loss(net, Energy(), tokens, vectors, words, gen(3), pooled=pooled + 1)
    assert loss != other
    with pytest.raises(ValueError, match="pooled must be"):
        training_loss(net, Energy(), tokens, vectors, words, gen(3))
    assert grown(net, 3, 2).text is None
