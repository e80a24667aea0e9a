"""Distillation: the student's hidden states follow the teacher's."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def hidden_state_loss(
    student_layers: Sequence[Tensor],
    teacher_layers: Sequence[Tensor],
    masked: Tensor | None = None,
    layers: str | tuple[int, ...] = "last",
) -> Tensor:
    """Mean squared difference of hidden states: over the width, the positions, the batch, and the layers chosen.

        L_distill = mean_layer  s_layer  mean_{(b, n) in positions, c} (h_student - h_teacher)^2
        s_layer = mean h_last^2 / mean h_layer^2        (both of the teacher's, at the same positions)

    The reduction is a mean throughout, so the weight 1000 of AudioDEAR (whose own reduction is not published) means
    the same at any width, length and mask ratio. s is 1 for the last layer, and lets every other count as if it were
    as large: the shipped teacher's layers before the final norm have 80 to 3500 times the power of h, and would be all
    that a plain mean looks at. The teacher gets no gradient.

    student_layers, teacher_layers: as MaskedTransformer returns them, each (B, N, C), the last one h.
    masked: (B, N) bool, count these positions only; None: all.  layers: "last", "all", or indices into the lists.
    """
    chosen = _choose(layers, len(student_layers), len(teacher_layers))
    losses = []
    for index in chosen:
        student, teacher = student_layers[index], teacher_layers[index].detach()
        if student.shape != teacher.shape:
            raise ValueError(
                f"student and teacher must have hidden states of one shape, got {tuple(student.shape)} and "
                f"{tuple(teacher.shape)} in layer {index}; build the student with the teacher's width and tokens"
            )
        loss = _power(student - teacher, masked)
        if index not in (-1, len(teacher_layers) - 1):
            loss = loss * _power(teacher_layers[-1].detach(), masked) / _power(teacher, masked)
        losses.append(loss)
    return torch.stack(losses).mean()


def _power(x: Tensor, masked: Tensor | None) -> Tensor:
    """Mean square of x (B, N, C) over the width and the positions that count."""
    squared = x.square().mean(dim=-1)
    return (squared if masked is None else squared[masked]).mean()


def gradient_norm_ratio(loss_a: Tensor, loss_b: Tensor, parameters: Iterable[Tensor]) -> float:
    """|grad loss_a| / |grad loss_b| over all parameters together: which of two losses steers the step.

    Leaves the graphs and every .grad as they were. A parameter that a loss does not reach counts as 0; where the
    second gradient vanishes the ratio is inf (nan if both do).
    """
    parameters = [p for p in parameters if p.requires_grad]
    norms = []
    for loss in (loss_a, loss_b):
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        norms.append(torch.stack([g.norm() for g in gradients if g is not None]).norm())
    return (norms[0] / norms[1]).item()


def _choose(layers: str | tuple[int, ...], student: int, teacher: int) -> tuple[int, ...]:
    """The indices that a choice of layers means, once it is sure that they mean the same in both lists."""
    if layers == "last" and student and teacher:
        return (-1,)
    if student != teacher or not student:
        raise ValueError(
            f"student and teacher must return the same number of layers, at least one, got {student} and {teacher}; "
            "with different depths only layers='last' can be compared"
        )
    if layers == "all":
        return tuple(range(student))
    if isinstance(layers, str) or not layers or not all(-student <= index < student for index in layers):
        raise ValueError(f"layers must be 'last', 'all' or indices below {student}, got {layers!r}")
    return tuple(layers)
