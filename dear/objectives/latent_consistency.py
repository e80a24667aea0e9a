"""AudioLCM: consistency distillation that skips k of the teacher's fine steps, with the guidance weight as an input."""

from collections.abc import Callable

import torch
from torch import Tensor

from dear.objectives.consistency import draw_interval, jump_and_renoise
from dear.objectives.flow import between, draw_noise, euler_step, weighed
from dear.objectives.teacher import Teacher, needed


class LatentConsistency:
    """Learn to draw x given cond in one or two passes from a guided teacher's jumps of k fine steps at once.

        f(x, t, w) = c_skip(t) x + c_out(t) (x - t net(x, cond, t, w))
        c_skip = a^2 / (tau^2 + a^2),   c_out = tau / sqrt(tau^2 + a^2),   tau = 10 M t,   a = 0.5
        f(x_t, t, w) -> f_target(x_s, s, w),   x_s = one DDIM step of the teacher from x_t,   s = t - k/M
                                    (AudioLCM, Liu et al. 2024, arXiv 2406.00356, section 3; Luo et al. 2023,
                                     latent consistency models, arXiv 2310.04378, section 4)

    Adjacent points of a fine clock of M levels hardly differ, and little is learned from them: hence the skip. The
    scalings are the released code's; c_skip is 1 at t = 0 and below 1e-5 from the first step on. The clock is
    flow.py's, even in t (0 data, 1 noise), where DDIM is an Euler step; the source's is its diffusion's. The source
    writes the guidance weight as w - 1, see Teacher.

    teacher, guidance, null_cond, guidance_scale: as in Teacher; the paper's guidance, U(4, 12), is (5, 13) here. The
    student is net(x, cond, t), or net(x, cond, t, w) with guidance.
    train_steps: M.  skip: k, a divisor of M.  huber: c of the pseudo-Huber distance, 0.001 in the code.
    weights: (D,), a factor on each coordinate's error, as in Energy; None: all 1.
    """

    needs_target = True

    def __init__(
        self,
        teacher: Callable[..., Tensor],
        guidance: tuple[float, float] | None = None,
        null_cond: Tensor | None = None,
        guidance_scale: float | None = None,
        train_steps: int = 1000,
        skip: int = 20,
        huber: float = 0.001,
        weights: Tensor | None = None,
    ):
        if skip < 1 or train_steps % skip:
            raise ValueError(f"skip must divide train_steps, got {skip} and {train_steps}")
        if huber <= 0:
            raise ValueError(f"huber must be > 0, got {huber}")
        self.teacher = Teacher(teacher, guidance, null_cond, guidance_scale)
        self.times, self.train_steps, self.skip, self.huber = 1 + self.teacher.times, train_steps, skip, huber
        self.weights = weights

    def loss(
        self,
        net: Callable[..., Tensor],
        x: Tensor,
        cond: Tensor,
        generator: torch.Generator,
        target: Callable[..., Tensor] | None = None,
    ) -> Tensor:
        """sqrt(error^2 + c^2) - c, mean over D, between the ends that net sees from t and target from s.

        x: (B, D), of about unit variance.  cond: (B, C), or (B, 2C), see Teacher.  generator: on the device of x.
        target: the moving average of net (decay 0.95 in latent consistency models), or net itself.  Returns (B,).
        """
        target, w = needed(target, self), self.teacher.draw(x, generator)
        t, s = draw_interval(x, generator, self.train_steps // self.skip)
        x_t = between(x, draw_noise(x, generator), t)
        x_s = euler_step(lambda x, t: self.teacher.velocity(x, cond, t, *w), x_t, t, s)
        seen = self.teacher.seen(cond)
        with torch.no_grad():
            wanted = self.end(target, x_s, seen, s, *w)
        squares = weighed(self.end(net, x_t, seen, t, *w) - wanted, self.weights).square()
        return ((squares + self.huber**2).sqrt() - self.huber).mean(dim=-1)

    def end(self, net: Callable[..., Tensor], x: Tensor, cond: Tensor, t: Tensor, *w: Tensor) -> Tensor:
        """f(x, t, w), the end at t = 0 of the path through x at t.  Returns (B, D)."""
        tau, a = 10 * self.train_steps * t[:, None], 0.5
        skip, out = a**2 / (tau**2 + a**2), tau / (tau**2 + a**2).sqrt()
        return skip * x + out * (x - t[:, None] * net(x, cond, t, *w))

    def sample(
        self,
        net: Callable[..., Tensor],
        cond: Tensor,
        noise: Tensor,
        steps: int = 1,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """One sample per row by `jump_and_renoise`; cond: (B, C), what the student sees.  Returns (B, D)."""
        return jump_and_renoise(self.end, net, cond, noise, steps, generator, *self.teacher.chosen(noise))
