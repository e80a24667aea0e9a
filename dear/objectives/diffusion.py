"""Denoising diffusion: learn to tell the noise in a noisy token, and draw by removing it step by step."""

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor


class Diffusion:
    """Learn to draw x given cond by removing noise from x_t; drawing takes many passes of the net (DDPM).

        x_t = sqrt(abar_t) x + sqrt(1 - abar_t) eps        (Ho et al. 2020, eq. 4)

    The time that the net sees is t = index / train_steps, a float in [0, 1), 0 being nearly clean.

    train_steps: number of noise levels.  repeats: draws of (eps, t) per row of x in one loss.
    schedule: "cosine" (Nichol and Dhariwal 2021, as MAR has it) or "linear" (Ho et al. 2020).
    prediction: what the net's output means. "epsilon": the noise (MAR, IMPACT). "v": sqrt(abar) eps - sqrt(1 - abar) x
    (Salimans and Ho 2022, appendix D). In terms of x their losses are weighted by SNR and by SNR + 1, with
    SNR = abar / (1 - abar): where noise is strong, and only h can tell what to draw, "epsilon" hardly counts. A
    classroom teacher of 1200 steps with "epsilon" lost 3 per cent without its caption and drew as if it had none.
    temperature: factor on the noise of every reverse step, MAR's; 1 draws from the model.
    clip: bound on |x| as predicted inside the sampler, None for none. With "epsilon" the first step of the cosine
    schedule multiplies an error by sqrt(abar_s / abar_t), about 300 at 100 steps: without a bound a classroom head
    after 3000 training steps drew tokens of standard deviation 1000 instead of 0.79; with bounds from 2.5 to 8, 0.79
    to 0.80.
    """

    times, needs_target = 1, False

    def __init__(
        self,
        train_steps: int = 1000,
        repeats: int = 4,
        schedule: str = "cosine",
        temperature: float = 1.0,
        clip: float | None = 5.0,
        prediction: str = "v",
    ):
        if train_steps < 1 or repeats < 1:
            raise ValueError(f"train_steps and repeats must be at least 1, got {train_steps} and {repeats}")
        if temperature < 0 or (clip is not None and clip <= 0):
            raise ValueError(f"temperature must be >= 0 and clip > 0 or None, got {temperature} and {clip}")
        self.train_steps, self.repeats, self.temperature, self.clip = train_steps, repeats, temperature, clip
        if prediction not in ("epsilon", "v"):
            raise ValueError(f"prediction must be 'epsilon' or 'v', got {prediction!r}")
        self.prediction, self.schedule = prediction, schedule
        self.betas = _betas(schedule, train_steps)
        self.alphas_cumprod = torch.cumprod(1 - self.betas, dim=0)

    def loss(
        self, net: Callable[..., Tensor], x: Tensor, cond: Tensor, generator: torch.Generator, target=None
    ) -> Tensor:
        """Squared error of the prediction, mean over D and over the repeats, by one call of net(x_t, cond, t).

        x: (B, D), of about unit variance.  cond: (B, C).  generator: on the device of x.  target: not needed.
        Returns (B,).
        """
        rows, width = x.shape
        x, cond = x.repeat(self.repeats, 1), cond.repeat(self.repeats, 1)
        index = torch.randint(self.train_steps, (len(x),), generator=generator, device=x.device)
        noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        signal, sigma = (part.sqrt().to(x)[index, None] for part in (self.alphas_cumprod, 1 - self.alphas_cumprod))
        noisy = signal * x + sigma * noise
        wanted = noise if self.prediction == "epsilon" else signal * noise - sigma * x
        predicted = net(noisy, cond, index.to(x) / self.train_steps)
        return (predicted - wanted).square().mean(dim=-1).view(self.repeats, rows).mean(dim=0)

    def cooled(self, temperature: float) -> "Diffusion":
        """The same objective, the noise of whose reverse steps is multiplied by `temperature` once more."""
        other = copy.copy(self)
        other.temperature = self.temperature * temperature
        return other

    def sample(
        self,
        net: Callable[..., Tensor],
        cond: Tensor,
        noise: Tensor,
        steps: int = 100,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """One sample per row by `steps` ancestral steps on evenly respaced times (Ho et al. 2020, algorithm 2).

            x_s = posterior mean of (x_t, x0) + temperature sqrt(beta~) z,   beta~ = (1 - abar_s)/(1 - abar_t) beta
                                                                            (eq. 7; beta = 1 - abar_t/abar_s)

        The last step adds no noise. With few steps beta~ is a little small: from the exact eps of N(0, s^2),
        100 steps draw a standard deviation of 0.97 s for s = 1 and 0.88 s for s = 0.1; 1000 steps 1.00 s and 0.98 s.

        cond: (B, C).  noise: (B, D), N(0, I).  steps: 1 to train_steps.
        generator: on the device of noise, draws z; None: torch's own.  Returns (B, D).
        """
        if not 1 <= steps <= self.train_steps:
            raise ValueError(f"steps must lie in 1..{self.train_steps}, got {steps}")
        indices = respaced(self.train_steps, steps)
        x = noise
        for index, following in zip(indices, [*indices[1:], None], strict=True):
            abar_t = float(self.alphas_cumprod[index])
            abar_s = 1.0 if following is None else float(self.alphas_cumprod[following])
            beta = 1 - abar_t / abar_s
            predicted = net(x, cond, x.new_full((len(x),), index / self.train_steps))
            if self.prediction == "epsilon":
                x0 = (x - math.sqrt(1 - abar_t) * predicted) / math.sqrt(abar_t)
            else:
                x0 = math.sqrt(abar_t) * x - math.sqrt(1 - abar_t) * predicted
            if self.clip is not None:
                x0 = x0.clamp(-self.clip, self.clip)
            mean_x0 = math.sqrt(abar_s) * beta / (1 - abar_t)
            mean_x = math.sqrt(1 - beta) * (1 - abar_s) / (1 - abar_t)
            x = mean_x0 * x0 + mean_x * x
            if following is not None:
                z = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
                x = x + self.temperature * math.sqrt((1 - abar_s) / (1 - abar_t) * beta) * z
        return x


def respaced(train_steps: int, steps: int) -> list[int]:
    """The indices that `steps` reverse steps visit, from train_steps - 1 down to 0, as evenly as integers allow."""
    if steps == 1:
        return [train_steps - 1]
    return [round((train_steps - 1) * i / (steps - 1)) for i in reversed(range(steps))]


def _betas(schedule: str, train_steps: int) -> Tensor:
    """Noise added at each step, (train_steps,) float64."""
    if schedule == "linear":
        return torch.linspace(1e-4, 0.02, train_steps, dtype=torch.float64)
    if schedule == "cosine":
        # abar(u) = cos^2((u + 0.008) / 1.008 * pi / 2); capped, since the last step would remove everything.
        u = torch.linspace(0, 1, train_steps + 1, dtype=torch.float64)
        abar = torch.cos((u + 0.008) / 1.008 * math.pi / 2).square()
        return (1 - abar[1:] / abar[:-1]).clamp(max=0.999)
    raise ValueError(f"schedule must be 'cosine' or 'linear', got {schedule!r}")
