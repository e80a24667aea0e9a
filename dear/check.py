"""Answers to exercises: right, or which typical mistake. Every function returns one sentence to print."""

from collections.abc import Callable

import torch
from torch import Tensor

RIGHT = "Right."


def energy_score(answer: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Judge answer(samples (m, B, D), y (B, D)) -> (B,), an unbiased estimate of the energy score of each y."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(4, 5, 3, generator=generator), 2 * torch.randn(5, 3, generator=generator)
    return _judge(answer(x, y), _scores(x, y))


def energy_loss(answer: Callable[[Callable[[Tensor], Tensor], Tensor, torch.Generator], Tensor]) -> str:
    """Judge answer(net, y (B, D), generator) -> (B,): the energy score of two samples net(noise (B, D)) for each y."""
    y, calls = 2 * torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), []

    def net(noise: Tensor) -> Tensor:
        calls.append(noise)
        return 0.5 * noise

    found = answer(net, y, torch.Generator().manual_seed(1))
    noise = torch.cat(calls) if calls else y[:0]
    if noise.shape != (2 * len(y), y.shape[1]):
        return f"Wanted 2 samples for each of {len(y)} targets, from noise (12, 3); the noise was {tuple(noise.shape)}."
    first, second = noise.chunk(2)
    if torch.equal(first, second):
        return "Both samples were made from the same noise: they are equal, and the second term is always 0."
    return _judge(found, _scores(0.5 * torch.stack([first, second]), y))


def _scores(x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """What samples x (m, B, D) score at y (B, D): rightly, and by each typical mistake."""
    m = len(x)
    apart, between = (x - y).norm(dim=2), (x[:, None] - x[None]).norm(dim=3)
    pull, push = 2 * apart.mean(0), between.sum((0, 1)) / (m * (m - 1))
    return {
        RIGHT: pull - push,
        "The factor 2 of the first term is missing: samples repel each other twice as much as the data attracts them.":
            pull / 2 - push,
        "The second term is missing: without repulsion all samples fall together.": pull,
        "The second term has the wrong sign: it has to reward samples that lie apart.": pull + push,
        "This is the V-statistic: it counts each sample's distance 0 to itself. Divide by m (m - 1), not by m m.":
            pull - between.mean((0, 1)),
        "These are squared distances: with exponent 2 nothing but the mean is compared.":
            2 * (apart**2).mean(0) - (between**2).sum((0, 1)) / (m * (m - 1)),
    }


def _judge(found: object, scores: dict[str, Tensor]) -> str:
    """The sentence whose score was found, or how it differs from the right one."""
    right = scores[RIGHT]
    if not isinstance(found, Tensor):
        return f"Wanted a tensor of shape {tuple(right.shape)}, got {type(found).__name__}."
    if found.shape != right.shape:
        return f"Wanted one number for each target, shape {tuple(right.shape)}; got shape {tuple(found.shape)}."
    for sentence, score in scores.items():
        if torch.allclose(found, score, rtol=1e-4):
            return sentence
    return f"Not right, and no mistake known here: for the first target wanted {right[0]:.3f}, got {found[0]:.3f}."
