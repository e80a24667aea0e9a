"""Muon: momentum whose step is made orthogonal, for weight matrices; in their own precision, on any machine."""

import math
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan's: steepest at 0, so that small singular values grow fastest


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) with steps of AdamW's size (arXiv 2502.16982).

        M <- mu M + (1 - mu) G,   W <- (1 - lr decay) W - lr 0.2 sqrt(max(rows, columns)) orthogonal((1 - mu) G + mu M)

    The same as torch.optim.Muon(adjust_lr_fn="match_rms_adamw") but for the precision: torch's computes in bfloat16,
    for which a CPU without such arithmetic took 2.9 seconds a step of the classroom's teacher; float32 takes 0.13.
    Matrices of one shape are made orthogonal together. params: matrices only, anything else is a ValueError.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.1, momentum: float = 0.95):
        params = list(params)
        if other := [tuple(p.shape) for p in params if p.ndim != 2]:
            raise ValueError(f"Muon moves matrices only, got a parameter of shape {other[0]}; give it to AdamW")
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure=None):
        """Move every matrix that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            alike = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    alike[p.shape].append(p)
            for shape, matrices in alike.items():
                steps = orthogonal(torch.stack([self._direction(p, group["momentum"]) for p in matrices]))
                size = -group["lr"] * 0.2 * math.sqrt(max(shape))
                torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(matrices, list(steps), alpha=size)
        return loss

    def _direction(self, p: nn.Parameter, momentum: float) -> Tensor:
        """The gradient ahead of its moving average (Nesterov), which is brought up to date."""
        if "momentum_buffer" not in self.state[p]:
            self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        average = self.state[p]["momentum_buffer"].lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(average, momentum)


def orthogonal(matrices: Tensor, steps: int = 5) -> Tensor:
    """Bring all singular values of matrices (K, rows, columns) near 1, to 0.7 to 1.2, by Newton-Schulz iterations.

        X <- a X + (b X X^T + c (X X^T)^2) X,   X_0 = matrix / |matrix|_F
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
