"""Masking against scipy's truncated normal, and the properties that a decoding schedule must have."""

import math

import pytest
import scipy.stats
import torch

from dear.masking import cosine_schedule, decoding_schedule, random_mask, sample_mask_ratios


@pytest.mark.parametrize("low, mean, std", [(0.7, 1.0, 0.25), (0.0, 0.4, 0.1)])
def test_mask_ratio_follows_scipys_truncated_normal(low, mean, std):
    generator = torch.Generator().manual_seed(0)
    drawn = sample_mask_ratios(4000, generator, low, mean, std).numpy()
    law = scipy.stats.truncnorm((low - mean) / std, (1 - mean) / std, loc=mean, scale=std)
    assert drawn.min() >= low and drawn.max() <= 1
    # With 4000 draws a wrong law (say, the uniform one) gives a p-value below 1e-20.
    assert scipy.stats.kstest(drawn, law.cdf).pvalue > 1e-3


def test_random_mask_hides_exactly_its_count_of_every_row_and_any_position_equally_often():
    generator = torch.Generator().manual_seed(0)
    counts = torch.tensor([3, 5]).repeat(2000)
    mask = random_mask(8, counts, generator)
    assert mask.dtype == torch.bool and torch.equal(mask.sum(dim=1), counts)
    # Each position is hidden with probability 3/8 or 5/8; five standard errors at 2000 rows are 0.054.
    assert (mask[::2].float().mean(dim=0) - 3 / 8).abs().max() < 0.054
    assert (mask[1::2].float().mean(dim=0) - 5 / 8).abs().max() < 0.054
    assert random_mask(8, torch.tensor([0, 8]), generator).tolist() == [[False] * 8, [True] * 8]


@pytest.mark.parametrize("kind", ["cosine", "linear"])
@pytest.mark.parametrize("tokens", [*range(1, 65), 256])
def test_schedule_places_every_token_and_at_least_one_an_iteration(tokens, kind):
    for steps in range(1, tokens + 1):
        placed = decoding_schedule(kind, steps, tokens)
        assert len(placed) == steps and min(placed) >= 1 and sum(placed) == tokens


def test_schedule_is_the_cosine_where_the_clamp_does_not_bind():
    placed = cosine_schedule(8, 256)
    for t in range(1, 9):
        assert 256 - sum(placed[:t]) == math.floor(math.cos(math.pi / 2 * t / 8) * 256 + 1e-9)
    assert cosine_schedule(1, 5) == [5] and cosine_schedule(5, 5) == [1] * 5
    # cos(pi/8), cos(pi/4), cos(3 pi/8) times 32 are 29.6, 22.6, 12.2.
    assert cosine_schedule(4, 32) == [3, 7, 10, 12]


def test_linear_schedule_places_as_many_in_each_iteration():
    assert decoding_schedule("linear", 8, 32) == [4] * 8 and decoding_schedule("linear", 16, 32) == [2] * 16
    # 32 (1 - t/3) leaves 21 and 10.
    assert decoding_schedule("linear", 3, 32) == [11, 11, 10]


def test_bad_arguments():
    generator = torch.Generator()
    for steps in (0, 9):
        with pytest.raises(ValueError, match="steps must lie in 1..8"):
            cosine_schedule(steps, 8)
    with pytest.raises(ValueError, match=r"counts must lie in 0..4 .* got \[2, 5\]"):
        random_mask(4, torch.tensor([2, 5]), generator)
    with pytest.raises(ValueError, match="one of cosine, linear, got 'square'"):
        decoding_schedule("square", 2, 4)
    with pytest.raises(ValueError, match="low must lie"):
        sample_mask_ratios(1, generator, low=1.0)
    with pytest.raises(ValueError, match="std above 0"):
        sample_mask_ratios(1, generator, std=0.0)
