"""The head: from noise and a hidden state to one token."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class HeadConfig:
    """Size and wiring of an AdaLNHead.

    token_dim: D, size of what comes out.  noise_dim: size of what goes in, None: D.  cond_dim: C, size of h.
    width, depth: of the residual blocks.  times: how many times the net takes, 0 for energy, 1 for diffusion.
    main: "noise" (the paper's choice): the noise is the main stream, h steers it through adaLN; "hidden": reversed.
    time_scale: radians that the fastest of a time's features turns through from t = 0 to t = 1. 1000 tells all
    levels of a diffusion apart; a loss with a time derivative in it (MeanFlow) wants about 10.
    """

    token_dim: int = 64
    noise_dim: int | None = None
    cond_dim: int = 160
    width: int = 192
    depth: int = 3
    times: int = 0
    main: str = "noise"
    time_scale: float = 1000.0


class AdaLNHead(nn.Module):
    """A residual MLP whose layers are shifted, scaled and gated by a condition (MAR, arXiv 2406.11838, section 3.3)."""

    shares_condition = True  # x may have more axes in front than cond, which is then read once for all of them

    def __init__(self, config: HeadConfig):
        super().__init__()
        if config.main not in ("noise", "hidden"):
            raise ValueError(f"main must be 'noise' or 'hidden', got {config.main!r}")
        self.config = config
        self.noise_in = nn.Linear(config.noise_dim or config.token_dim, config.width)
        self.hidden_in = nn.Linear(config.cond_dim, config.width)
        self.times = nn.ModuleList(TimeEmbedding(config.width, config.time_scale) for _ in range(config.times))
        self.blocks = nn.ModuleList(Block(config.width) for _ in range(config.depth))
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(config.width, 2 * config.width))
        self.norm = nn.LayerNorm(config.width, elementwise_affine=False, eps=1e-6)
        self.out = nn.Linear(config.width, config.token_dim)
        self._initialise()

    def forward(self, x: Tensor, cond: Tensor, *times: Tensor) -> Tensor:
        """Map noise, or a noisy token, to a token, or to the noise in it.

        x: (R, noise_dim), or (m, R, noise_dim) for m samples a condition.  cond: (R, C), h.  times: each (R,), in
        [0, 1], or a guidance weight where the objective takes one.  Returns (R, D), or (m, R, D).
        """
        if len(times) != len(self.times):
            raise ValueError(f"this head was built for {len(self.times)} time(s), got {len(times)}")
        main, steer = self.noise_in(x), self.hidden_in(cond)
        if self.config.main == "hidden":
            main, steer = steer, main
        for embed, t in zip(self.times, times, strict=True):
            steer = steer + embed(t)
        for block in self.blocks:
            main = block(main, steer)
        shift, scale = self.modulation(steer).chunk(2, dim=-1)
        return self.out(modulate(self.norm(main), shift, scale))

    def _initialise(self) -> None:
        """Blocks start as the identity. What the last layer starts as depends on what the head is for.

        With a time (diffusion and its kin) the head starts at 0, as MAR's. Without one (energy) zero would make all
        samples equal, where the repulsive term has no gradient: the last layer starts random, so that outputs
        spread like tokens of unit variance. And if noise enters only through the modulation (main="hidden"),
        the modulation must not start at 0 either.
        """
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        spread = 0.02 if self.config.main == "hidden" and not self.config.times else 0.0
        for holder in (*self.blocks, self):
            nn.init.normal_(holder.modulation[-1].weight, std=spread)
        if self.config.times:
            nn.init.zeros_(self.out.weight)


class Block(nn.Module):
    """x + gate * MLP(shift + (1 + scale) * norm(x)), where shift, scale and gate are read from the condition."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 3 * width))

    def forward(self, x: Tensor, steer: Tensor) -> Tensor:
        """x, steer: (R, width).  Returns (R, width)."""
        shift, scale, gate = self.modulation(steer).chunk(3, dim=-1)
        return x + gate * self.mlp(modulate(self.norm(x), shift, scale))


class TimeEmbedding(nn.Module):
    """Sines and cosines of a time at geometrically spaced frequencies, through a small MLP."""

    def __init__(self, width: int, scale: float, features: int = 256):
        super().__init__()
        self.scale, self.features = scale, features
        self.mlp = nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        """t: (R,), in [0, 1].  Returns (R, width)."""
        half = self.features // 2
        exponents = torch.arange(half, device=t.device, dtype=t.dtype) / half
        angles = self.scale * t[:, None] * torch.exp(-math.log(10000) * exponents)
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1))


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """shift + (1 + scale) * x."""
    return torch.addcmul(shift, x, 1 + scale)
