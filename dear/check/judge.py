"""How an answer is judged: compared with the right one and with typical mistakes."""

import torch
from torch import Tensor

RIGHT = "Right."


def scores(x: Tensor, y: Tensor) -> dict[str, Tensor]:
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


def judge(found: object, scores: dict[str, Tensor], wanted: str | None = None) -> str:
    """The sentence whose score was found, or how it differs from the right one; `wanted` says in words what that is."""
    right = scores[RIGHT]
    if not isinstance(found, Tensor):
        return f"Wanted a tensor of shape {tuple(right.shape)}, got {type(found).__name__}."
    if found.shape != right.shape:
        number = "one number" if right.ndim < 2 else f"{right.shape[1]} numbers"
        wanted = wanted or f"{number} for each target"
        return f"Wanted {wanted}, shape {tuple(right.shape)}; got shape {tuple(found.shape)}."
    for sentence, score in scores.items():
        if torch.allclose(found, score, rtol=1e-4, atol=1e-5):
            return sentence
    first = [" ".join(f"{v:.3f}" for v in torch.atleast_1d(values)[0].flatten()[:2]) for values in (right, found)]
    return f"Not right, and no mistake known here: it begins with {first[1]}, wanted {first[0]}."
