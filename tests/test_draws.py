"""Draws of the teacher: the data where tokens are known, guided draws of its own where they are not."""

import pytest
import torch

from dear.backbone import BackboneConfig
from dear.data import draws as module
from dear.data.draws import teacher_draws
from dear.data.latents import Latents
from dear.generator import Generator, training_loss
from dear.head import HeadConfig
from dear.objectives import Diffusion, Energy
from dear.text import TextConfig, vocabulary_of

CAPTIONS = [f"a {sound} {place}" for sound in ("bell", "bird", "hiss") for place in range(30)]  # two batches
SIZE = len(CAPTIONS)


class Teacher(Generator):
    """A Generator with what a TextToAudio has beside it."""

    objective = Diffusion()


@pytest.fixture
def latents():
    mean = torch.randn(SIZE, 6, 4, generator=torch.Generator().manual_seed(0)).half()
    return Latents(mean, torch.full_like(mean, 0.1), CAPTIONS)


@pytest.fixture
def teacher():
    torch.manual_seed(0)
    text = TextConfig(vocabulary_of(CAPTIONS), length=8, width=16)
    backbone = BackboneConfig(tokens=6, token_dim=4, text_dim=16, text_length=8, width=16, heads=2)
    teacher = Teacher(text, backbone, HeadConfig(token_dim=4, cond_dim=16, width=16, depth=1, times=1))
    for parameter in teacher.parameters():  # a head starts at 0 and would not read h
        torch.nn.init.normal_(parameter, std=0.3)
    return teacher.eval()


def test_known_tokens_are_the_datas_and_unknown_ones_the_teachers(teacher, latents, tmp_path):
    draws = teacher_draws(teacher, latents, tmp_path / "draws", sampling_steps=3, progress=False)
    tokens, masked = draws.draw(torch.arange(SIZE), torch.Generator())
    assert tokens.shape == (SIZE, 6, 4) and tokens.dtype == torch.float32 and len(draws) == SIZE
    distance = (tokens - latents.mean).norm(dim=2)
    assert distance[~masked].max() < 0.8 < distance[masked].mean()
    counts = masked.sum(1)
    assert counts.min() >= 1 and counts.max() == 6 and len(counts.unique()) > 3


def test_draws_are_the_guided_teachers(teacher, latents, tmp_path):
    """With one step of an x0 that a constant net predicts, the draw can be written down: guidance acts on the net."""
    said = []

    def head(x, h, t):
        said.append(h)
        return torch.cat([torch.full((len(x) // 2, 4), 3.0), torch.full((len(x) // 2, 4), 1.0)])  # cond, uncond

    class Constant(Diffusion):
        def sample(self, net, cond, noise, steps, generator):
            return net(noise, cond, noise[:, 0])

    teacher.head = torch.nn.Identity()
    teacher.head.forward, teacher.objective = head, Constant()
    draws = teacher_draws(teacher, latents, tmp_path / "draws", guidance_scale=2.0, progress=False)
    assert (draws.tokens[draws.masked] == 1 + 2 * (3 - 1)).all()
    cond, uncond = said[0].chunk(2)
    assert cond.shape == uncond.shape and not torch.allclose(cond, uncond)  # one with its caption, one without


def test_they_are_made_once_and_anew_for_another_teacher_setting_or_data(teacher, latents, tmp_path, monkeypatch):
    made, draw = [], module._draw
    monkeypatch.setattr(module, "_draw", lambda *given: made.append(len(given[3])) or draw(*given))

    def again(**changes):
        return teacher_draws(teacher, latents, tmp_path / "draws", **{"sampling_steps": 2, "progress": False} | changes)

    first = again()
    assert made == [64, SIZE - 64]
    second = again()
    assert torch.equal(first.tokens, second.tokens) and torch.equal(first.masked, second.masked) and len(made) == 2
    assert not torch.equal(again(seed=1).tokens, first.tokens) and len(made) == 4
    again(seed=1, guidance_scale=3.0)
    with torch.no_grad():
        teacher.head.out.bias += 1
    again(seed=1, guidance_scale=3.0)
    latents.mean[0] += 1
    warm = again(seed=1, guidance_scale=3.0)
    assert len(made) == 10
    cold = again(seed=1, guidance_scale=3.0, temperature=0.0)
    assert len(made) == 12 and torch.equal(cold.masked, warm.masked) and not torch.equal(cold.tokens, warm.tokens)


@pytest.mark.parametrize("change", [
    lambda teacher, latents: latents.std.mul_(50),
    lambda teacher, latents: latents.mean[1].add_(9),  # one clip of many
    lambda teacher, latents: latents.captions.__setitem__(1, "a hiss"),
    lambda teacher, latents: teacher.text.positions.data.add_(1),
    lambda teacher, latents: teacher.backbone.text_in.weight.data.add_(1),
    lambda teacher, latents: setattr(teacher, "objective", Diffusion(schedule="linear")),
    lambda teacher, latents: setattr(teacher, "objective", Diffusion(clip=3.0)),
])  # fmt: skip
def test_draws_are_stale_once_anything_changed_that_they_were_made_from(teacher, latents, tmp_path, change):
    teacher.objective, latents.captions = Diffusion(), list(latents.captions)

    def made() -> int:
        """Which file holds the draws."""
        teacher_draws(teacher, latents, tmp_path / "draws", sampling_steps=1, progress=False)
        return (tmp_path / "draws").stat().st_ino  # written beside and renamed: another file

    first = made()
    assert made() == first
    with torch.no_grad():
        change(teacher, latents)
    assert made() != first


def test_bad_settings_are_refused_before_anything_is_drawn(teacher, latents, tmp_path):
    for bad in ({"guidance_scale": float("nan")}, {"guidance_scale": -3.0}, {"temperature": -1.0}):
        with pytest.raises(ValueError, match=f"{next(iter(bad))} must be a number >= 0"):
            teacher_draws(teacher, latents, tmp_path / "draws", progress=False, **bad)
    assert not (tmp_path / "draws").exists()


def test_draws_see_the_pooled_vector_of_a_teacher_that_takes_one(latents, tmp_path):
    """Captions that differ in that vector alone are drawn differently."""
    torch.manual_seed(0)
    backbone = BackboneConfig(tokens=6, token_dim=4, text_dim=16, text_length=9, width=16, heads=2, pooled_dim=3)
    teacher = Teacher(TextConfig(vocabulary_of(CAPTIONS), length=8, width=16), backbone,
                      HeadConfig(token_dim=4, cond_dim=16, width=16, depth=1, times=1)).eval()
    for parameter in teacher.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    drawn = []
    for value in (-3.0, 3.0):
        teacher.text.pooled = lambda captions, value=value: torch.full((len(captions), 3), value)
        path = tmp_path / str(value)
        drawn.append(teacher_draws(teacher, latents, path, sampling_steps=2, progress=False))
    assert torch.equal(drawn[0].masked, drawn[1].masked)
    assert (drawn[0].tokens - drawn[1].tokens)[drawn[0].masked].abs().mean() > 1e-2


def test_training_takes_the_masks_that_are_given(teacher):
    tokens = torch.randn(3, 6, 4)
    masked = torch.tensor([[True] * 6, [True] + [False] * 5, [False] * 5 + [True]])
    seen = []

    class Watch(Energy):
        def loss(self, net, x, cond, generator, target=None):
            seen.append(x)
            return x.sum(1)

    ids, words = teacher.text.tokenize(CAPTIONS[:3])
    training_loss(teacher, Watch(), tokens, ids, words, torch.Generator().manual_seed(0), masked=masked)
    assert torch.equal(seen[0], tokens[masked])
