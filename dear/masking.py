"""Which tokens are unknown: a random share while training, fewer and fewer while decoding."""

import math

import torch
from torch import Tensor


def sample_mask_ratio(
    generator: torch.Generator, low: float = 0.7, mean: float = 1.0, std: float = 0.25
) -> float:
    """Draw the share of unknown tokens from a normal law cut to [low, 1] (MAR and IMPACT: 1.0, 0.25, [0.7, 1]).

    By the inverse distribution function, hence exact: ratio = mean + std Phi^-1(Phi(a) + u (Phi(b) - Phi(a))) with
    a = (low - mean)/std, b = (1 - mean)/std, u uniform. generator: on any device.  low: in [0, 1).  std: > 0.
    """
    if not 0 <= low < 1 or std <= 0:
        raise ValueError(f"low must lie in [0, 1) and std above 0, got low={low} and std={std}")
    below, above = torch.special.ndtr(torch.tensor([low - mean, 1 - mean], dtype=torch.float64) / std).tolist()
    u = torch.rand((), generator=generator, device=generator.device).item()
    ratio = mean + std * torch.special.ndtri(torch.tensor(below + u * (above - below), dtype=torch.float64)).item()
    return min(max(ratio, low), 1.0)


def random_mask(batch: int, tokens: int, count: int, generator: torch.Generator) -> Tensor:
    """Mark `count` random tokens of every row as unknown: (batch, tokens) bool on the generator's device."""
    if not 0 <= count <= tokens:
        raise ValueError(f"count must lie in 0..{tokens} (the number of tokens), got {count}")
    order = torch.rand(batch, tokens, generator=generator, device=generator.device).argsort(dim=1)
    return torch.zeros_like(order, dtype=torch.bool).scatter_(1, order[:, :count], True)


def cosine_schedule(steps: int, tokens: int) -> list[int]:
    """How many tokens each of `steps` decoding iterations places: few at first, sum `tokens`, at least one each.

    After iteration t (1..steps) floor(cos(pi/2 t/steps) tokens) are still unknown, clamped as MAR does it, to
    max(1, min(unknown - 1, .)), until the last places what is left. steps: 1 to tokens, more is an error.
    """
    if not 1 <= steps <= tokens:
        raise ValueError(f"steps must lie in 1..{tokens} (every iteration places a token), got {steps}")
    unknown = [tokens]
    for t in range(1, steps):
        wanted = math.floor(math.cos(math.pi / 2 * t / steps) * tokens)
        unknown.append(max(1, min(unknown[-1] - 1, wanted)))
    unknown.append(0)
    return [before - after for before, after in zip(unknown, unknown[1:], strict=False)]
