"""What a classifier says of clips: Kullback-Leibler divergence of paired clips, and the inception score of a set."""

import numpy as np
from numpy.typing import ArrayLike

CONVENTIONS = ("audioldm_eval", "textbook")


def kl_divergence(reference: ArrayLike, predicted: ArrayLike, convention: str = "audioldm_eval") -> float:
    """How far a classifier hears other things in clips than in the recordings that they are paired with, in nats.

        mean over pairs of  sum_c p_reference(c) log(p_reference(c) / (p_predicted(c) + eps))

    reference, predicted: probabilities (n, C) of paired clips, rows of sum 1.  convention: "audioldm_eval", which the
    papers use, has eps = 1e-6, so that a class that a clip lacks costs at most 13.8 nats, and equal pairs have -1e-6 C
    at the least; "textbook" has eps = 0 and may be infinite.
    """
    reference, predicted = _probabilities(reference, "reference"), _probabilities(predicted, "predicted")
    if reference.shape != predicted.shape:
        raise ValueError(f"pairs must have one shape, got {reference.shape} and {predicted.shape}")
    below = predicted + (1e-6 if _checked(convention) == "audioldm_eval" else 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(reference > 0, reference * np.log(reference / below), 0.0)
    return float(terms.sum(axis=1).mean())


def inception_score(probabilities: ArrayLike, convention: str = "audioldm_eval", seed: int = 0) -> float:
    """How sure a classifier is of each clip of a set and how much it hears over all of them, in [1, C].

        exp( mean over clips of KL(p(c | clip) || p(c)) ),   p(c) the mean over clips       (Salimans et al. 2016)

    It never looks at what was asked for. probabilities: (n, C), rows of sum 1.  convention: "audioldm_eval" is the mean
    of the scores of 10 parts of the shuffled set (order by `seed`), which is lower the fewer clips a part has;
    "textbook" scores the set as one.
    """
    p = _probabilities(probabilities, "probabilities")
    parts = 10 if _checked(convention) == "audioldm_eval" else 1
    if len(p) < 2 * parts:
        raise ValueError(f"{parts} part(s) of at least 2 clips need {2 * parts} clips, got {len(p)}")
    if parts > 1:
        p = p[np.random.default_rng(seed).permutation(len(p))]
    scores = []
    for part in np.array_split(p, parts):
        mean = part.mean(axis=0)
        logs = np.log(part, where=part > 0, out=np.zeros_like(part)) - np.log(mean, where=mean > 0, out=mean * 0)
        scores.append(np.exp((part * logs).sum(axis=1).mean()))
    return float(np.mean(scores))


def _checked(convention: str) -> str:
    if convention not in CONVENTIONS:
        raise ValueError(f"convention must be one of {', '.join(CONVENTIONS)}, got {convention!r}")
    return convention


def _probabilities(values: ArrayLike, name: str) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"{name} must be probabilities (n, C), got shape {values.shape}")
    # NaN fails both comparisons
    if not ((values >= 0).all() and (np.abs(values.sum(axis=1) - 1) < 1e-3).all()):
        raise ValueError(f"{name} must hold rows of probabilities: none negative or NaN, of sum 1; "
                         "logits go through a softmax first")
    return values
