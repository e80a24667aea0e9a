"""AudioTurbo: learn from the noise and the sample that a teacher makes of it, so that the lines do not cross."""

from collections.abc import Callable

import torch
from torch import Tensor

from dear.objectives.flow import draw_noise, draw_uniform, follow, velocity_error
from dear.objectives.teacher import Teacher


class Rectified:
    """Learn to draw x given cond in few steps by flow matching on pairs: noise n, and x that a teacher makes of n.

        net(x_t, cond, t) -> n - x(n),   x_t = (1 - t) x(n) + t n,   x(n) = the teacher's end from n
        (AudioTurbo, Zhao et al. 2025, arXiv 2505.22106; rectified flow, Liu et al. 2023, arXiv 2209.03003, section 2)

    Where Flow pairs every x with any n, and lines cross, each n here has its own x: n - x is nearly a function of x_t,
    and one step from t = 1, which a flow spends on the mean, lands on x(n). AudioTurbo keeps its teacher's noise
    prediction and diffusion path (rectified diffusion: any one path will do); here the net is a flow's, t = 0 is data
    and t = 1 noise, since on the straight path the noise at t = 1 is known and predicts nothing.

    teacher: velocity net that makes the pairs, in every loss anew. None: they were made before, by `pairs`, as the
    paper does, and x is (B, 2D), [x(n), n] side by side.
    guidance_scale: w of the teacher; 1: none, other values want null_cond or a cond (B, 2C), see Teacher. The student
    does not see w.  teacher_steps: Euler steps from n to x(n).
    weights: (D,), a factor on each coordinate's error, as in Energy; None: all 1.
    """

    times, needs_target = 1, False

    def __init__(
        self,
        teacher: Callable[..., Tensor] | None = None,
        guidance_scale: float = 1.0,
        null_cond: Tensor | None = None,
        teacher_steps: int = 25,
        weights: Tensor | None = None,
    ):
        if teacher is None and (guidance_scale != 1 or null_cond is not None):
            raise ValueError("without a teacher the pairs are given: guidance_scale and null_cond do nothing")
        if guidance_scale == 1 and null_cond is not None:
            raise ValueError("null_cond does nothing with guidance_scale=1, which is no guidance")
        if teacher_steps < 1:
            raise ValueError(f"teacher_steps must be at least 1, got {teacher_steps}")
        guidance = None if guidance_scale == 1 else (guidance_scale, guidance_scale)
        self.teacher = None if teacher is None else Teacher(teacher, guidance, null_cond)
        self.teacher_steps, self.weights = teacher_steps, weights

    def loss(
        self, net: Callable[..., Tensor], x: Tensor, cond: Tensor, generator: torch.Generator, target=None
    ) -> Tensor:
        """Squared error of the pair's velocity, mean over D, at one uniform time a row.

        x: (B, D), of which only shape, dtype and device are used, or (B, 2D), pairs.  cond: (B, C), or (B, 2C), see
        Teacher.  generator: on the device of x.  target: not needed.  Returns (B,).
        """
        if self.teacher is None:
            if x.shape[-1] % 2:
                raise ValueError(f"without a teacher x must be pairs (B, 2D), [sample, noise], got {tuple(x.shape)}")
            x, noise = x.chunk(2, dim=-1)
        else:
            x, noise = self.pairs(x, cond, generator).chunk(2, dim=-1)
            cond = self.teacher.seen(cond)
        t = draw_uniform(x, generator)
        return velocity_error(net, x, noise, cond, t, weights=self.weights)

    def pairs(self, x: Tensor, cond: Tensor, generator: torch.Generator) -> Tensor:
        """[x(n), n] for fresh noise of the shape of x, without gradient.  x: (B, D).  Returns (B, 2D)."""
        if self.teacher is None:
            raise ValueError("pairs are made by a teacher: got None")
        noise, w = draw_noise(x, generator), self.teacher.draw(x, generator)
        end = follow(lambda x, t: self.teacher.velocity(x, cond, t, *w), noise, self.teacher_steps)
        return torch.cat([end, noise], dim=-1)

    def sample(
        self,
        net: Callable[..., Tensor],
        cond: Tensor,
        noise: Tensor,
        steps: int = 1,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """One sample per row by `steps` equal Euler steps from t = 1 to 0; the generator is not used.

        cond: (B, C), what the student sees.  noise: (B, D), N(0, I).  steps: at least 1.  Returns (B, D).
        """
        return follow(lambda x, t: net(x, cond, t), noise, steps)
