"""The frozen flow that the distilled objectives learn from, with or without guidance."""

from collections.abc import Callable

import torch
from torch import Tensor

from dear.objectives.flow import draw_uniform


class Teacher:
    """A velocity net under classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598), without gradients.

        v(x, t, w) = v_uncond + w (v_cond - v_uncond),   w = 1 is no guidance

    AudioLCM and the paper above write v_cond + w' (v_cond - v_uncond), so that w' = w - 1. On the straight paths of
    flow.py, guiding the velocity, the noise or the data that the net predicts is all the same.

    net: (x, cond, t) -> E[n - x | x_t], trained by Flow, or by Diffusion and given through flow.as_velocity.
    guidance: (low, high), from which each row draws its own w, which then is the student's last scalar; None: no w.
    null_cond: (C,), the condition that means none. With guidance and without null_cond, the cond of a loss is
    (B, 2C), [conditional, unconditional] side by side, as decoding.guided has it; the student sees the first half.
    guidance_scale: w of sampling, None: the middle of the range.
    """

    def __init__(
        self,
        net: Callable[..., Tensor],
        guidance: tuple[float, float] | None = None,
        null_cond: Tensor | None = None,
        guidance_scale: float | None = None,
    ):
        if guidance is None and (null_cond is not None or guidance_scale is not None):
            raise ValueError("null_cond and guidance_scale do nothing without guidance=(low, high)")
        if guidance is not None and not 0 <= guidance[0] <= guidance[1]:
            raise ValueError(f"guidance must be (low, high) with 0 <= low <= high, got {guidance}")
        self.net, self.guidance, self.null_cond = net, guidance, null_cond
        self.guidance_scale = sum(guidance) / 2 if guidance and guidance_scale is None else guidance_scale
        self.times = 0 if guidance is None else 1

    def draw(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """The student's further scalars in a loss: (w,), w (B,), or () without guidance."""
        if self.guidance is None:
            return ()
        low, high = self.guidance
        return (low + (high - low) * draw_uniform(x, generator),)

    def chosen(self, x: Tensor) -> tuple[Tensor, ...]:
        """The same in sampling: guidance_scale in every row."""
        return () if self.guidance is None else (x.new_full((len(x),), self.guidance_scale),)

    def seen(self, cond: Tensor) -> Tensor:
        """What the student sees of a loss's cond: all of it, or its conditional half."""
        return self._split(cond)[0]

    @torch.no_grad()
    def velocity(self, x: Tensor, cond: Tensor, t: Tensor, *w: Tensor) -> Tensor:
        """x: (B, D).  cond: as in the loss.  t: (B,).  w: (B,) with guidance, else left out.  Returns (B, D)."""
        if not w:
            return self.net(x, cond, t)
        both = self.net(x.repeat(2, 1), torch.cat(self._split(cond)), t.repeat(2))
        with_cond, without = both.chunk(2)
        return without + w[0][:, None] * (with_cond - without)

    def _split(self, cond: Tensor) -> tuple[Tensor, Tensor]:
        if self.guidance is None:
            return cond, cond
        if self.null_cond is not None:
            return cond, self.null_cond.to(cond).expand_as(cond)
        if cond.shape[-1] == 0 or cond.shape[-1] % 2:
            wanted = "cond (B, 2C), [conditional, unconditional], or a null_cond"
            raise ValueError(f"guidance wants {wanted}, got cond {tuple(cond.shape)}")
        return cond.chunk(2, dim=-1)


def needed(target: Callable[..., Tensor] | None, who: object) -> Callable[..., Tensor]:
    """target, or a ValueError that says what it is."""
    if target is None:
        raise ValueError(f"{type(who).__name__} learns from target, a moving average of net (or net itself): got None")
    return target
