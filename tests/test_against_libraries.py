"""Our metrics beside torchmetrics, POT and scipy, which know nothing of them."""

import numpy as np
import ot
import pytest
import torch
from scipy import stats
from torchmetrics.functional.pairwise import pairwise_cosine_similarity
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import poly_mmd
from torchmetrics.regression import CosineSimilarity, KLDivergence

from dear.metrics.divergence import inception_score, kl_divergence
from dear.metrics.energy import energy_distance, mmd2
from dear.metrics.frechet import frechet_distance
from dear.metrics.similarity import clap_score


class Given(torch.nn.Module):
    """A "feature extractor" that hands on what it is given, as (n, d, 1, 1) images."""

    num_features = 24

    def forward(self, images):
        return images.flatten(1)


def features(n, seed, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.eye(24) + spread * torch.randn(24, 24, generator=generator, dtype=torch.float64) / 5
    return torch.randn(n, 24, generator=generator, dtype=torch.float64) @ mix + 0.1 * seed


def images(x):
    return x[:, :, None, None]


@pytest.mark.parametrize("sizes", [(200, 150), (40, 300)])
def test_frechet_distance(sizes):
    x, y = features(sizes[0], 0), features(sizes[1], 1, 2.0)
    ours = frechet_distance(x, y)
    theirs = FrechetInceptionDistance(feature=Given(), input_img_size=(24, 1, 1)).set_dtype(torch.float64)
    theirs.update(images(x), real=True)
    theirs.update(images(y), real=False)
    assert float(theirs.compute()) == pytest.approx(ours, rel=1e-6)
    means, covariances = (x.mean(0).numpy(), y.mean(0).numpy()), (np.cov(x.T.numpy()), np.cov(y.T.numpy()))
    assert float(ot.gaussian.bures_wasserstein_distance(*means, *covariances)) ** 2 == pytest.approx(ours, rel=1e-6)


def test_kl_divergence():
    generator = torch.Generator().manual_seed(0)
    reference, predicted = (torch.randn(50, 9, generator=generator, dtype=torch.float64).softmax(1) for _ in range(2))
    ours = kl_divergence(reference, predicted, "textbook")
    assert float(KLDivergence()(reference, predicted)) == pytest.approx(ours, rel=1e-6)
    assert stats.entropy(reference, predicted, axis=1).mean() == pytest.approx(ours, rel=1e-9)
    # audioldm_eval's own line, as torch has it: the logarithm of the prediction plus 1e-6, summed over clips.
    line = torch.nn.functional.kl_div((predicted + 1e-6).log(), reference, reduction="sum") / len(reference)
    assert kl_divergence(reference, predicted) == pytest.approx(float(line), rel=1e-9)


def test_inception_score():
    logits = 2 * features(400, 0)
    p = logits.softmax(1)
    theirs = InceptionScore(feature=Given(), splits=1)
    theirs.update(images(logits))
    assert float(theirs.compute()[0]) == pytest.approx(inception_score(p, "textbook"), rel=1e-6)
    # Ten parts of a shuffled set; the two shuffles differ, and so do the means, by far less than from the textbook's.
    theirs = InceptionScore(feature=Given(), splits=10)
    theirs.update(images(logits))
    ours, whole = inception_score(p), inception_score(p, "textbook")
    assert abs(float(theirs.compute()[0]) - ours) < 0.3 * (whole - ours)


def test_clap_score_is_torchmetrics_cosine():
    text, sound = features(30, 0), features(30, 1)
    ours = clap_score(text, sound)
    assert float(CosineSimilarity(reduction="mean")(text, sound)) == pytest.approx(ours, rel=1e-6)
    assert float(pairwise_cosine_similarity(text, sound).diagonal().mean()) == pytest.approx(ours, rel=1e-6)


def test_mmd_of_means_is_torchmetrics_polynomial_one():
    # A polynomial kernel of degree 1 sees the means; so does the energy distance with exponent 2, twice as much.
    x, y = features(60, 0), features(60, 1)
    linear = [v @ w.T for v, w in ((x, x), (x, y), (y, y))]
    means = float(poly_mmd(x, y, degree=1, gamma=1.0, coef=0.0))
    direct = sum(float((k.sum() - k.trace()) / (60 * 59)) for k in linear[::2]) - 2 * float(linear[1].mean())
    assert means == pytest.approx(direct, rel=1e-6)
    assert energy_distance(x, y, 2.0) == pytest.approx(2 * direct, rel=1e-6)
    # A wide Gaussian kernel is 1 - |x - y|^2 / 2 s^2, so the MMD becomes the same thing over s^2.
    assert 1e6 * mmd2(x, y, [1000.0]) == pytest.approx(direct, rel=1e-3)


def test_energy_distance_is_pots_mean_cost_of_the_independent_coupling():
    x, y = features(50, 0), features(70, 1)
    cost = [ot.dist(a, b, metric="euclidean") for a, b in ((x, y), (x, x), (y, y))]
    plans = [np.outer(ot.unif(a), ot.unif(b)) for a, b in ((50, 70), (50, 50), (70, 70))]
    across, xx, yy = (float((torch.as_tensor(plan) * c).sum()) for plan, c in zip(plans, cost, strict=True))
    assert energy_distance(x, y, unbiased=False) == pytest.approx(2 * across - xx - yy, rel=1e-6)
