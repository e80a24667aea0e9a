"""What the figures of the plane show: the right points, equal axes, the floor and the controls; each can be saved."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from toy import plots
from toy.data import eight_gaussians


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def points(n=20, seed=0):
    return eight_gaussians(n, torch.Generator().manual_seed(seed))


def offsets(collection):
    return torch.as_tensor(collection.get_offsets().data, dtype=torch.float32)


def drawn(figure, path):
    figure.savefig(path / "figure.png", dpi=50)
    assert plt.imread(path / "figure.png").std() > 0.01
    return [axes for axes in figure.axes if axes.get_visible()]


def test_scatter_panels_have_titles_equal_axes_and_the_data_beneath(tmp_path):
    samples, data = {name: points(seed=k) for k, name in enumerate("abcde")}, points(seed=9)
    figure = plots.scatter_panels(samples, data, columns=3, notes={"b": "W2 0.1"})
    assert [figure.get_supxlabel(), figure.get_supylabel()] == ["first coordinate", "second coordinate"]
    axes = drawn(figure, tmp_path)
    assert [a.get_title() for a in axes] == ["a", "b\nW2 0.1", "c", "d", "e"]
    for panel, x in zip(axes, samples.values(), strict=True):
        beneath, above = panel.collections
        assert torch.equal(offsets(beneath), data) and torch.equal(offsets(above), x)
        assert panel.get_aspect() == 1 and panel.get_xlim() == panel.get_ylim() == (-plots.LIMIT, plots.LIMIT)
    # c has no panel below it any more, so that it carries the labels of its column.
    assert [a.xaxis.get_tick_params()["labelbottom"] for a in axes] == [False, False, True, True, True]


def test_trajectories_run_from_orange_to_blue(tmp_path):
    start = points()
    path = torch.stack([start, start + 0.5, start + 1])
    axes, other = drawn(plots.trajectories({"flow": path, "jump": path[[0, 2]]}, points(seed=1)), tmp_path)
    assert len(axes.lines) == len(other.lines) == 20
    assert axes.lines[3].get_xydata().tolist() == path[:, 3].tolist()
    _, begin, end = axes.collections
    assert torch.equal(offsets(begin), start) and torch.equal(offsets(end), start + 1)
    assert [to_hex(c.get_facecolor()[0]).upper() for c in (begin, end)] == [plots.ORANGE, plots.BLUE]


def test_the_warped_grid_is_the_image_of_the_grid(tmp_path):
    def stretch(n):
        return n * torch.tensor([2.0, 0.5])

    noise, image = drawn(plots.warped_grid({"stretched": stretch}, lines=5), tmp_path)
    assert [noise.get_title(), image.get_title()] == ["noise", "stretched"]
    assert len(noise.collections) == 2  # lines of constant y, lines of constant x
    for before, after in zip(noise.collections, image.collections, strict=True):
        segments, ends = (torch.from_numpy(np.stack(c.get_segments()[::50])).float() for c in (before, after))
        torch.testing.assert_close(ends, stretch(segments))
    level, upright = (torch.tensor(c.get_segments()[0]) for c in noise.collections)
    assert level[0, 1] == level[1, 1] and upright[0, 0] == upright[1, 0]
    # At the centre of the noise lines are strong, at its rim they fade.
    alpha = noise.collections[0].get_alpha()
    assert alpha.max() > 0.85 and alpha.min() < 0.1


def test_metric_bars_show_means_seeds_floor_and_controls(tmp_path):
    values = {"energy": [0.1, 0.2, 0.15], "flow": [0.3, 0.3, 0.36]}
    figure = plots.metric_bars(values, "W2", floor=[0.08, 0.1], controls={"square": 0.5, "Gaussian": 2.0})
    (axes,) = drawn(figure, tmp_path)
    assert [bar.get_width() for bar in axes.patches[:2]] == pytest.approx([0.15, 0.32])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["energy", "flow"]
    xs = [line.get_xdata() for line in axes.lines]
    assert list(xs[0]) == [0.1, 0.2] and list(xs[1]) == [0.1, 0.2, 0.15]  # the range, then the seeds
    assert xs[-2][0] == pytest.approx(0.09) and xs[-1][0] == 0.5  # the floor's mean, then the near control
    words = [text.get_text() for text in axes.texts]
    assert {"0.15", "0.32", "data", "square"} <= set(words) and "Gaussian" not in words
    assert axes.get_xlabel() == "W2\nbeyond the edge: Gaussian 2"
    low, high = axes.get_xlim()
    assert low == 0 and 0.5 < high < 2  # bars start at zero and the far control does not squeeze them


def test_bars_go_into_axes_that_are_given():
    figure, (left, right) = plt.subplots(1, 2)
    assert plots.metric_bars({"a": [1.0]}, "x", axes=right, colours={"a": plots.GREEN}) is figure
    assert not left.patches and to_hex(right.patches[0].get_facecolor()).upper() == plots.GREEN
