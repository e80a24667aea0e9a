"""SoundCTM: learn to jump from any time of a guided flow to any earlier one, so that more steps refine one sample."""

from collections.abc import Callable

import torch
from torch import Tensor

from dear.objectives.flow import (
    between,
    draw_noise,
    draw_uniform,
    follow_jumps,
    heun_step,
    jump,
    velocity_error,
    weighed,
)
from dear.objectives.teacher import Teacher, needed


class Trajectory:
    """Learn to draw x given cond by jumps G from t to s <= t along the guided flow of a frozen teacher.

        G(x_t, t, s, w) = (s/t) x_t + (1 - s/t) g = x_t - (t - s) net(x_t, cond, t, s, w),   g = x_t - t net(..)
                                                       (CTM, Kim et al. 2024, arXiv 2310.02279, eq. 4 and lemma 1)
        G(x_t, t, s, w) -> G_target(x_u, u, s, w),   x_u = the teacher's Heun steps from x_t,   s <= u < t
        net(x_t, cond, t, t, w) -> n - x                              (the denoising loss, for a net of velocities)
                                           (SoundCTM, Saito et al. 2024, arXiv 2405.18503, section 3)

    G(x, t, t) = x holds by construction, and the net is MeanFlow's u(x, t, s). t = 0 is data and t = 1 noise, evenly
    spaced; the source has EDM's noise levels, a clock of the same direction. The ends are compared at s, as SoundCTM
    does (CTM takes both on to 0). As published, the denoising loss takes unguided data for every w. What the source
    adds at sampling, x_uncond + nu (x_cond - x_uncond), is decoding.guided around the student, trained with dropped
    conditions. Its adaptive balance of the two losses is left out: denoising is the fixed weight.

    teacher, guidance, null_cond, guidance_scale: as in Teacher; guidance is (2, 5) in the paper. The student is
    net(x, cond, t, s), or net(x, cond, t, s, w) with guidance.
    intervals: N, t, u and s are multiples of 1/N.  most: steps of 1/N from t to u, at most; their number is drawn once
    a batch.  denoising: weight of the denoising loss, 1 in the paper.
    features: (x, cond, s) -> (B, F), in which the ends are compared; None: x itself. In the source they are the frozen
    teacher's layers, each scaled to length 1 over its channels.
    weights: (D,), a factor on each coordinate's error, as in Energy; None: all 1.
    """

    needs_target = True

    def __init__(
        self,
        teacher: Callable[..., Tensor],
        guidance: tuple[float, float] | None = None,
        null_cond: Tensor | None = None,
        guidance_scale: float | None = None,
        intervals: int = 18,
        most: int = 9,
        denoising: float = 1.0,
        features: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
        weights: Tensor | None = None,
    ):
        if not 1 <= most <= intervals:
            raise ValueError(f"most must lie in 1..intervals, got {most} and {intervals}")
        if weights is not None and features is not None:
            raise ValueError("weights are of coordinates of x: with features, weigh those")
        if denoising < 0:
            raise ValueError(f"denoising must be >= 0, got {denoising}")
        self.teacher = Teacher(teacher, guidance, null_cond, guidance_scale)
        self.times, self.intervals, self.most = 2 + self.teacher.times, intervals, most
        self.denoising, self.features, self.weights = denoising, features, weights

    def loss(
        self,
        net: Callable[..., Tensor],
        x: Tensor,
        cond: Tensor,
        generator: torch.Generator,
        target: Callable[..., Tensor] | None = None,
    ) -> Tensor:
        """Squared distance of the ends at s plus denoising times that of the velocity at s = t, both mean over D.

        x: (B, D), of about unit variance.  cond: (B, C), or (B, 2C), see Teacher.  generator: on the device of x.
        target: the moving average of net, or net itself.  Returns (B,).
        """
        target, w, n = needed(target, self), self.teacher.draw(x, generator), self.intervals
        t = 1 + (draw_uniform(x, generator) * n).floor()
        s = (draw_uniform(x, generator) * t).floor()
        count = int(torch.randint(1, self.most + 1, (1,), generator=generator, device=x.device))
        noise, seen = draw_noise(x, generator), self.teacher.seen(cond)
        x_t = x_u = between(x, noise, t / n)
        u = t
        for _ in range(count):
            lower = torch.maximum(u - 1, s)  # a row that has come to s stays there
            x_u = heun_step(lambda x, t: self.teacher.velocity(x, cond, t, *w), x_u, u / n, lower / n)
            u = lower

        def compared(end: Tensor) -> Tensor:
            return end if self.features is None else self.features(end, seen, s / n)

        with torch.no_grad():
            wanted = compared(jump(target, x_u, seen, u / n, s / n, *w))
        reached = compared(jump(net, x_t, seen, t / n, s / n, *w))
        rows = weighed(reached - wanted, self.weights).square().mean(dim=-1)
        if self.denoising:
            t, noise = draw_uniform(x, generator), draw_noise(x, generator)
            rows = rows + self.denoising * velocity_error(net, x, noise, seen, t, t, *w, weights=self.weights)
        return rows

    def sample(
        self,
        net: Callable[..., Tensor],
        cond: Tensor,
        noise: Tensor,
        steps: int = 1,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """One sample per row by `steps` equal jumps from t = 1 to 0 without new noise (CTM's gamma = 0).

        cond: (B, C), what the student sees.  noise: (B, D), N(0, I).  steps: at least 1.  Returns (B, D).
        """
        return follow_jumps(net, cond, noise, steps, *self.teacher.chosen(noise))
