"""dear.muon against torch's own, which computes in bfloat16, and against the singular value decomposition."""

import copy

import pytest
import torch
from torch import nn

from dear.muon import Muon, orthogonal

SHAPES = ((6, 6), (6, 6), (24, 8), (8, 24), (1, 5))


def matrices(seed: int) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def test_it_steps_as_torchs_own_does_to_the_precision_of_bfloat16():
    mine, theirs = matrices(0), matrices(0)
    optimizers = (Muon(mine, 0.02, weight_decay=0.1),
                  torch.optim.Muon(theirs, 0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"))
    for seed in range(1, 4):
        for ours, other, gradient in zip(mine, theirs, matrices(seed), strict=True):
            ours.grad, other.grad = gradient.detach().clone(), gradient.detach().clone()
        for optimizer in optimizers:
            optimizer.step()
    for ours, other, start in zip(mine, theirs, matrices(0), strict=True):
        moved = (other - start).norm()
        assert moved > 0.01
        assert (ours - other).norm() < 0.03 * moved


@pytest.mark.parametrize("shape", [(3, 7, 7), (2, 24, 8), (2, 8, 24)])
def test_orthogonal_keeps_the_singular_vectors_and_brings_the_values_near_one(shape):
    given = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    made = orthogonal(given)
    u, _, v = torch.linalg.svd(given, full_matrices=False)
    inside = u.mT @ made @ v.mT
    values = inside.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(inside, torch.diag_embed(values), atol=1e-4, rtol=0)
    assert values.min() > 0.65 and values.max() < 1.25


def test_a_matrix_without_a_gradient_stays_and_a_zero_gradient_is_harmless():
    still, flat = nn.Parameter(torch.ones(3, 3)), nn.Parameter(torch.ones(3, 3))
    flat.grad = torch.zeros(3, 3)
    optimizer = Muon([still, flat], 0.1, weight_decay=0.5)
    optimizer.step()
    assert torch.equal(still, torch.ones(3, 3)) and not optimizer.state.get(still)
    torch.testing.assert_close(flat.detach(), torch.full((3, 3), 0.95))


def test_its_state_can_be_saved_and_read_again():
    first, second = matrices(0), matrices(0)
    gradients = matrices(1)
    one, two = Muon(first, 0.1), Muon(second, 0.1)
    for p, g in zip(first, gradients, strict=True):
        p.grad = g.detach()
    one.step()
    with torch.no_grad():
        for p, q in zip(second, first, strict=True):
            p.copy_(q)
            p.grad = q.grad
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    one.step()
    two.step()
    assert all(torch.equal(p, q) for p, q in zip(first, second, strict=True))


def test_what_is_no_matrix_is_refused():
    with pytest.raises(ValueError, match=r"matrices only, got a parameter of shape \(4,\)"):
        Muon([nn.Parameter(torch.zeros(3, 3)), nn.Parameter(torch.zeros(4))], 0.1)
