"""Heads on frozen hidden states: what a row is, that it is the backbone's, and what reaches the loss."""

from types import SimpleNamespace

import pytest
import torch

from dear.backbone import BackboneConfig, MaskedTransformer
from dear.data.latents import Latents
from dear.frozen import hidden_states, paired, train_head
from dear.head import AdaLNHead, HeadConfig
from dear.masking import training_mask
from dear.objectives import Energy, Rectified, Shortcut, as_velocity
from dear.training import TrainConfig
from tests.test_recipes import Data


@pytest.fixture(scope="module")
def latents():
    draw = torch.Generator().manual_seed(1)
    mean = torch.randn(8, 32, 48, generator=draw).half()
    return Latents(mean, torch.full_like(mean, 0.1), Data.captions, "mark")


@pytest.fixture(scope="module")
def states(master, latents, tmp_path_factory):
    return hidden_states(master, latents, tmp_path_factory.mktemp("h") / "h.safetensors", progress=False)


def test_rows_are_the_backbones_answer_for_the_unknown_tokens(master, latents, states):
    generator = torch.Generator().manual_seed(0)
    tokens = latents.draw(torch.arange(8), generator)
    masked = training_mask(8, 32, generator)
    text, words = master.text.encode(latents.captions)
    for drop, part in ((False, states.h), (True, states.null)):
        with torch.no_grad():
            h = master.backbone(tokens, masked, text, words, torch.full((8,), drop))
        torch.testing.assert_close(part.float(), h[masked], atol=2e-3, rtol=2e-3)
    assert torch.equal(states.mean, latents.mean[masked]) and len(states) == int(masked.sum())


def test_rows_are_those_of_a_backbone_that_takes_a_pooled_vector(latents, tmp_path):
    class Text(torch.nn.Module):
        def encode(self, captions):
            return torch.ones(len(captions), 2, 4), torch.ones(len(captions), 2, dtype=torch.bool)

        def pooled(self, captions):
            return torch.linspace(-2, 2, len(captions))[:, None].expand(-1, 3)

    size = BackboneConfig(tokens=32, token_dim=48, text_dim=4, text_length=3, width=16, heads=2, pooled_dim=3)
    torch.manual_seed(0)
    whole = SimpleNamespace(text=Text(), backbone=MaskedTransformer(size).eval(), to=lambda device: None)
    found = hidden_states(whole, latents, tmp_path / "h.safetensors", progress=False)
    generator = torch.Generator().manual_seed(0)
    tokens = latents.draw(torch.arange(8), generator)
    masked = training_mask(8, 32, generator)
    with torch.no_grad():
        h = whole.backbone(tokens, masked, *whole.text.encode(range(8)), pooled=whole.text.pooled(range(8)))
    torch.testing.assert_close(found.h.float(), h[masked], atol=2e-3, rtol=2e-3)


def test_states_are_read_back_and_made_anew_for_another_model(master, latents, tmp_path):
    path = tmp_path / "h.safetensors"
    first = hidden_states(master, latents, path, progress=False)
    before = path.stat().st_mtime_ns
    assert torch.equal(hidden_states(master, latents, path, progress=False).h, first.h)
    assert path.stat().st_mtime_ns == before
    other = hidden_states(master, latents, path, seed=1, progress=False)
    assert other.fingerprint != first.fingerprint and path.stat().st_mtime_ns != before


def test_draws_are_fresh_and_drop_the_caption_where_asked(states):
    rows = torch.arange(len(states))
    x, cond = states.draw(rows, torch.Generator().manual_seed(0), text_drop=0.0)
    assert torch.equal(cond, states.h.float())
    again, dropped = states.draw(rows, torch.Generator().manual_seed(1), text_drop=1.0)
    assert torch.equal(dropped, states.null.float()) and not torch.equal(x, again)
    assert 0.05 < (x - states.mean.float()).std() < 0.15  # the posterior's 0.1
    several, both = states.draw(rows, torch.Generator().manual_seed(0), targets=3, both=True)
    assert several.shape == (3, len(states), 48) and not torch.equal(several[0], several[1])
    assert torch.equal(both, torch.cat([states.h, states.null], dim=1).float())


def head(times=0):
    torch.manual_seed(0)
    return AdaLNHead(HeadConfig(token_dim=48, width=16, depth=1, times=times))


CONFIG = TrainConfig(steps=3, batch_size=16)


@pytest.mark.parametrize("target", ["average", "itself"])
def test_objectives_with_a_target_learn_from_what_was_asked(states, tmp_path, monkeypatch, target):
    seen, real = [], Shortcut.loss

    def watched(self, net, x, cond, generator, target=None):
        seen.append((net, target, [p.detach().clone() for p in net.parameters()],
                     [p.detach().clone() for p in target.parameters()]))
        return real(self, net, x, cond, generator, target)

    monkeypatch.setattr(Shortcut, "loss", watched)
    net = head(times=2)
    train_head(net, Shortcut(), states, CONFIG, tmp_path, target=target, progress=False)
    if target == "itself":
        assert all(net is other for net, other, *_ in seen)
        return
    # The average lags: min(0.999, (1 + step) / (10 + step)) of it stays, see Run.average.
    want = seen[0][2]
    for step, (_, _, _, average) in enumerate(seen):
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(average, want, strict=True))
        if step + 1 < len(seen):
            keep = (1 + step) / (10 + step)
            want = [keep * w + (1 - keep) * now for w, now in zip(want, seen[step + 1][2], strict=True)]
    assert all(not p.requires_grad for p in seen[0][1].parameters())


def test_several_targets_reach_the_energy_score(states, tmp_path, monkeypatch):
    shapes, real = [], Energy.loss
    monkeypatch.setattr(Energy, "loss", lambda self, net, x, *rest: shapes.append(x.shape) or real(self, net, x, *rest))
    train_head(head(), Energy(2), states, CONFIG, tmp_path, targets=3, progress=False)
    assert shapes == [(3, 16, 48)] * 3


def test_another_job_does_not_continue_a_run(states, tmp_path):
    train_head(head(), Energy(2), states, CONFIG, tmp_path, progress=False)
    with pytest.raises(ValueError, match="targets 1 -> 2"):
        train_head(head(), Energy(2), states, CONFIG, tmp_path, targets=2, progress=False)
    with pytest.raises(ValueError, match="'average' or 'itself'"):
        train_head(head(), Energy(2), states, CONFIG, tmp_path / "b", target="both", progress=False)


def test_pairs_are_the_teachers_ends(master, states):
    velocity = as_velocity(master.objective, master.head)
    rectified = Rectified(velocity, teacher_steps=2, guidance_scale=2.0)
    made = paired(states, rectified, both=True, rows=40, progress=False)
    assert len(made) == 40 and torch.equal(made.cond, states.h[:40])
    generator = torch.Generator().manual_seed(0)
    x, cond = states.draw(torch.arange(40), generator, both=True)
    want = rectified.pairs(x, cond, generator)
    pairs, seen = made.draw(torch.arange(40), generator, targets=1, both=True)
    torch.testing.assert_close(pairs, want.half().float())
    assert seen.dtype == torch.float32 and made.fingerprint != states.fingerprint
