"""AudioLDM's VAE behind the interface of `dear.vae.VAE`: log-mel <-> tokens, as IMPACT and AudioDEAR have them."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dear.audio import N_MELS
from dear.pretrained import load_pretrained, reference
from dear.vae import patchify, unpatchify


@dataclass(frozen=True)
class PretrainedVAEConfig:
    """What is asked of a VAE's sizes: mels, latent channels, log-mel bins or frames a latent step, side of a patch."""

    mels: int
    channels: int
    step: int
    steps_per_token: int


class PretrainedVAE(nn.Module):
    """A frozen AutoencoderKL of diffusers, whose latent (B, 8, T / 4, 16) makes T / 16 x 4 tokens of 8 x 4 x 4.

    name, subfolder, revision: of a folder or the hub.  dtype: of the weights; what is returned has the input's.
    patch: side of a token's square of the latent. Log-mels of 10.24 s (B, 1024, 64) become 256 tokens of 128.

    Latents are multiplied by the scaling factor of its config, so that their variance is about 1 (AudioLDM, arXiv
    2301.12503; 0.9393 for audioldm-s-full-v2). It was trained on clips without offset and with a peak of 0.5. The hub's
    weights are under CC BY-NC-SA 4.0.
    """

    def __init__(self, name: str | Path = "cvssp/audioldm-s-full-v2", subfolder: str = "vae", *,
                 revision: str | None = None, dtype: torch.dtype = torch.float32, patch: int = 4):
        super().__init__()
        told = {"name": name, "subfolder": subfolder, "revision": revision, "dtype": dtype}
        self.reference = reference(self, **told, patch=patch)
        self.model = load_pretrained("AutoencoderKL", reader=None, **told)[1]
        c = self.model.config
        if (c.in_channels, c.out_channels) != (1, 1) or c.shift_factor is not None or c.latents_mean is not None:
            raise ValueError(f"{Path(name, subfolder)} is no VAE of log-mels: wanted 1 channel in and out and latents "
                             f"that are scaled only, got {c.in_channels} and {c.out_channels} channels")
        step = 2 ** (len(c.block_out_channels) - 1)
        if N_MELS % (step * patch):
            raise ValueError(f"patch {patch} x {step} bins a latent step must divide {N_MELS} bins")
        self.config = PretrainedVAEConfig(N_MELS, c.latent_channels, step, patch)

    def posterior(self, log_mel: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (B, channels, T / step, mels / step) of log-mels (B, T, mels)."""
        c = self.config
        length = c.step * c.steps_per_token
        if log_mel.ndim != 3 or log_mel.shape[2] != c.mels or not log_mel.shape[1] or log_mel.shape[1] % length:
            shape = tuple(log_mel.shape)
            raise ValueError(f"log_mel must be (B, T, {c.mels}) with T a multiple of {length}, got {shape}")
        found = self.model.encode(log_mel[:, None].to(self.model.dtype)).latent_dist
        return found.mean.to(log_mel.dtype), found.logvar.to(log_mel.dtype)

    @torch.no_grad()
    def scaled_posterior(self, log_mel: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (B, channels, T / step, mels / step), both times the scaling factor."""
        mean, log_variance = self.posterior(log_mel)
        scale = self.model.config.scaling_factor
        return scale * mean, scale * torch.exp(0.5 * log_variance)

    @torch.no_grad()
    def encode(self, log_mel: Tensor, generator: torch.Generator | None = None, *, sample: bool = True) -> Tensor:
        """Tokens (B, N, D) of log-mels (B, T, mels), drawn from the posterior, or its mean if not `sample`.

        N = T mels / (step patch)^2 row by row, time slowest; D = channels patch^2.
        """
        mean, std = self.scaled_posterior(log_mel)
        if sample:
            mean = mean + std * torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
        return patchify(mean, self.config.steps_per_token)

    @torch.no_grad()
    def decode(self, tokens: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Log-mel (B, T, mels) of tokens (B, N, D), see `encode`; it draws nothing, so the generator is not used."""
        c = self.config
        across, width = c.mels // (c.step * c.steps_per_token), c.channels * c.steps_per_token**2
        if tokens.ndim != 3 or tokens.shape[2] != width or not tokens.shape[1] or tokens.shape[1] % across:
            shape = tuple(tokens.shape)
            raise ValueError(f"tokens must be (B, N, {width}) with N a multiple of {across}, got {shape}")
        latent = unpatchify(tokens, c.steps_per_token, tokens.shape[1] // across * c.steps_per_token)
        latent = (latent / self.model.config.scaling_factor).to(self.model.dtype)
        return self.model.decode(latent).sample[:, 0].to(tokens.dtype)
