"""Bootstrap intervals: known widths, coverage, and rows that stay together."""

import numpy as np
import pytest
import torch

from dear.metrics.bootstrap import interval


def test_interval_of_a_mean_has_the_width_of_its_standard_error():
    x = torch.randn(400, generator=torch.Generator().manual_seed(0))
    low, high = interval(lambda v: float(v.mean()), x)
    assert low < x.mean() < high and high - low == pytest.approx(2 * 1.96 * float(x.std()) / 20, rel=0.1)
    assert interval(lambda v: float(v.mean()), x) == (low, high)  # same seed, same interval
    narrow = interval(lambda v: float(v.mean()), x, level=0.5)
    assert low < narrow[0] < narrow[1] < high


def test_paired_rows_stay_together():
    x = np.random.default_rng(0).normal(size=100)
    difference = lambda a, b: float((a - b).mean())  # noqa: E731
    low, high = interval(difference, x, x + 1, draws=200, method="percentile")
    assert low == pytest.approx(-1) and high == pytest.approx(-1)
    low, high = interval(difference, x, x + 1, paired=False, draws=200, method="percentile")
    assert high - low > 0.3


def test_intervals_of_new_samples_hold_the_truth_about_as_often_as_they_say():
    generator = np.random.default_rng(1)
    held = [low <= 0.3 <= high for low, high in (
        interval(lambda v: float(v.mean()), generator.random(60) < 0.3, draws=200, method="percentile", seed=k)
        for k in range(150))]
    assert 0.88 < np.mean(held) < 0.99  # 0.95 within three standard errors, and a little less for a discrete metric


def test_a_figure_that_nothing_moves_has_no_width():
    assert interval(lambda v: float(np.mean(v)), np.ones(30), draws=50) == (1.0, 1.0)


def test_bad_input():
    mean = lambda *sets: 0.0  # noqa: E731
    for sets, options, said in (((), {}, "at least 2"), (([1.0],), {}, "at least 2"),
                                ((np.ones(3), np.ones(4)), {}, "as many rows"), ((np.ones(3),), {"level": 1}, "level")):
        with pytest.raises(ValueError, match=said):
            interval(mean, *sets, **options)


def test_a_centred_interval_holds_the_figure_that_duplicates_shift():
    # Distinct values of a sample: a resample of n has about 63 % of them, so plain percentiles are all below.
    x, distinct = np.arange(200.0), lambda v: float(len(np.unique(v)))
    low, high = interval(distinct, x, method="percentile", draws=200)
    assert high < 150
    moved = interval(distinct, x, method="centred", draws=200)
    assert moved[0] < 200 < moved[1] and moved[1] - moved[0] == pytest.approx(high - low)
    # A mean is not shifted: both agree.
    y = np.random.default_rng(0).normal(size=300)
    both = [interval(lambda v: float(v.mean()), y, method=m) for m in ("percentile", "centred")]
    assert both[0] == pytest.approx(both[1], abs=0.01)
