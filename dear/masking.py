"""Which tokens are unknown: a random share while training, fewer and fewer while decoding."""

import math

import torch
from torch import Tensor

# Low, mean and std of the share of unknown tokens. IMPACT's (0.7, 1.0, 0.25) leaves 34 of its 256 tokens known on
# average, but only 4 of the classroom's 32.
CLASSROOM_LAW = (0.0, 1.0, 0.3)


def sample_mask_ratios(
    batch: int, generator: torch.Generator, low: float = 0.7, mean: float = 1.0, std: float = 0.25
) -> Tensor:
    """Draw shares of unknown tokens, (batch,), from a normal law cut to [low, 1] (MAR, IMPACT: 1.0, 0.25, [0.7, 1]).

    By the inverse distribution function, hence exact: ratio = mean + std Phi^-1(Phi(a) + u (Phi(b) - Phi(a))) with
    a = (low - mean)/std, b = (1 - mean)/std, u uniform. generator: on any device.  low: in [0, 1).  std: > 0.
    """
    if not 0 <= low < 1 or std <= 0:
        raise ValueError(f"low must lie in [0, 1) and std above 0, got low={low} and std={std}")
    below, above = torch.special.ndtr(torch.tensor([low - mean, 1 - mean], dtype=torch.float64) / std).tolist()
    u = torch.rand(batch, generator=generator, device=generator.device)
    return (mean + std * torch.special.ndtri(below + u.double() * (above - below))).clamp(low, 1.0)


def random_mask(tokens: int, counts: Tensor, generator: torch.Generator) -> Tensor:
    """Mark counts[b] random tokens of row b as unknown; counts is (B,), returns (B, tokens) bool on its device."""
    if counts.min() < 0 or counts.max() > tokens:
        raise ValueError(f"counts must lie in 0..{tokens} (the number of tokens), got {counts.tolist()}")
    scores = torch.rand(len(counts), tokens, generator=generator, device=counts.device)
    return scores.argsort(dim=1).argsort(dim=1) < counts[:, None]


def training_mask(
    batch: int, tokens: int, generator: torch.Generator, law: tuple[float, float, float] = CLASSROOM_LAW
) -> Tensor:
    """Unknown tokens of a training step, (batch, tokens) bool: each row a ratio of its own, at least one token.

    law: low, mean and std of `sample_mask_ratios`.
    """
    ratios = sample_mask_ratios(batch, generator, *law)
    return random_mask(tokens, (ratios * tokens).ceil().long().clamp(min=1), generator)


def decoding_schedule(kind: str, steps: int, tokens: int) -> list[int]:
    """How many tokens each of `steps` decoding iterations places: sum `tokens`, at least one each.

    After iteration t (1..steps) floor(share(t/steps) tokens) are still unknown, but at least one less than before (MAR)
    and at least one for each iteration that is left. kind: "cosine", share(u) = cos(pi/2 u): few at first (MAR,
    MaskGIT), or "linear", share(u) = 1 - u: as many in each.  steps: 1 to tokens, more is an error.
    """
    if kind not in ("cosine", "linear"):
        raise ValueError(f"the decoding schedule must be one of cosine, linear, got {kind!r}")
    if not 1 <= steps <= tokens:
        raise ValueError(f"steps must lie in 1..{tokens} (every iteration places a token), got {steps}")
    unknown = [tokens]
    for t in range(1, steps):
        share = math.cos(math.pi / 2 * t / steps) * tokens
        wanted = math.floor(share) if kind == "cosine" else tokens * (steps - t) // steps
        unknown.append(max(steps - t, min(unknown[-1] - 1, wanted)))
    unknown.append(0)
    return [before - after for before, after in zip(unknown, unknown[1:], strict=False)]


def cosine_schedule(steps: int, tokens: int) -> list[int]:
    """`decoding_schedule` of the papers: few tokens at first, when little is known."""
    return decoding_schedule("cosine", steps, tokens)
