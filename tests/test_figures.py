"""Figures and their intervals: known sets, the coverage of the intervals, and the table."""

import warnings

import numpy as np
import pytest
import torch

from dear.metrics import figures
from dear.metrics.divergence import kl_divergence
from dear.metrics.figures import Figure, bandwidths, measure, of_clips, of_set, table
from dear.metrics.frechet import frechet_distance


def heard(n, seed, shift=0.0, classes=5, d=4):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, d, generator=generator) + shift
    return features, (3 * torch.randn(n, classes, generator=generator).double()).softmax(1)


def test_a_set_against_itself():
    one = heard(60, 0)
    found = measure(one, one)
    assert list(found) == ["frechet", "energy", "mmd", "kl", "inception"]
    assert found["frechet"].value == pytest.approx(0, abs=1e-9) and found["kl"].value < 1e-4
    assert "kl" not in measure(one, heard(40, 1), paired=False)
    assert list(measure((one[0], None), (one[0], None))) == ["frechet", "energy", "mmd"]


def test_each_figure_is_that_of_its_function():
    one, real = heard(80, 0, 0.5), heard(80, 1)
    text = torch.randn(80, 4, generator=torch.Generator().manual_seed(2))
    found = measure(one, real, text=text, convention="textbook")
    assert found["frechet"].value == frechet_distance(one[0], real[0])
    assert found["kl"].value == pytest.approx(kl_divergence(real[1], one[1], "textbook"))
    assert found["kl"].value != pytest.approx(measure(one, real)["kl"].value, rel=1e-9)
    assert found["clap"].value == pytest.approx(float(torch.cosine_similarity(one[0], text).mean()), rel=1e-5)
    assert all(figure.low < figure.value < figure.high for figure in found.values())
    middle = float(torch.pdist(real[0]).median())
    assert bandwidths(real[0]) == pytest.approx((middle / 2, middle, 2 * middle))


def test_of_several_clips_a_caption_only_diversity_sees_all():
    one, real = heard(80, 0), heard(40, 1)
    several = measure(one, real, copies=2)
    single = measure(tuple(x[::2] for x in one), real)
    assert {name: several[name] for name in single} == single
    distances = (one[0][::2] - one[0][1::2]).norm(dim=1)
    assert several["diversity"].value == pytest.approx(float(distances.mean()), rel=1e-5)


@pytest.mark.parametrize("dimensions", [2, 40])
def test_intervals_of_a_frechet_distance_hold_the_mean_over_new_samples(dimensions):
    def pair(generator):
        x, y = (generator.standard_normal((80, dimensions)) for _ in range(2))
        return x, 1.5 * y + 0.3

    generator = np.random.default_rng(0)
    expected = np.mean([frechet_distance(*pair(generator)) for _ in range(300)])
    found = [of_set(frechet_distance, *pair(generator)) for _ in range(30)]
    assert np.mean([f.low <= expected <= f.high for f in found]) > 0.8  # 0.95 within 3.5 standard errors of 30 trials


def test_clips_may_count_differently():
    values, weights = [1.0, 0.0, 0.5], [1, 1, 4]
    assert of_clips(values, weights).value == pytest.approx(3 / 6)
    assert of_clips([1.0] * 9) == Figure(1.0, 1.0, 1.0)
    x = np.random.default_rng(0).normal(size=400)
    found = of_clips(x)
    assert found.high - found.low == pytest.approx(2 * 1.96 * x.std() / 20, rel=0.1)


def test_few_clips_are_warned_of_once(monkeypatch):
    monkeypatch.setattr(figures, "DRAWS", 10)
    few = heard(20, 0, d=30)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        measure(few, heard(20, 1, d=30))
    assert [str(w.message)[:27] for w in told] == ["x has 20 samples for 30 dim", "y has 20 samples for 30 dim"]


def test_the_table_has_a_dash_where_a_row_has_no_figure():
    rows = {"floor": {"frechet": Figure(12.345, 10, 1500.4)}}
    rows["a"] = {"frechet": Figure(1, 0.5, 2), "kl": Figure(0, 0, 0)}
    assert table(rows) == ("| | frechet | kl |\n|---|---|---|\n| floor | 12.3 [10, 1500] | – |\n"
                           "| a | 1 [0.5, 2] | 0 [0, 0] |\n")
