"""Distillation: hand-computed numbers, finite differences, and what may not be compared."""

import math

import pytest
import torch

from dear.distillation import gradient_norm_ratio, hidden_state_loss


def test_hand_computed():
    # One clip, two tokens, width 2. Layer 0 differs by (1, 1), (2, 2); layer 1 by (3, 0), (0, 0).
    # The teacher's last layer has the mean square 1, its first one 4, at either token.
    student = [torch.tensor([[[3.0, 3.0], [4.0, 4.0]]]), torch.tensor([[[4.0, 1.0], [1.0, 1.0]]])]
    teacher = [torch.full((1, 2, 2), 2.0), torch.ones(1, 2, 2)]
    second = torch.tensor([[False, True]])
    assert hidden_state_loss(student, teacher).item() == pytest.approx(9 / 4)
    assert hidden_state_loss(student, teacher, layers=(0,)).item() == pytest.approx((1 + 4) / 2 / 4)
    assert hidden_state_loss(student, teacher, layers="all").item() == pytest.approx((9 / 4 + 5 / 2 / 4) / 2)
    assert hidden_state_loss(student, teacher, second, layers=(0, -1)).item() == pytest.approx((4 / 4 + 0) / 2)
    assert hidden_state_loss(student, teacher, second, layers=(0, 1)).item() == pytest.approx((4 / 4 + 0) / 2)


def test_a_layer_counts_the_same_at_any_size():
    generator = torch.Generator().manual_seed(0)
    student, teacher = ([torch.randn(2, 4, 3, generator=generator) for _ in range(3)] for _ in range(2))
    masked = torch.rand(2, 4, generator=generator) < 0.6
    larger = [[10 * x[0], x[1], x[2]] for x in (student, teacher)]
    plain = hidden_state_loss(student, teacher, masked, "all").item()
    assert hidden_state_loss(*larger, masked, "all").item() == pytest.approx(plain, rel=1e-5)


def test_masked_positions_weigh_the_same_in_long_and_short_rows():
    student = [torch.stack([torch.full((4, 3), 1.0), torch.full((4, 3), 2.0)])]
    masked = torch.tensor([[True, False, False, False], [True, True, True, False]])
    # One position with 1, three with 4: (1 + 12) / 4.
    assert hidden_state_loss(student, [torch.zeros(2, 4, 3)], masked).item() == pytest.approx(13 / 4)


def test_gradient_equals_finite_differences_and_the_teacher_gets_none():
    student = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    masked = torch.tensor([[True, False, True], [False, True, True]])
    assert torch.autograd.gradcheck(lambda s: hidden_state_loss([s], [teacher.detach()], masked), student)
    hidden_state_loss([student], [teacher]).backward()
    assert teacher.grad is None and student.grad.abs().max() > 0


def test_gradient_norm_ratio():
    a, b, unused = (torch.tensor(v, requires_grad=True) for v in ([3.0, 4.0], [1.0], [1.0]))
    # grad of |a|^2 / 2 is a, of norm 5; grad of 2 b is 2; over both parameters together sqrt(25 + 4).
    first, second = a.square().sum() / 2 + 2 * b.sum(), 0.5 * b.sum()
    assert gradient_norm_ratio(first, second, [a, b, unused]) == pytest.approx(math.sqrt(29) / 0.5)
    assert a.grad is None and b.grad is None
    (first + second).backward()  # the graphs are still there
    assert gradient_norm_ratio(a.sum(), 0 * b.sum(), iter([a, b])) == math.inf


def test_what_cannot_be_compared():
    narrow, wide = [torch.zeros(1, 2, 3)], [torch.zeros(1, 2, 4)]
    with pytest.raises(ValueError, match="one shape"):
        hidden_state_loss(narrow, wide)
    with pytest.raises(ValueError, match="same number of layers"):
        hidden_state_loss(narrow, narrow * 2, layers="all")
    assert hidden_state_loss(narrow, narrow * 2).item() == 0  # the last layers can be
    for layers in ("first", (1,), ()):
        with pytest.raises(ValueError, match="layers must be"):
            hidden_state_loss(narrow, narrow, layers=layers)
