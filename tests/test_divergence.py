"""KL and inception score against scipy, closed forms, and a direct reading of audioldm_eval's formulas."""

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy

from dear.metrics.divergence import inception_score, kl_divergence


def some(n=40, classes=6, seed=0):
    return softmax(2 * np.random.default_rng(seed).normal(size=(n, classes)), axis=1)


def test_kl_is_scipys_and_audioldm_evals_adds_to_the_prediction_alone():
    reference, predicted = some(seed=0), some(seed=1)
    by_scipy = entropy(reference, predicted, axis=1).mean()
    assert kl_divergence(reference, predicted, "textbook") == pytest.approx(by_scipy)
    direct = np.mean([(r * (np.log(r) - np.log(p + 1e-6))).sum() for r, p in zip(reference, predicted, strict=True)])
    assert kl_divergence(reference, predicted) == pytest.approx(direct)
    assert kl_divergence(reference, predicted) != pytest.approx(kl_divergence(predicted, reference), rel=0.01)


def test_kl_of_certain_classes():
    is_first, is_second = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    assert kl_divergence(is_first, is_second, "textbook") == np.inf
    assert kl_divergence(is_first, is_second) == pytest.approx(-np.log(1e-6))  # 13.8
    assert kl_divergence(is_first, is_first) == pytest.approx(-1e-6, rel=1e-3)
    half = np.array([[0.5, 0.5]])
    assert kl_divergence(is_first, half, "textbook") == pytest.approx(np.log(2))


def test_inception_score_of_known_sets():
    sure = np.eye(5)[np.arange(200) % 5]
    assert inception_score(sure, "textbook") == pytest.approx(5)  # sure of each, all classes equally often
    assert inception_score(np.full((200, 5), 0.2)) == pytest.approx(1)  # never sure
    assert inception_score(np.eye(5)[[2] * 200]) == pytest.approx(1)  # one class only
    # By entropies: exp(H(mean) - mean H).
    p = some(200)
    assert inception_score(p, "textbook") == pytest.approx(np.exp(entropy(p.mean(0)) - entropy(p, axis=1).mean()))


def test_audioldm_evals_inception_score_is_a_mean_over_ten_parts_of_a_shuffled_set():
    p = some(200)
    order = np.random.default_rng(3).permutation(200)
    parts = [inception_score(part, "textbook") for part in p[order].reshape(10, 20, -1)]
    assert inception_score(p, seed=3) == pytest.approx(np.mean(parts)) and np.std(parts) > 0.01
    # Unshuffled, parts of one class each would have the score 1.
    assert inception_score(np.eye(10)[np.repeat(np.arange(10), 20)]) > 5
    assert inception_score(p, seed=3) < inception_score(p, "textbook")


def test_bad_input():
    good = some()
    for bad, said in ((good[0], "shape"), (2 * good, "of sum 1"), (np.full((4, 2), np.nan), "NaN"),
                      (np.array([[1.5, -0.5]]), "negative"), (np.zeros((0, 3)), "shape")):
        with pytest.raises(ValueError, match=said):
            inception_score(bad)
        with pytest.raises(ValueError, match=said):
            kl_divergence(good, bad)
    with pytest.raises(ValueError, match="pairs must have one shape"):
        kl_divergence(good, good[:-1])
    with pytest.raises(ValueError, match="convention must be"):
        kl_divergence(good, good, "ours")
    with pytest.raises(ValueError, match="need 20 clips"):
        inception_score(good[:19])
