"""Consistency models: one function that takes every point of a path to the path's end, learned step by step."""

from collections.abc import Callable

import torch
from torch import Tensor

from dear.objectives.flow import between, check_steps, draw_noise, draw_uniform, heun_step, weighed
from dear.objectives.teacher import Teacher, needed

# One parametrisation for all families here: f(x, t) = x - t net(x, cond, t), so f(x, 0) = x holds by construction
# (Song et al. 2023, arXiv 2303.01469, eq. 5, has c_skip x + c_out net for the same end), and a student that starts as
# the teacher starts with the teacher's one-step guess. Its net is MeanFlow's u(x, t, 0). t = 0 is data, t = 1 noise.


class ConsistencyDistillation:
    """Learn to draw x given cond in one pass by agreeing with oneself along the guided flow of a frozen teacher.

        f(x_t, t, w) -> f_target(x_s, s, w),   x_s = one Heun step of the teacher from x_t,   s = t - 1/N
                                                        (ConsistencyTTA, Bai et al. 2023, arXiv 2309.10740, section 3)

    The paper's diffusion has its own clock and noise levels, of which it takes N = 18; here t is spaced evenly. It
    weights the squared error by a clipped signal-to-noise ratio, which is 0 at t = 1 here, so there is no weight. Its
    net gives f itself, with the data in place of f_target at s = 0. Its fine-tuning with CLAP is not done.

    teacher, guidance, null_cond, guidance_scale: as in Teacher; guidance is (0, 6) in the paper. The student is
    net(x, cond, t), or net(x, cond, t, w) with guidance.  intervals: N.  step: solver, euler_step or heun_step.
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
        step=heun_step,
        weights: Tensor | None = None,
    ):
        _check_intervals(intervals)
        self.teacher = Teacher(teacher, guidance, null_cond, guidance_scale)
        self.times, self.intervals, self.step, self.weights = 1 + self.teacher.times, intervals, step, weights

    def loss(
        self,
        net: Callable[..., Tensor],
        x: Tensor,
        cond: Tensor,
        generator: torch.Generator,
        target: Callable[..., Tensor] | None = None,
    ) -> Tensor:
        """Squared distance, mean over D, of the ends that net sees from t and target from one step further.

        x: (B, D), of about unit variance.  cond: (B, C), or (B, 2C), see Teacher.  generator: on the device of x.
        target: the moving average of net (decay 0.95 in the paper), or net itself.  Returns (B,).
        """
        target, w = needed(target, self), self.teacher.draw(x, generator)
        t, s = draw_interval(x, generator, self.intervals)
        x_t = between(x, draw_noise(x, generator), t)
        x_s = self.step(lambda x, t: self.teacher.velocity(x, cond, t, *w), x_t, t, s)
        seen = self.teacher.seen(cond)
        with torch.no_grad():
            wanted = end(target, x_s, seen, s, *w)
        return weighed(end(net, x_t, seen, t, *w) - wanted, self.weights).square().mean(dim=-1)

    def sample(
        self,
        net: Callable[..., Tensor],
        cond: Tensor,
        noise: Tensor,
        steps: int = 1,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """One sample per row by `jump_and_renoise`; cond: (B, C), what the student sees.  Returns (B, D)."""
        return jump_and_renoise(end, net, cond, noise, steps, generator, *self.teacher.chosen(noise))


class ConsistencyTraining:
    """Learn the same function without a teacher: two points of one line, from data to noise, stand for its step.

        f(x_t, t) -> f(x_s, s),   x_t and x_s on the line from x to the same n,   s = t - 1/N

    (Song et al. 2023, section 5; improved: Song and Dhariwal 2023, arXiv 2310.14189, of which this has the target
    without a moving average and the pseudo-Huber distance, but neither its law of t nor its growing N.)
    The line's step is the flow's on average, which is enough for functions affine in x; others are biased by O(1/N).

    intervals: N.  huber: c of the distance sqrt(|error|^2 + c^2) - c, 0.00054 sqrt(D) in the paper; None: squared
    error, mean over D.
    """

    times, needs_target = 1, False

    def __init__(self, intervals: int = 64, huber: float | None = None):
        _check_intervals(intervals)
        if huber is not None and huber <= 0:
            raise ValueError(f"huber must be > 0, or None for squared error, got {huber}")
        self.intervals, self.huber = intervals, huber

    def loss(
        self, net: Callable[..., Tensor], x: Tensor, cond: Tensor, generator: torch.Generator, target=None
    ) -> Tensor:
        """Distance of the ends that net sees from t and, without gradient, from s.

        x: (B, D), of about unit variance.  cond: (B, C).  generator: on the device of x.  target: not needed.
        Returns (B,).
        """
        t, s = draw_interval(x, generator, self.intervals)
        noise = draw_noise(x, generator)
        with torch.no_grad():
            wanted = end(net, between(x, noise, s), cond, s)
        squares = (end(net, between(x, noise, t), cond, t) - wanted).square()
        if self.huber is None:
            return squares.mean(dim=-1)
        return (squares.sum(dim=-1) + self.huber**2).sqrt() - self.huber

    def sample(
        self,
        net: Callable[..., Tensor],
        cond: Tensor,
        noise: Tensor,
        steps: int = 1,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """One sample per row by `jump_and_renoise`.  Returns (B, D)."""
        return jump_and_renoise(end, net, cond, noise, steps, generator)


def end(net: Callable[..., Tensor], x: Tensor, cond: Tensor, t: Tensor, *w: Tensor) -> Tensor:
    """f(x, t) = x - t net(x, cond, t, w), the end at t = 0 of the path through x at t.  Returns (B, D)."""
    return x - t[:, None] * net(x, cond, t, *w)


def draw_interval(x: Tensor, generator: torch.Generator, intervals: int) -> tuple[Tensor, Tensor]:
    """t in {1/N, 2/N, ..., 1} and s = t - 1/N, (B,) each."""
    index = (draw_uniform(x, generator) * intervals).floor()
    return (index + 1) / intervals, index / intervals


def jump_and_renoise(end_of, net, cond: Tensor, noise: Tensor, steps: int, generator, *w: Tensor) -> Tensor:
    """Jump to the end; with steps > 1, mix the end with fresh noise and jump again (Song et al. 2023, algorithm 1).

    The times are 1, (steps - 1) / steps, ..., 1 / steps; more steps are new draws, not a refinement of the first.

    end_of: (net, x, cond, t, *w) -> (B, D).  cond: (B, C).  noise: (B, D), N(0, I).  steps: at least 1.
    generator: on the device of noise, draws the fresh noise; None: torch's own.  Returns (B, D).
    """
    check_steps(steps)
    x = end_of(net, noise, cond, noise.new_ones(len(noise)), *w)
    for i in range(steps - 1, 0, -1):
        t = noise.new_full((len(noise),), i / steps)
        x = end_of(net, between(x, draw_noise(x, generator), t), cond, t, *w)
    return x


def _check_intervals(intervals: int) -> None:
    if intervals < 1:
        raise ValueError(f"intervals must be at least 1, got {intervals}")
