"""CLAP score by hand, spread against scipy."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist

from dear.metrics.similarity import clap_score, mean_distance


def test_clap_score_is_a_mean_cosine_that_no_size_changes():
    text = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    audio = torch.tensor([[3.0, 0.0], [0.0, -1.0], [1.0, 0.0]])
    assert clap_score(text, audio) == pytest.approx((1 - 1 + 0.5**0.5) / 3)
    for bad, said in ((text[:2], "one shape"), (text[0], "embeddings"), (text * float("nan"), "not finite"),
                      (text * 0, "zero")):
        with pytest.raises(ValueError, match=said):
            clap_score(text, bad)


def test_mean_distance_is_that_of_scipy():
    x = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    assert mean_distance(x) == pytest.approx(np.mean([pdist(group).mean() for group in x.numpy()]), rel=1e-5)
    assert mean_distance(x[:, :1].expand(-1, 4, -1)) == pytest.approx(0, abs=1e-3)
