"""Do clips sound like their captions, and unlike each other? Cosine to a text's embedding, spread within a caption."""

import torch
from torch import Tensor


def clap_score(text: Tensor, audio: Tensor) -> float:
    """Mean cosine of captions' and clips' embeddings, in [-1, 1]: the CLAP score, if both come from a CLAP model.

    text, audio: (n, E), row i of both belonging together.
    """
    for name, x in (("text", text), ("audio", audio)):
        if x.ndim != 2 or not len(x):
            raise ValueError(f"{name} must be embeddings (n, E), got shape {tuple(x.shape)}")
        if not x.isfinite().all() or (x == 0).all(dim=1).any():
            raise ValueError(f"{name} holds embeddings that are not finite or zero; look for silent or broken clips")
    if text.shape != audio.shape:
        raise ValueError(f"pairs must have one shape, got {tuple(text.shape)} and {tuple(audio.shape)}")
    return float(torch.cosine_similarity(text.double(), audio.double(), dim=1).mean())


def mean_distance(features: Tensor) -> float:
    """Mean Euclidean distance between the samples of a group, over pairs and groups; features (groups, samples, F)."""
    m = features.shape[1]
    return float(torch.cdist(features, features).sum() / (len(features) * m * (m - 1)))
