"""Text and sound pulled together: InfoNCE against torch's cross-entropy by hand, and that it learns what belongs."""

import math

import pytest
import torch

from dear.contrastive import Pair, contrastive_loss
from dear.text import TextConfig

TEXT = TextConfig(("a", "bell", "bird", "low"), length=6, width=16, layers=1, heads=2)


def unit(*shape, seed=0):
    return torch.nn.functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_the_loss_is_the_mean_of_both_cross_entropies_by_hand():
    audio, text, scale = unit(3, 5), unit(3, 5, seed=1), 4.0
    by_hand = 0
    for i in range(3):
        here = [math.exp(scale * float(audio[i] @ text[j])) for j in range(3)]
        there = [math.exp(scale * float(audio[j] @ text[i])) for j in range(3)]
        by_hand -= math.log(here[i] / sum(here)) + math.log(there[i] / sum(there))
    assert contrastive_loss(audio, text, torch.tensor(scale)).item() == pytest.approx(by_hand / 6, rel=1e-5)


def test_the_loss_of_vectors_that_tell_nothing_is_log_of_the_batch_and_of_sure_ones_nearly_zero():
    same = unit(1, 5).expand(8, 5)
    assert contrastive_loss(same, same, torch.tensor(10.0)).item() == pytest.approx(math.log(8), rel=1e-5)
    assert contrastive_loss(torch.eye(8), torch.eye(8), torch.tensor(50.0)).item() < 1e-6


def test_vectors_are_of_unit_length_and_do_not_see_padding():
    torch.manual_seed(0)
    pair = Pair(TEXT, tokens=8, token_dim=4)
    tokens = torch.randn(2, 8, 4)
    ids, words = torch.tensor([[0, 3, 1], [0, 2, 0]]), torch.tensor([[True, True, True], [True, True, False]])
    audio, text = pair(tokens, ids, words)
    torch.testing.assert_close(audio.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(text.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(pair(tokens, ids + (~words).long(), words)[1], text)


def test_sound_is_all_tokens_in_their_order_and_text_the_mean_of_its_words():
    torch.manual_seed(0)
    pair = Pair(TEXT, tokens=8, token_dim=4)
    tokens, ids, words = torch.randn(2, 8, 4), torch.tensor([[0, 3], [1, 2]]), torch.ones(2, 2, dtype=torch.bool)
    audio, text = pair(tokens, ids, words)
    last, turned = tokens.clone(), tokens.flip(1)
    last[:, -1] += 1
    for other in (last, turned):
        assert (pair(other, ids, words)[0] - audio).abs().amax() > 1e-3
    padded = pair(tokens, torch.nn.functional.pad(ids, (0, 2)), torch.nn.functional.pad(words, (0, 2)))[1]
    torch.testing.assert_close(padded, text)
    mean = pair.text(ids, words).mean(dim=1)
    torch.testing.assert_close(text, torch.nn.functional.normalize(pair.text_out(mean), dim=-1))


def test_learns_which_caption_belongs_to_which_sound():
    torch.manual_seed(0)
    pair = Pair(TEXT, tokens=8, token_dim=4)
    sounds, words = torch.randn(4, 8, 4), torch.ones(4, 2, dtype=torch.bool)
    ids = torch.tensor([[0, 1], [0, 2], [3, 1], [3, 2]])
    optimizer = torch.optim.AdamW(pair.parameters(), 3e-3)
    before = contrastive_loss(*pair(sounds, ids, words), pair.log_scale.exp()).item()
    for step in range(60):
        noisy = sounds + 0.3 * torch.randn(sounds.shape, generator=torch.Generator().manual_seed(step))
        loss = contrastive_loss(*pair(noisy, ids, words), pair.log_scale.exp())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert before > 0.8 and loss.item() < 0.1
