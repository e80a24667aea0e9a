"""The oracle: how it reads, what spoils a clip, and what its loss leaves out."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dear.data.soundworld import KINDS, LOUDNESSES, PITCHES, RELATIONS
from dear.oracle import Oracle, OracleConfig, blur, oracle_loss, splice

SMALL = OracleConfig(mels=16, frames=32, width=16, blocks=1, features=8)
SINGLE, THEN = torch.tensor([0, 5, 2, 1, -1, -1, -1]), torch.tensor([1, 0, 1, 0, 10, 2, 1])


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def oracle():
    torch.manual_seed(0)
    return Oracle(SMALL)


def clips(batch=4, seed=0):
    return -5.3 + 1.7 * torch.randn(batch, 32, 16, generator=gen(seed))


def test_shapes_and_sizes_are_those_of_soundworld():
    oracle = Oracle()
    assert OracleConfig().classes == tuple(map(len, (RELATIONS, KINDS, PITCHES, LOUDNESSES)))
    logits, qualities, damage = oracle(torch.zeros(2, 256, 64))
    assert [z.shape[1] for z in logits] == [3, 11, 3, 2, 11, 3, 2] and qualities.shape == (2, 6)
    assert damage.shape == (2, 2) and oracle.features(torch.zeros(2, 256, 64)).shape == (2, 64)
    with pytest.raises(ValueError, match=r"log_mel must be \(B, 256, 64\), got \(2, 255, 64\)"):
        oracle.read(torch.zeros(2, 255, 64))
    with pytest.raises(ValueError, match="log_mel must be"):
        oracle.features(torch.zeros(256, 64))


def test_read_takes_the_largest_logits_and_marks_the_empty_slot(oracle):
    def told(log_mel):
        rows = [F.one_hot(torch.tensor(values), size).float() for values, size in zip(
            ([0, 2], [5, 1], [2, 0], [1, 0], [3, 4], [1, 2], [1, 0]), (3, 11, 3, 2, 11, 3, 2), strict=True)]
        return rows, None, None

    oracle.forward = told
    labels = oracle.read(clips(2))
    assert labels.tolist() == [[0, 5, 2, 1, -1, -1, -1], [2, 1, 0, 0, 4, 2, 0]]
    assert labels.dtype == torch.long and not labels.requires_grad


def test_features_see_the_order_of_the_quarters(oracle):
    x = clips(1)
    with torch.no_grad():
        there, back = oracle.features(x), oracle.features(x.roll(16, 1))
    assert (there - back).abs().max() > 1e-3


def test_blur_mixes_with_the_mean_of_five_frames_and_three_bins():
    x = clips(3)
    half = blur(x, torch.tensor([0.0, 0.5, 1.0]))
    torch.testing.assert_close(half[0], x[0])
    padded = np.pad(x.numpy(), ((0, 0), (2, 2), (1, 1)), mode="edge")
    mean = np.stack([padded[:, t : t + 5, f : f + 3].mean((1, 2)) for t in range(32) for f in range(16)], 1)
    smooth = torch.from_numpy(mean).view(3, 32, 16)
    torch.testing.assert_close(half[2], smooth[2], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(half[1], (x[1] + smooth[1]) / 2, rtol=1e-4, atol=1e-4)


def test_splice_replaces_whole_pieces_of_eight_frames():
    x, twin = torch.zeros(1000, 32, 2), torch.ones(1000, 32, 2)
    share = torch.linspace(0, 1, 1000)
    got = splice(x, twin, share, gen())
    pieces = got.view(1000, 4, 8 * 2)
    assert (pieces.amin(2) == pieces.amax(2)).all()  # all or nothing of a piece
    assert got[share == 0].max() == 0 and got[share == 1].min() == 1
    # A share is a probability: 100 clips x 4 pieces around 0.2 and around 0.8, standard deviation 0.02.
    for low in (0.15, 0.75):
        near = (share > low) & (share < low + 0.1)
        assert pieces[near].mean().item() == pytest.approx(low + 0.05, abs=0.1)


def test_the_loss_equals_a_computation_by_hand_when_nothing_is_spoiled(oracle, monkeypatch):
    # Draws of 0.7 and above spoil nothing, and the little grain that all clips have is taken out.
    x, labels = clips(2), torch.stack([SINGLE, THEN])
    qualities = torch.rand(2, 2, 3).mul(torch.tensor([0.1, 0.5, 0.9]))
    qualities[0, 1] = math.nan
    monkeypatch.setattr(torch, "rand", lambda *shape, **options: torch.full(shape, 0.75))
    monkeypatch.setattr(torch, "randn", lambda shape, **options: torch.zeros(shape))
    loss, figures = oracle_loss(oracle, x, 0 * x, labels, qualities, gen())
    logits, found, damage = oracle(x)
    rows = [[-F.log_softmax(z, 1)[b, labels[b, i]].item() for b in range(2) if labels[b, i] >= 0]
            for i, z in enumerate(logits)]
    assert figures["classes"] == pytest.approx(sum(map(np.mean, rows)), rel=1e-5)
    known = ~qualities.flatten(1).isnan()  # 3 + 6
    assert figures["qualities"] == pytest.approx((found - qualities.flatten(1))[known].square().mean().item(), rel=1e-5)
    assert figures["damage"] == pytest.approx(damage.square().mean().item(), rel=1e-5)
    parts = figures["classes"] + 5 * figures["qualities"] + 10 * figures["damage"]
    assert loss.item() == pytest.approx(parts, rel=1e-5)


@pytest.mark.parametrize(("kind", "draws", "wanted"), [
    ("blurred", (0.4, 0.2, 0.6, 0.8, 0.0), (0.6, 0.0)),
    ("grainy", (0.4, 0.9, 0.6, 0.8, 0.0), (-0.6, 0.0)),
    ("spliced", (0.4, 0.5, 0.6, 0.8, 0.0), (0.0, 0.8)),  # half of the pieces at most: a share of 0.4, told as 0.8
])
def test_damage_is_what_was_done(oracle, monkeypatch, kind, draws, wanted):
    seen = []
    forward = oracle.forward
    oracle.forward = lambda x: (seen.append(x), forward(x))[1]
    real = torch.rand

    def rand(*shape, **options):
        return torch.tensor(draws)[:, None].expand(5, shape[1]) if shape[0] == 5 else real(*shape, **options)

    monkeypatch.setattr(torch, "rand", rand)
    x, twin = clips(3), clips(3, seed=1)
    labels, qualities = torch.stack([SINGLE, THEN, THEN]), torch.zeros(3, 2, 3)
    _, figures = oracle_loss(oracle, x, twin, labels, qualities, gen(5))
    damage = forward(seen[0])[2]
    assert figures["damage"] == pytest.approx((damage - torch.tensor(wanted)).square().mean().item(), rel=1e-5)
    replay = gen(5)
    spliced = splice(x, twin, torch.full((3,), 0.4 if kind == "spliced" else 0.0), replay)
    grain = torch.randn(x.shape, generator=replay)
    expected = {"blurred": blur(x, torch.full((3,), 0.6)), "grainy": x + 0.7 * 0.6 * grain, "spliced": spliced}
    torch.testing.assert_close(seen[0], expected[kind])
    assert (figures["qualities"] == 0) == (kind == "spliced")  # a mixture of two clips has no qualities of its own


def test_what_is_not_known_leaves_gradients_finite(oracle):
    qualities = torch.full((2, 2, 3), math.nan)
    qualities[0, 0] = 0.5
    loss, _ = oracle_loss(oracle, clips(2), clips(2, seed=1), torch.stack([SINGLE, SINGLE]), qualities, gen())
    loss.backward()
    assert math.isfinite(loss.item())  # though no clip of the batch has a second event
    assert all(p.grad is None or p.grad.isfinite().all() for p in oracle.parameters())
    # The heads of the second slot learn nothing from an empty one.
    assert all(head.weight.grad is None or head.weight.grad.abs().max() == 0 for head in oracle.heads[4:])
    assert oracle.heads[1].weight.grad.abs().max() > 0


def test_ignored_labels_do_not_matter(oracle):
    x, twin, qualities = clips(2), clips(2, seed=1), torch.zeros(2, 2, 3)
    base = oracle_loss(oracle, x, twin, torch.stack([SINGLE, THEN]), qualities, gen())[0]
    other = THEN.clone()
    other[4] = -1  # one that counts
    assert oracle_loss(oracle, x, twin, torch.stack([SINGLE, other]), qualities, gen())[0] != base


def test_it_learns_to_read_a_tiny_world(oracle):
    # Loudness is the level, kind the place of a band: learnt in a moment if features, heads and loss fit together.
    labels = torch.tensor([[0, k, 0, v, -1, -1, -1] for k in (2, 7) for v in (0, 1)])
    x = torch.full((4, 32, 16), -9.0)
    for row, (_, kind, _, loud, *_) in enumerate(labels.tolist()):
        x[row, :, kind : kind + 3] += 3.0 + 6 * loud
    optimizer, generator = torch.optim.Adam(oracle.parameters(), 5e-3), gen()
    for _ in range(250):
        noisy = x + 0.1 * torch.randn(x.shape, generator=generator)
        loss, figures = oracle_loss(oracle, noisy, noisy, labels, torch.full((4, 2, 3), 0.5), generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.equal(oracle.read(x), labels) and figures["kind"] == 1
